// Events of calls into rows to be read: no DOM, so that any page can lay them out in its own way.

/** @import { Gap } from "./events.js" */
/** @import { CallEvent } from "./options.js" */

/**
 * `speaking`: its text may still change; `eager`: perhaps done; `paused`: no audio comes, so nothing can be added now;
 * `cut`: the call ended first; `ended`: final.
 * @typedef {"speaking" | "eager" | "paused" | "cut" | "ended"} TurnState
 */

/**
 * A line of the transcript. `kind`: `turn`; `gap`: a stretch without text; `keys`: pressed on a telephone; `call`: here
 * another call begins; `end`: it ended, and text is missing.
 * @typedef {object} Row
 * @property {"turn" | "gap" | "keys" | "call" | "end"} kind
 * @property {string} key
 * @property {string} call
 * @property {string} track
 * @property {number} speaker From 0, in the order of their coming; -1 for none.
 * @property {number} start Seconds on the call's clock.
 * @property {number} end
 * @property {string} text
 * @property {TurnState} state
 * @property {string} reason Of a gap.
 * @property {number[]} confidence How sure each of its words is, from 0 to 1; empty where that is not known.
 * @property {boolean} repaired Some of its audio was lost, and bridged by concealment.
 */

export class Transcript {
  /** In the order in which they are read. @type {Row[]} */
  rows = [];
  /** @type {Map<string, Row>} */
  #byKey = new Map();
  /** Manual mode: the part of a turn's text that cannot change. @type {Map<string, string>} */
  #final = new Map();
  /** @type {Map<string, number>} */
  #seen = new Map();
  /** @type {Map<string, number>} */
  #speakers = new Map();
  /** @type {Map<number, string>} */
  #names = new Map();

