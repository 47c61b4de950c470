// HTML in a widget's data which is a template itself: it sees the page's `data` and `state`, and `params`.
export const compiler = {
  name: 'sly-html-compiler',
  props: { template: [String, Number], data: Object, state: Object, params: Object },
  computed: {
    compiled() {
      const text = String(this.template === null || this.template === undefined ? '' : this.template);
      return { ...Vue.compile(`<span>${text}</span>`), props: ['data', 'state', 'params'] };
    },
  },
  template: '<component :is="compiled" :data="data" :state="state" :params="params"></component>',
};
