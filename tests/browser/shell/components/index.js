// Stand-ins for the platform's own components, with the attributes that the SDK's pages give them.
import { card } from './card.js';
import { chart } from './chart.js';
import { checkboxDropdown } from './checkbox_dropdown.js';
import { collapseTransition } from './collapse_transition.js';
import { editor } from './editor.js';
import { field } from './field.js';
import { gallery } from './gallery.js';
import { compiler } from './html_compiler.js';
import { icon } from './icon.js';
import { logs } from './logs.js';
import { markdown } from './markdown.js';
import { notification } from './notification.js';
import { stepper, stepperItem } from './stepper.js';
import { treeSelect } from './tree_select.js';

export const components = [
  card,
  chart,
  checkboxDropdown,
  collapseTransition,
  compiler,
  editor,
  field,
  gallery,
  icon,
  logs,
  markdown,
  notification,
  stepper,
  stepperItem,
  treeSelect,
];
