// Text with line numbers and, for YAML, colours. `options` are those of the platform's editor.
/* global CodeMirror */
export const editor = {
  name: 'sly-editor',
  props: { value: String, options: Object },
  emits: ['input'],
  mounted() {
    const { mode, readOnly, showGutter, height, maxLines } = this.options || {};
    this.mirror = CodeMirror(this.$refs.text, {
      value: this.value || '',
      mode: (mode || '').split('/').pop(),
      readOnly: Boolean(readOnly),
      lineNumbers: showGutter !== false,
      lineWrapping: false,
      viewportMargin: maxLines ? Infinity : 10,
    });
    this.mirror.setSize(null, maxLines ? 'auto' : height || '300px');
    this.mirror.getScrollerElement().style.maxHeight = maxLines ? `${maxLines * 20}px` : '';
    this.mirror.on('change', () => this.$emit('input', this.mirror.getValue()));
    // an editor in a part of the page that is not shown yet has no size
    this.sizes = new ResizeObserver(() => this.mirror.refresh());
    this.sizes.observe(this.$refs.text);
  },
  beforeDestroy() {
    this.sizes.disconnect();
  },
  watch: {
    value(text) {
      if (this.mirror.getValue() !== text) {
        this.mirror.setValue(text || '');
      }
    },
    'options.readOnly'(value) {
      this.mirror.setOption('readOnly', Boolean(value));
    },
  },
  template: `
    <div class="editor">
      <div class="editor-controls"><slot name="controls"></slot></div>
      <div ref="text"></div>
    </div>`,
};