  /** How many speakers there were, of all calls. */
  get speakers() { return new Set(this.#speakers.values()).size; }

  /**
   * The rows that an event changes or adds; those that are `rows.at(n)` for the first time are new.
   * @param {CallEvent} event
   * @returns {Row[]}
   */
  receive(event) {
    if (event.type === "state") return event.state === "resuming" ? this.#halt("paused") : [];
    if (event.seq <= (this.#seen.get(event.call) ?? -1)) return []; // told a second time by another connection
    this.#seen.set(event.call, event.seq);
    switch (event.type) {
      case "session.start":
        return this.rows.length ? [this.#add({ ...empty(event), kind: "call", text: event.created ?? "" })] : [];
      case "track.start":
        this.#speaker(event.call, event.track);
        return [];
      case "track.named":
        this.rename(this.#speaker(event.call, event.track), event.speaker);
        return this.rows.filter((row) => row.call === event.call && row.track === event.track);
      case "turn.start":
      case "turn.resume":
        return [this.#turn(event, "speaking")];
      case "turn.update":
        return [this.#turn(event, "speaking", event.transcript)];
      case "turn.eager_end":
        return [this.#turn(event, "eager", event.transcript)];
      case "turn.end": {
        const row = this.#turn(event, "ended", event.transcript);
        row.confidence = event.confidence ?? [];
        row.repaired = Boolean(event.concealed);
        return [row];
      }
      case "transcript":
        return [this.#continue(event)];
      case "transcript.gap":
        return [this.#gap(event.call, event)];
      case "dtmf":
        return [this.#key(event)];
      case "audio.stalled":
      case "track.muted":
      case "track.end":
        return this.#halt("paused", event.call, event.track);
      case "session.end":
        return [...this.#halt("cut", event.call), ...this.#end(event)];
      default:
        return [];
    }
  }

  /** The track of a call whose speaker has a number. @param {string} call @param {number} speaker */
  track(call, speaker) {
    const found = [...this.#speakers].find(([key, number]) => number === speaker && key.startsWith(`${call} `));
    return found?.[0].slice(call.length + 1);
  }

  /** A name that was given. @param {number} speaker */
  given(speaker) { return this.#names.get(speaker) ?? ""; }

  /** A speaker's name, given or numbered. @param {number} speaker */
  name(speaker) {
    return speaker < 0 ? "" : (this.#names.get(speaker) || `Speaker ${speaker + 1}`);
  }

  /** @param {number} speaker @param {string} name */
  rename(speaker, name) {
    this.#names.set(speaker, name.trim().slice(0, 100));
  }

  /** All of it as plain text: verbatim for one speaker, a line for each turn with several or with times. */
  text({ times = false } = {}) {
    const spoken = this.rows.filter((row) => row.kind !== "turn" || row.text.trim());
    const verbatim = !times && this.speakers < 2;
    return spoken.map((row) => (verbatim && row.kind === "turn" ? row.text : `${this.#line(row, times)}\n`)).join("");
  }

  /** @param {Row} row @param {boolean} times */
  #line(row, times) {
    const time = times && row.kind !== "call" ? `[${minutes(row.start)}] ` : "";
    const who = row.kind === "turn" && this.speakers > 1 ? `${this.name(row.speaker)}: ` : "";
    return time + who + (row.kind === "turn" ? row.text.trim() : `[${describe(row)}]`);
  }

  /** @param {string} call @param {string} track */
  #speaker(call, track) {
    const key = `${call} ${track}`;
    const inCall = [...this.#speakers.keys()].filter((other) => other.startsWith(`${call} `)).length;
    if (!this.#speakers.has(key)) this.#speakers.set(key, inCall); // the first of each call is speaker 1
    return this.#speakers.get(key) ?? 0;
  }

  /** @param {any} event @param {TurnState} state @param {string} [text] It takes the place of the text before. */
  #turn(event, state, text) {
    const key = `${event.call} ${event.track} ${event.turn}`;
    const row = this.#byKey.get(key) ?? this.#add({ ...empty(event), key, speaker: this.#speaker(event.call, event.track) });
    row.state = state;
    row.end = event.end ?? row.end;
    if (text !== undefined) row.text = text;
    return row;
  }

  /** Manual mode: texts continue each other; one that is not final may still change. @param {any} event */
  #continue(event) {
    const row = this.#turn(event, event.is_final ? "ended" : "speaking");
    row.text = (this.#final.get(row.key) ?? "") + event.text;
    if (event.is_final) this.#final.set(row.key, row.text);
    return row;
  }

  /** @param {string} call @param {Gap} gap */
  #gap(call, { track, start, end, reason }) {
    const key = `${call} ${track} gap ${start}`;
    const speaker = this.#speaker(call, track);
    return this.#add({ ...empty({ call, track }), kind: "gap", key, speaker, start, end, reason, state: "ended" });
  }

  /** @param {any} event */
  #key(event) {
    const last = this.rows.at(-1);
    if (last?.kind === "keys" && last.call === event.call && last.track === event.track) {
      last.text += ` ${event.digit}`;
      return last;
    }
    const speaker = this.#speaker(event.call, event.track);
    const key = `${event.call} ${event.track} keys ${event.seq}`;
    return this.#add({ ...empty(event), kind: "keys", key, speaker, text: event.digit, state: "ended" });
  }

  /** Turns that can get no more text. @param {TurnState} state @param {string} [call] @param {string} [track] */
  #halt(state, call, track) {
    const open = this.rows.slice(-50).filter((row) => row.kind === "turn" && !["ended", "cut"].includes(row.state));
    const hit = open.filter((row) => (!call || row.call === call) && (!track || row.track === track));
    hit.forEach((row) => (row.state = state));
    return hit;
  }

  /** @param {any} event */
  #end(event) {
    if (event.complete !== false) return [];
    const seconds = (event.missing ?? []).reduce((/** @type {number} */ sum, /** @type {Gap} */ gap) => sum + gap.end - gap.start, 0);
    return [this.#add({ ...empty(event), kind: "end", text: seconds.toFixed(1), state: "ended" })];
  }

  /** Into its place by time, among the rows of its call. @param {Row} row */
  #add(row) {
    let place = this.rows.length;
    if (row.kind === "gap") {
      while (place > 0 && this.rows[place - 1].call === row.call && this.rows[place - 1].start > row.start) place--;
    }
    this.rows.splice(place, 0, row);
    this.#byKey.set(row.key, row);
    return row;
  }
}

const REASONS = /** @type {Record<string, string>} */ ({
  network: "the network lost it",
  stt: "the speech-to-text service was away",
  overflow: "it came faster than it may be transcribed",
  drain_timeout: "the call ended before its text came",
  server: "the server failed",
});

/** What a row says that is no turn. @param {Row} row */
export function describe(row) {
  switch (row.kind) {
    case "gap":
      return `${(row.end - row.start).toFixed(1)} s without text: ${REASONS[row.reason] ?? row.reason}`;
    case "keys":
      return `Keys pressed: ${row.text}`;
    case "call":
      return "Another call";
    case "end":
      return `This transcript is not complete: ${row.text} s of audio have no text`;
    default:
      return row.text;
  }
}

/** @param {number} seconds */
export function minutes(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** @param {any} event @returns {Row} */
function empty({ call, track = "", start, end, time = 0, seq = 0 }) {
  const place = { start: start ?? time, end: end ?? start ?? time };
  const shown = { text: "", state: /** @type {TurnState} */ ("speaking"), reason: "", confidence: /** @type {number[]} */ ([]), repaired: false };
  return { kind: "turn", key: `${call} ${seq}`, call, track, speaker: -1, ...place, ...shown };
}
