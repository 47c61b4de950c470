// A drop-down with a tree. The value is one item or, with `options.multiple`, a list; an item is `{ id, label }`, with children.
export const treeSelect = {
  name: 'sly-tree-select',
  props: { value: [Array, Object, Number, String], items: Array, options: Object, disabled: Boolean },
  emits: ['input'],
  computed: {
    multiple() {
      return Boolean(this.options && this.options.multiple);
    },
    chosen() {
      const values = this.multiple ? this.value || [] : [this.value];
      return values.filter((item) => item !== null && item !== undefined);
    },
    chosenIds() {
      return this.chosen.map((item) => (typeof item === 'object' ? item.id : item));
    },
    rows() {
      return flatten(this.items || [], 0);
    },
    shown() {
      const names = this.rows.filter(({ item }) => this.chosenIds.includes(item.id)).map(({ item }) => item.label);
      return names.join(', ');
    },
  },
  methods: {
    toggle({ item }) {
      const asObjects = !this.options || this.options.valueFormat === 'object';
      const value = asObjects ? item : item.id;
      if (!this.multiple) {
        this.$emit('input', value);
        this.$refs.popover.showPopper = false;
        return;
      }
      const others = this.chosen.filter((_, index) => this.chosenIds[index] !== item.id);
      this.$emit('input', others.length < this.chosen.length ? others : [...others, value]);
    },
  },
  template: `
    <div class="tree-select">
      <el-popover ref="popover" placement="bottom-start" trigger="click" :disabled="disabled">
        <div class="tree">
          <div v-for="row in rows" :key="row.item.id" :style="{ paddingLeft: row.depth * 20 + 'px' }">
            <el-checkbox :value="chosenIds.includes(row.item.id)" :disabled="disabled" @change="toggle(row)">
              {{ row.item.label }}</el-checkbox>
          </div>
          <div v-if="!rows.length">Nothing to choose from</div>
        </div>
      </el-popover>
      <el-input v-popover:popover readonly icon="caret-bottom" :value="shown" :disabled="disabled"
        :placeholder="(options && options.placeholder) || 'Select'"></el-input>
    </div>`,
};

function flatten(items, depth) {
  return items.flatMap((item) => [{ item, depth }, ...flatten(item.children || [], depth + 1)]);
}
