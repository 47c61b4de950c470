// Pictures with their objects in columns. `content` is `{ layout: [[names]], annotations: { name: {...} }, projectMeta }`.
import { drawFigures } from './figures.js';

const picture = {
  props: { annotation: Object, classes: Object, opacity: Number, shown: Boolean },
  async mounted() {
    await this.draw();
  },
  watch: {
    annotation: { deep: true, handler: 'draw' },
    opacity: 'draw',
    shown: 'draw',
  },
  methods: {
    async draw() {
      const image = new Image();
      image.src = this.annotation.url;
      await image.decode();
      const canvas = this.$refs.canvas;
      if (canvas) {
        Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        await drawFigures(context, this.shown ? this.annotation.figures || [] : [], this.classes, this.opacity);
      }
    },
  },
  template: '<canvas ref="canvas"></canvas>',
};

export const gallery = {
  name: 'sly-grid-gallery',
  components: { 'picture-view': picture },
  props: { content: Object, options: Object, activeFigure: [Object, Number, String] },
  emits: ['input'],
  data: () => ({ opacity: 50, shown: true }),
  computed: {
    columns() {
      const { layout, annotations } = this.content;
      return layout.map((names) => names.filter((name) => annotations[name]).map((name) => ({ name, ...annotations[name] })));
    },
    classes() {
      const classes = ((this.content.projectMeta || {}).classes || []).map(({ title, color }) => [title, color]);
      return Object.fromEntries(classes);
    },
  },
  template: `
    <div class="gallery">
      <div v-if="!options || options.showOpacityInHeader !== false" class="gallery-head">
        <el-checkbox v-model="shown">Objects</el-checkbox>
        <el-slider v-model="opacity" :show-tooltip="false"></el-slider>
      </div>
      <div class="gallery-columns">
        <div v-for="(column, index) in columns" :key="index">
          <figure v-for="annotation in column" :key="annotation.name" @click="$emit('input', annotation)">
            <picture-view :annotation="annotation" :classes="classes" :opacity="opacity / 100" :shown="shown"></picture-view>
            <slot name="card-footer" :annotation="annotation"></slot>
          </figure>
        </div>
      </div>
    </div>`,
};
