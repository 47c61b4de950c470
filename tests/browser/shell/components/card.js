// A titled box. While it is locked, a layer lies over its content, and the reason stands beside its title.
export const card = {
  name: 'sly-card',
  props: { title: String, subtitle: String, options: Object, disabled: [Boolean, Object], collapsed: Boolean },
  data() {
    return { folded: this.collapsed };
  },
  watch: {
    collapsed(value) {
      this.folded = value;
    },
  },
  computed: {
    locked() {
      return this.disabled === true || Boolean(this.disabled && this.disabled.disabled);
    },
    reason() {
      return (this.disabled && this.disabled.message) || '';
    },
    foldable() {
      return Boolean(this.options && this.options.collapsable);
    },
  },
  template: `
    <section class="card" :class="{ locked, folded }">
      <header :class="{ foldable }" @click="folded = foldable && !folded">
        <div>
          <h3>{{ title }}</h3>
          <p v-if="subtitle">{{ subtitle }}</p>
        </div>
        <slot name="header"></slot>
        <span v-if="locked" class="lock-reason"><i class="zmdi zmdi-lock-outline"></i> {{ reason || 'Locked' }}</span>
        <i v-if="foldable" class="zmdi" :class="folded ? 'zmdi-chevron-down' : 'zmdi-chevron-up'"></i>
      </header>
      <div v-show="!folded" class="content-wrapper">
        <slot></slot>
        <div v-if="locked" class="lock"></div>
      </div>
    </section>`,
};
