// A font's sign or a picture in a coloured square.
export const icon = {
  name: 'sly-icon',
  props: { options: Object },
  template: `
    <span v-if="options" class="field-icon" :style="{ color: options.color, background: options.bgColor }">
      <img v-if="options.imageUrl" :src="options.imageUrl">
      <i v-else :class="options.className"></i>
    </span>`,
};
