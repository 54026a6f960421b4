// A call's events and files over HTTP, for everybody who reads along; for rtcstt.js too.

/** @import { Gap, ServerEvent } from "./events.js" */
/** @import { CallEvent, CallFile, Ending, EventOf, State, WatchOptions } from "./options.js" */

const REQUEST_MS = 10_000;
const PROBE_MS = 3000;
const SILENT_MS = 2500; // a server sends something every second, be it a comment
const LOST_MS = 10_000; // silent for so long: ask again
export const NO_USE = [401, 403, 404]; // to ask again gives the same

/**
 * A refusal or failure. `code` is the server's error_code, or `bad_option`, `no_audio`, `unreachable` (no answer),
 * `origin_not_allowed` (it answers, but not to this page), `no_media_path` (no way for the audio), or `refused`.
 */
export class RtcsttError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ title?: string, status?: number, retryAfterS?: number | null }} [more]
   */
  constructor(code, message, { title = "", status = 0, retryAfterS = null } = {}) {
    super(message);
    this.name = "RtcsttError";
    /** @readonly */
    this.code = code;
    /** @readonly */
    this.title = title;
    /** The HTTP status, 0 when there was none. @readonly */
    this.status = status;
    /** When a full server may be asked again. @readonly */
    this.retryAfterS = retryAfterS;
  }
}

/**
 * Reads a call along, without taking part: its events from the first, then as they come.
 * @param {WatchOptions} options
 * @returns {Promise<Reading>} Rejects with an `RtcsttError`, or with the signal's reason.
 */
export async function watch(options) {
  if (!options?.call) throw new RtcsttError("bad_option", "call must be the id of a call.");
  return Reading.open(options);
}

/** The events of a call, each once and in order. `feed` is this module's own. */
export class Events extends EventTarget {
  #feed;
  /** How it ended, once it has. @type {Promise<Ending>} */
  ended;

  /** @param {Feed} feed */
  constructor(feed) {
    super();
    this.#feed = feed;
    this.ended = feed.ended;
    feed.listener = (event) => {
      for (const type of [event.type, "*"]) this.dispatchEvent(new CustomEvent(type, { detail: event }));
    };
  }

