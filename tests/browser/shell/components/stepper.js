// Numbered cards below each other; `active` counts from 1.
export const stepper = {
  name: 'sly-stepper',
  props: { active: Number },
  template: '<div class="stepper"><slot></slot></div>',
};

export const stepperItem = {
  name: 'sly-stepper-item',
  props: { name: String },
  computed: {
    number() {
      return this.$parent.$children.filter((child) => child.$options.name === 'sly-stepper-item').indexOf(this) + 1;
    },
    kind() {
      const active = this.$parent.active;
      return this.number < active ? 'done' : this.number === active ? 'active' : 'later';
    },
  },
  data: () => ({ mounted: false }),
  mounted() {
    this.mounted = true; // only now the parent knows all of its items
  },
  template: `
    <div class="stepper-item" :class="mounted && kind">
      <div class="stepper-mark"><span v-if="mounted">{{ kind === 'done' ? '✓' : number }}</span></div>
      <div class="stepper-content"><div v-if="name" class="stepper-name">{{ name }}</div><slot></slot></div>
    </div>`,
};
