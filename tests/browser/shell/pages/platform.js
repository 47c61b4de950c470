// What the pages of the local platform have in common.
import { components } from '../components/index.js';
import { publicApi } from '../platform_api.js';

/** Shows a component as the whole page; it finds `account` and `call(method, body)` as properties. */
export async function show(title, component) {
  const account = await (await fetch('/local/session')).json();
  const api = publicApi('/', account.API_TOKEN);
  components.forEach((one) => Vue.component(one.name, one));
  document.title = title;
  new Vue({
    el: '#page',
    components: { 'own-content': component },
    data: { account, title },
    methods: { call: async (method, body) => (await api.post(method, body)).data },
    template: `
      <div class="own-page">
        <div class="session-header"><a href="/">local platform</a><strong>{{ title }}</strong></div>
        <own-content :account="account" :call="call"></own-content>
      </div>`,
  });
}

/** All of a list, which the platform hands out in pages. */
export async function all(call, method, body) {
  const first = await call(method, { ...body, page: 1 });
  const rest = [];
  for (let page = 2; page <= first.pagesCount; page += 1) {
    rest.push(...(await call(method, { ...body, page })).entities);
  }
  return [...first.entities, ...rest];
}