  get state() { return this.#feed.state; }

  /**
   * Calls `listener(event)` for every event of a type, or of all with `"*"`; returns what takes it off again.
   * @template {CallEvent["type"] | "*"} T
   * @param {T} type
   * @param {(event: EventOf<T>) => void} listener
   * @returns {() => void}
   */
  on(type, listener) {
    const unwrap = (/** @type {Event} */ event) => listener(/** @type {CustomEvent} */ (event).detail);
    this.addEventListener(type, unwrap);
    return () => this.removeEventListener(type, unwrap);
  }

  /**
   * The next event of a type; null when the call ends without one.
   * @template {CallEvent["type"]} T
   * @param {T} type
   * @returns {Promise<EventOf<T> | null>}
   */
  once(type) {
    return new Promise((resolve) => {
      const off = this.on(type, (event) => (off(), resolve(event)));
      this.ended.then(() => (off(), resolve(null)));
    });
  }

  /**
   * Every event from here on, until the call is closed. Updates that a later one of the same turn makes useless are
   * left out when the loop is slower than they come.
   * @returns {AsyncGenerator<CallEvent, void, void>}
   */
  async *[Symbol.asyncIterator]() {
    /** @type {CallEvent[]} */
    const queue = [];
    let wake = () => {};
    const off = this.on("*", (event) => {
      const last = queue.at(-1);
      const replaces = last?.type === "turn.update" && event.type === "turn.update";
      if (replaces && last.track === event.track && last.turn === event.turn) queue.pop();
      queue.push(event);
      wake();
    });
    try {
      for (;;) {
        const event = queue.shift();
        if (event) yield event;
        else if (this.state === "closed") return;
        else await new Promise((resolve) => (wake = () => resolve(undefined)));
      }
    } finally {
      off();
    }
  }
}

/** What comes from the server, told to one listener; the state; the end. */
export class Feed {
  /** @type {CallEvent[] | null} */
  #held = []; // until whoever awaits connect() could listen
  #end = (/** @type {Ending} */ _) => {};
  /** @type {Gap[]} */
  #gaps = [];
  /** The number of the newest event. */
  seq = -1;
  /** @type {State} */
  state = "connecting";
  /** @type {Promise<Ending>} */
  ended = new Promise((resolve) => (this.#end = resolve));
  listener = (/** @type {CallEvent} */ _) => {};

  /** The event; null when it is known, since a new channel tells the whole call again. @param {string} text */
  receive(text) {
    const event = /** @type {ServerEvent} */ (JSON.parse(text));
    if (event.seq <= this.seq) return null;
    this.seq = event.seq;
    if (event.type === "transcript.gap") this.#gaps.push(event);
    this.#tell(event);
    if (event.type === "session.end") {
      const missing = event.missing ?? this.#gaps;
      this.finish("ended", { complete: event.complete ?? missing.length === 0, missing });
    }
    return event;
  }

  /** Lets out what was held back, once whoever awaited the call can listen. */
  letOut() {
    setTimeout(() => {
      const held = this.#held ?? [];
      this.#held = null;
      held.forEach((event) => this.#tell(event));
    });
  }

  /** @param {State} state @param {string | null} reason */
  setState(state, reason = null) {
    if (state === this.state || this.state === "closed") return;
    this.state = state;
    this.#tell({ type: "state", state, reason });
  }

  /** @param {string} reason @param {{ complete: boolean, missing: Gap[] }} [told] */
  finish(reason, told = { complete: false, missing: this.#gaps }) {
    if (this.state === "closed") return;
    this.setState("closed", reason);
    this.#end({ ...told, reason });
  }

  /** @param {CallEvent} event */
  #tell(event) {
    if (this.#held) this.#held.push(event);
    else this.listener(event);
  }
}

/** Somebody's call, read along: `watch` makes it. */
export class Reading extends Events {
  #feed;
  #server;
  #id;
  #stop = new AbortController();

  /** @private @param {WatchOptions} options @param {Feed} feed */
  constructor(options, feed) {
    super(feed);
    this.#feed = feed;
    this.#id = options.call;
    this.#server = Server.at(options.url, options.token);
  }

  /** @param {WatchOptions} options */
  static async open(options) {
    const { signal } = options;
    signal?.throwIfAborted();
    const reading = new Reading(options, new Feed());
    await reading.fetch(); // there is such a call, and it may be read
    signal?.throwIfAborted();
    const abort = () => reading.close();
    signal?.addEventListener("abort", abort);
    reading.ended.then(() => signal?.removeEventListener("abort", abort));
    reading.#read();
    reading.#feed.letOut();
    return reading;
  }

  get id() { return this.#id; }

  /** @param {CallFile} [name] */
  fetch(name = "") {
    return this.#server.fetch(this.#id, name);
  }

  close() {
    this.#stop.abort();
    this.#feed.finish("closed");
  }

  async #read() {
    const { signal } = this.#stop;
    const feed = this.#feed;
    for (let wait = 250; feed.state !== "closed"; wait = Math.min(2 * wait, 4000)) {
      try {
        const onLife = (/** @type {boolean} */ there) => feed.setState(there ? "live" : "resuming");
        for await (const text of this.#server.events(this.#id, feed.seq, signal, onLife)) {
          wait = 250;
          feed.receive(text);
        }
      } catch (error) {
        if (NO_USE.includes(/** @type {RtcsttError} */ (error).status)) feed.finish(messageOf(error));
      }
      if (this.state === "closed") return;
      feed.setState("resuming");
      await sleep(wait);
    }
  }
}

/** HTTP to the server. */
export class Server {
  #base;
  #token;
  #reached = false;

  /** @param {URL} base @param {string} [token] */
  constructor(base, token) {
    this.#base = base;
    this.#token = token;
  }

  /** @param {string | URL | undefined} url By default where this module is from. @param {string} [token] */
  static at(url, token) {
    const base = new URL(url ?? ".", url ? document.baseURI : import.meta.url);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    return new Server(base, token);
  }

  /** @param {string} call @param {CallFile} name */
  fetch(call, name) {
    return this.request(`calls/${encodeURIComponent(call)}${name && "/" + name}`);
  }

  /**
   * @param {string} path
   * @param {Omit<RequestInit, "headers"> & { headers?: Record<string, string> }} [init]
   */
  async request(path, { headers = {}, signal, ...init } = {}, ms = REQUEST_MS) {
    if (this.#token) headers = { ...headers, Authorization: `Bearer ${this.#token}` };
    const limit = limited(ms, signal ?? undefined);
    const response = await fetch(new URL(path, this.#base), { ...init, headers, signal: limit.signal })
      .catch(async (error) => {
        signal?.throwIfAborted();
        throw await this.#unreachable(error);
      })
      .finally(limit.lift);
    this.#reached = true;
    if (response.ok) return response;
    const refusal = await response.json().catch(() => ({}));
    throw new RtcsttError(refusal.error_code ?? "refused", refusal.message ?? response.statusText, {
      title: refusal.title ?? "The server refused",
      status: response.status,
      retryAfterS: Number(response.headers.get("Retry-After")) || null,
    });
  }

  /**
   * The data of each event after number `seq`. By fetch, since an EventSource can send no token.
   * @param {string} call
   * @param {number} seq
   * @param {AbortSignal} signal
   * @param {(there: boolean) => void} onLife Told whether something comes, from the first answer on.
   */
  async *events(call, seq, signal, onLife = () => {}) {
    /** @type {Record<string, string>} */
    const headers = seq < 0 ? {} : { "Last-Event-ID": String(seq) };
    const response = await this.request(`calls/${encodeURIComponent(call)}/events`, { headers, signal });
    const body = /** @type {ReadableStream<BufferSource>} */ (response.body);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    const leave = () => void reader.cancel().catch(() => {});
    let timer = 0;
    const received = () => {
      clearTimeout(timer);
      onLife(true);
      timer = setTimeout(() => (onLife(false), (timer = setTimeout(leave, LOST_MS - SILENT_MS))), SILENT_MS);
    };
    let text = "";
    try {
      received();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        received();
        const lines = (text + part.value).split(/\r?\n/);
        text = lines.pop() ?? "";
        for (const line of lines) if (line.startsWith("data:")) yield line.slice(5);
      }
    } finally {
      clearTimeout(timer);
      leave();
    }
  }

  /** Whether anything answers, also where this page may not read the answer. */
  async isThere(ms = PROBE_MS) {
    const limit = limited(ms);
    const url = new URL("healthz", this.#base);
    const asked = fetch(url, { mode: "no-cors", cache: "no-store", signal: limit.signal });
    return asked.then(() => true, () => false).finally(limit.lift);
  }

  /** @param {unknown} error */
  async #unreachable(error) {
    if (!this.#reached && this.#base.origin !== location.origin && (await this.isThere())) {
      const advice = `Start it with --allow-origin ${location.origin}`;
      return new RtcsttError("origin_not_allowed", `The server does not take calls of this page. ${advice}`);
    }
    return new RtcsttError("unreachable", `The server does not answer: ${messageOf(error)}`);
  }
}

/** @param {number} ms @returns {Promise<void>} */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const messageOf = (/** @type {unknown} */ error) => (error instanceof Error ? error.message : String(error));

/** A signal that aborts after a time, or with another one. @param {number} ms @param {AbortSignal} [other] */
function limited(ms, other) {
  const controller = new AbortController();
  const abort = () => controller.abort(other?.reason);
  if (other?.aborted) abort();
  other?.addEventListener("abort", abort); // stays, for as long as the body is read
  const timer = setTimeout(() => controller.abort(new Error(`no answer within ${ms / 1000} s`)), ms);
  return { signal: controller.signal, lift: () => clearTimeout(timer) };
}
