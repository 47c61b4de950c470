// A title and a description over a control.
export const field = {
  name: 'sly-field',
  props: { title: String, description: String },
  template: `
    <div class="input-label field">
      <div class="field-head">
        <slot name="icon"></slot>
        <div>
          <div class="field-title"><slot name="title">{{ title }}</slot></div>
          <div v-if="description || $slots.description" class="text-muted"><slot name="description">{{ description }}</slot></div>
        </div>
      </div>
      <div class="field-content"><slot></slot></div>
    </div>`,
};
