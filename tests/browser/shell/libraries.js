// What the platform's component bundle leaves in `window`; the SDK's own scripts (fast-table) count on it.
/* global Vue, ELEMENT, _ */
Vue.config.productionTip = false;
Vue.use(ELEMENT, { locale: ELEMENT.lang.en.default });
window.sly = { packages: { lodash: _ } };
