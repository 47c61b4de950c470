// Tabs of one session agree: what a person changes in one is seen in the others at once.
// The app itself hears of it with the next event, as on the platform.

const QUESTION = 'what do you show?';

export class Tabs {
  /** `onChange(widget, its state)` is called for changes in other tabs. */
  constructor(onChange) {
    this.known = new Map();
    this.channel = new BroadcastChannel(`session ${new URL(document.baseURI).pathname}`);
    this.channel.onmessage = ({ data }) => {
      if (data === QUESTION) {
        this.channel.postMessage(Object.fromEntries(this.known));
        return;
      }
      for (const [widget, text] of Object.entries(data)) {
        this.known.set(widget, text);
        onChange(widget, JSON.parse(text));
      }
    };
  }

  /** In a new tab: the others may show what the app has not been told yet. */
  ask() {
    this.channel.postMessage(QUESTION);
  }

  /** Remembers the state as one that every tab has. */
  agree(state) {
    this._changed(state);
  }

  /** Tells the others what differs from the state last agreed upon. */
  tell(state) {
    const changed = this._changed(state);
    if (Object.keys(changed).length) {
      this.channel.postMessage(changed);
    }
  }

  _changed(state) {
    const changed = {};
    for (const [widget, value] of Object.entries(state)) {
      const text = JSON.stringify(value);
      if (this.known.get(widget) !== text) {
        this.known.set(widget, text);
        changed[widget] = text;
      }
    }
    return changed;
  }
}
