// <sly-app>: holds what the app shows, hands it to the page, and passes the page's events on.
import { applyPatch } from './patches.js';
import { publicApi } from './platform_api.js';
import { listen, load, postEvent } from './session.js';
import { Tabs } from './tabs.js';

export const app = {
  name: 'sly-app',
  data: () => ({ state: null, data: null, session: null, publicApiInstance: null, ended: false, connected: false }),
  async created() {
    const info = await load('session-info');
    this.publicApiInstance = publicApi(info.SERVER_ADDRESS, info.API_TOKEN);
    this.session = { taskId: Number(info.TASK_ID) };
    window.slyPlatform = { api: this.publicApiInstance, session: this.session };
    this.tabs = new Tabs((widget, value) => Vue.set(this.state, widget, value));
    await this.refresh();
    this.$watch('state', () => this.tabs.tell(this.state), { deep: true });
    listen(this.change, this.connect, this.disconnect);
  },
  methods: {
    async refresh() {
      const [state, data] = await Promise.all([load('state'), load('data')]);
      this.tabs.agree(state);
      Object.assign(this, { state, data });
      this.tabs.ask();
    },
    /** What happened between loading and listening, or while the connection was away, is not sent again. */
    async connect() {
      this.ended = false;
      await this.refresh();
      this.connected = true;
    },
    disconnect() {
      this.ended = true;
    },
    change(message) {
      try {
        for (const part of ['state', 'data']) {
          applyPatch(this[part], message[part] || []);
        }
        this.tabs.agree(this.state);
      } catch {
        this.refresh(); // it was made for what another tab shows
      }
    },
    async post(path, payload) {
      try {
        await postEvent(path, this.state, payload);
      } catch (error) {
        this.$notify.error({ title: error.title || 'The app does not answer', message: error.message, duration: 0 });
      }
    },
  },
  computed: {
    shown() {
      const { post, state, data, session, publicApiInstance } = this;
      return { post, state, data, session, publicApiInstance, isStaticVersion: this.ended };
    },
  },
  template: `
    <div v-if="data" :class="{ 'session-connected': connected }">
      <div v-if="ended" class="session-ended">
        The app has ended, or cannot be reached. What you see is the last that it sent.
      </div>
      <slot v-bind="shown"></slot>
    </div>`,
};

export const header = {
  name: 'sly-app-header',
  props: ['session', 'data', 'state'],
  data: () => ({ title: document.title }),
  template: `
    <div class="session-header">
      <a href="/" title="All that runs here">local shell</a>
      <strong>{{ title }}</strong>
      <span>session {{ session.taskId }}</span>
    </div>`,
};
