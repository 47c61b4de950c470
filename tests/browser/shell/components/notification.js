// A message in a coloured box. `options` is an object, or what the SDK writes of one.
const TYPE = /type['"]?\s*:\s*['"](\w+)/;

export const notification = {
  name: 'sly-notification-2',
  props: { options: [Object, String] },
  computed: {
    type() {
      const options = this.options || {};
      return typeof options === 'string' ? (TYPE.exec(options) || [])[1] || 'info' : options.type || 'info';
    },
  },
  template: `
    <div class="notification-box" :class="'notification-box-' + type">
      <div><strong><slot name="title"></slot></strong><slot></slot></div>
    </div>`,
};
