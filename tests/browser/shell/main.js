// Puts the page to work: the SDK's HTML inside <div id="sly-app"> is the template of a Vue application.
import { app, header } from './app.js';
import { components } from './components/index.js';

for (const component of [app, header, ...components]) {
  Vue.component(component.name, component);
}

// components of the SDK call the platform without looking at what goes wrong
window.addEventListener('unhandledrejection', ({ reason }) => {
  Vue.prototype.$notify.error({ title: 'That did not work', message: reason.message, duration: 0 });
});

window.slyApp = new Vue({ el: '#sly-app' });
document.getElementById('app-global-loading-icon').remove();
