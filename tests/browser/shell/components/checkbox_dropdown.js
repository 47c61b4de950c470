// A button that opens a list of boxes. Items are `{ id, name }`; the SDK reads ids from what is selected, and writes items.
export const checkboxDropdown = {
  name: 'sly-dropdown-checkbox-selection',
  props: { items: Array, selected: Array, label: String, options: [Object, String] },
  emits: ['update:selected'],
  computed: {
    chosen() {
      return (this.selected || []).map((item) => item.id || item);
    },
  },
  methods: {
    choose(ids) {
      this.$emit('update:selected', ids);
    },
  },
  template: `
    <el-dropdown trigger="click" :hide-on-click="false" menu-align="start">
      <el-button size="small">{{ label }}<span v-if="chosen.length"> ({{ chosen.length }})</span>
        <i class="el-icon-caret-bottom el-icon--right"></i></el-button>
      <el-dropdown-menu slot="dropdown">
        <el-checkbox-group class="dropdown-boxes" :value="chosen" @input="choose">
          <div v-for="item in items" :key="item.id"><el-checkbox :label="item.id">{{ item.name || item.id }}</el-checkbox></div>
        </el-checkbox-group>
        <div v-if="!items || !items.length" class="dropdown-boxes">Nothing to choose from</div>
      </el-dropdown-menu>
    </el-dropdown>`,
};
