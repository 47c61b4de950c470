// The app's side: what it shows, what it is told, and the changes that it sends.

/** Loads `session`, `state` and `data`. The answer is not for the app to keep as the page's state. */
export async function load(name) {
  const response = await send(`./sly/${name}`, { context: { outside_request: true } });
  return response.json();
}

/** An event of a widget: the app gets the page's whole state. */
export async function postEvent(path, state, payload) {
  return send(`.${path}`, { state, context: {}, payload: payload || {} });
}

/** Calls `onChange({ state: [...] } or { data: [...] })` for every message; `onOpen` after every (re)connection. */
export function listen(onChange, onOpen, onClose) {
  const address = new URL('./sly/ws', document.baseURI);
  address.protocol = address.protocol.replace('http', 'ws');
  const socket = new WebSocket(address);
  socket.onopen = onOpen;
  socket.onmessage = (message) => onChange(JSON.parse(message.data));
  socket.onclose = () => {
    onClose();
    setTimeout(() => listen(onChange, onOpen, onClose), 2000);
  };
}

async function send(path, body) {
  const response = await fetch(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!response.ok) {
    throw new RequestFailed(response.status, await response.text());
  }
  return response;
}

export class RequestFailed extends Error {
  constructor(status, text) {
    const detail = parse(text);
    super(detail.message || text || `the app answered with ${status}`);
    this.title = detail.title || `The app answered with ${status}`;
    this.status = status;
  }
}

function parse(text) {
  try {
    const content = JSON.parse(text);
    const detail = content.detail || content.error || content;
    return typeof detail === 'string' ? { message: detail } : detail;
  } catch {
    return {};
  }
}
