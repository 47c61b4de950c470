// The platform's API as components see it: axios' way of calling it.
import { RequestFailed } from './session.js';

/** `api.post('tasks.info', { id })` resolves to `{ data }`. */
export function publicApi(serverAddress, token) {
  const base = new URL('/public/api/v3/', new URL(serverAddress || '/', location.href));
  const api = (request) => api.post(request.url, request.data);
  api.defaults = { baseURL: base.href };
  api.post = async (method, body) => {
    const response = await fetch(new URL(method, base), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'x-api-key': token },
      body: JSON.stringify(body || {}),
    });
    if (!response.ok) {
      throw new RequestFailed(response.status, await response.text());
    }
    return { data: await response.json() };
  };
  return api;
}
