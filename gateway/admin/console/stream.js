// Server-sent events over fetch: unlike EventSource, it can send the token and report the status.

import { ask } from "./api.js";

const SILENCE = 20000; // ms; the gateway sends an event every second, at least a comment every 15 s
const WAITS = [500, 1000, 2000, 3000]; // ms before the first, second, … retry
const LONGEST = 64 * 1024 * 1024; // characters of one line

/** Cuts a stream of text into events (HTML standard, section 9.2.6, lines ended by LF); `onEvent(name, data)`. */
export function parser(onEvent) {
  let pieces = []; // of the unfinished line; joined once, because it may be long
  let length = 0;
  let name = "";
  let data = [];
  return (text) => {
    pieces.push(text);
    length += text.length;
    if (length > LONGEST) throw new Error("an endless event");
    if (!text.includes("\n")) return;
    const lines = pieces.join("").split(/\r?\n/);
    pieces = [lines.pop()];
    length = pieces[0].length;
    for (const line of lines) {
      if (line === "") {
        if (data.length) onEvent(name || "message", data.join("\n"));
        name = "";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
    }
  };
}

/**
 * Listen for good. `on(name, object)` gets each event; `onState({state, error, attempt, retryAt})` gets the states
 * "connecting", "live", "lost" and "unauthorized" (401: it waits for `retry()`).
 */
export function listen(path, on, onState) {
  let attempt = 0;
  let wake = null;
  let abort = null;

  async function once() {
    abort = new AbortController();
    let timer = setTimeout(() => abort.abort(new Error("the gateway has gone silent")), SILENCE);
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error("the gateway has gone silent")), SILENCE);
    };
    try {
      const answer = await ask(path, { signal: abort.signal, headers: { Accept: "text/event-stream" } });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const feed = parser((name, data) => on(name, JSON.parse(data)));
      let first = true;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the gateway closed the connection");
        alive();
        if (first) {
          first = false;
          attempt = 0;
          onState({ state: "live" });
        }
        feed(value);
      }
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  async function forever() {
    for (;;) {
      onState({ state: attempt ? "lost" : "connecting", attempt });
      let error;
      try {
        await once();
      } catch (caught) {
        error = caught;
      }
      attempt += 1;
      const unauthorized = error.status === 401;
      const wait = WAITS[Math.min(attempt - 1, WAITS.length - 1)];
      onState({ state: unauthorized ? "unauthorized" : "lost", error, attempt, retryAt: Date.now() + wait });
      await new Promise((resolve) => {
        wake = resolve;
        if (!unauthorized) setTimeout(resolve, wait);
      });
    }
  }

  forever();
  return {
    /** Try again now, perhaps with another token. */
    retry() {
      abort?.abort(new Error("asked again"));
      wake?.();
    },
  };
}
