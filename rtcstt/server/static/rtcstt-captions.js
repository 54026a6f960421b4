// <rtcstt-captions call-id="ID" server="https://HOST" token="...">: a call's captions as they come, in any page.
//
// Without `call-id` it shows what it is given: `element.show(call)` with a call of rtcstt.js, or `element.receive(event)`.
// How it looks: `size` (percent), `font` (serif, mono, readable, dyslexic), `spacing` (wide, wider), `colors` (light,
// dark, contrast, yellow), `lines` (1 to 3; else all), `times`, `unsure` (words that may be wrong are marked). It needs no framework and no style of the page's.

/** @import { CallEvent } from "./options.js" */
/** @import { Call } from "./rtcstt.js" */
/** @import { Row } from "./transcript.js" */

import { STYLE } from "./captions-style.js";
import { Reading, RtcsttError, watch } from "./reading.js";
import { Transcript, describe, minutes } from "./transcript.js";

const STATES = { speaking: "speaking", eager: "perhaps done", paused: "waiting for audio", cut: "not finished", ended: "" };
const AT_END = 24; // pixels
const SURE = 0.8;
const UNSURE = globalThis.Highlight && new Highlight(); // of all elements of the page
globalThis.CSS?.highlights?.set("rtcstt-unsure", UNSURE);
const PART = 50; // rows that are laid out together: the browser leaves out the parts that are not in view
const SPOKEN = 20; // finished turns that the live region keeps

const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {}); // importable without a DOM

export class RtcsttCaptions extends Base {
  static observedAttributes = ["call-id", "server", "token", "size"];

  /** What is shown. */
  transcript = new Transcript();
  #box;
  #list;
  #log;
  #newest;
  #empty;
  /** @type {Map<string, HTMLElement>} */
  #items = new Map();
  /** @type {Map<string, string>} */
  #spoken = new Map();
  #missed = new Set();
  /** @type {Range[]} */
  #unsure = [];
  #following = true;
  #off = () => {};
  /** @type {Reading | null} */
  #reading = null;
  #wanted = 0;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    root.adoptedStyleSheets = [style];
    this.#list = element("div", "rows");
    this.#list.setAttribute("role", "list");
    this.#empty = element("p", "empty", this.getAttribute("placeholder") ?? "Captions appear here while somebody speaks.");
    this.#box = element("div", "box");
    this.#box.tabIndex = 0;
    this.#box.setAttribute("role", "region");
    this.#box.setAttribute("aria-label", "Captions");
    const inner = element("div", "inner");
    inner.append(this.#empty, this.#list);
    this.#box.append(inner);
    this.#newest = /** @type {HTMLButtonElement} */ (element("button", "newest"));
    this.#newest.type = "button";
    this.#newest.hidden = true;
    this.#log = element("div", "log");
    this.#log.setAttribute("role", "log");
    this.#log.setAttribute("aria-label", "Finished turns");
    root.append(this.#box, this.#newest, this.#log);
    this.#box.addEventListener("scroll", () => this.#look(), { passive: true });
    this.#newest.addEventListener("click", () => (this.toNewest(), this.#box.focus()));
  }

  connectedCallback() { this.#read(); }

  disconnectedCallback() { this.#stop(); }

  /** @param {string} name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    if (name === "size") this.style.setProperty("--rtcstt-size", `${clamp(Number(now) || 100, 50, 500) / 100}`);
    else this.#read();
  }

  /** Whether the newest line is kept in view: until the reader scrolls away from it. */
  get following() { return this.#following; }

  /** What is read by `call-id`; null when nothing is. */
  get reading() { return this.#reading; }

  /** Shows a call (or a reading) from now on, below what is there. @param {Call | Reading} call */
  show(call) {
    this.#off();
    this.#off = call.on("*", (event) => this.receive(event));
  }

  /** @param {CallEvent} event */
  receive(event) {
    const rows = this.transcript.receive(event);
    if (event.type === "track.named") {
      for (const row of rows) this.#name(/** @type {HTMLElement} */ (this.#items.get(row.key)), row);
      this.dispatchEvent(new CustomEvent("named"));
      return;
    }
    if (!rows.length) return;
    this.#box.toggleAttribute("data-several", this.transcript.speakers > 1);
    for (const row of rows) this.#render(row);
    this.#empty.hidden = this.#items.size > 0;
    this.#count();
  }

  clear() {
    this.#unsure.splice(0).forEach((range) => UNSURE?.delete(range));
    this.transcript = new Transcript();
    this.#items.clear();
    this.#spoken.clear();
    this.#missed.clear();
    this.#list.replaceChildren();
    this.#log.replaceChildren();
    this.#empty.hidden = false;
    this.#count();
  }

  toNewest() {
    this.#box.scrollTop = 0;
    this.#look();
  }

  /** All of it as plain text. */
  text({ times = false } = {}) { return this.transcript.text({ times }); }

  /** @param {number} speaker From 0. @param {string} name */
  rename(speaker, name) {
    this.transcript.rename(speaker, name);
    for (const row of this.transcript.rows) {
      const item = row.speaker === speaker && this.#items.get(row.key);
      if (item) this.#name(item, row);
    }
  }

  /** The rows that contain some text. @param {string} text */
  find(text) {
    const wanted = text.trim().toLocaleLowerCase();
    const found = [];
    const ranges = [];
    for (const row of wanted ? this.transcript.rows : []) {
      const node = this.#items.get(row.key)?.querySelector(".said")?.firstChild;
      let at = node?.textContent?.toLocaleLowerCase().indexOf(wanted) ?? -1;
      if (!node || at < 0) continue;
      found.push(row);
      for (; at >= 0; at = node.textContent?.toLocaleLowerCase().indexOf(wanted, at + 1) ?? -1) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, Math.min(at + wanted.length, node.textContent?.length ?? 0));
        ranges.push(range);
      }
    }
    globalThis.CSS?.highlights?.set("rtcstt-found", new Highlight(...ranges));
    return found;
  }

  /** @param {Row} row */
  reveal(row) {
    for (const item of this.#list.querySelectorAll("[data-current]")) item.removeAttribute("data-current");
    const item = this.#items.get(row.key);
    item?.setAttribute("data-current", "");
    item?.scrollIntoView({ block: "center" });
  }

  async #read() {
    const call = this.getAttribute("call-id");
    this.#stop();
    if (!call || !this.isConnected) return;
    const wanted = ++this.#wanted;
    await null; // until all attributes are set
    if (wanted !== this.#wanted) return;
    const token = this.getAttribute("token") ?? undefined;
    try {
      const reading = await watch({ call, url: this.getAttribute("server") ?? undefined, token });
      if (wanted !== this.#wanted) return reading.close();
      this.#reading = reading;
      this.show(reading);
      this.dispatchEvent(new CustomEvent("reading", { detail: reading }));
    } catch (error) {
      const words = error instanceof RtcsttError ? error.message : String(error);
      this.#empty.textContent = words;
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
  }

  #stop() {
    this.#wanted++;
    this.#reading?.close();
    this.#reading = null;
  }

  /** @param {Row} row */
  #render(row) {
    const item = this.#items.get(row.key) ?? this.#place(row);
    const said = /** @type {HTMLElement} */ (item.querySelector(".said"));
    if (row.kind !== "turn") {
      setText(said, describe(row));
      if (row.kind !== "keys") this.#say(row, describe(row)); // a key at a time would only disturb
      return;
    }
    setText(said, row.text);
    setText(/** @type {HTMLElement} */ (item.querySelector(".state")), STATES[row.state]);
    item.dataset.state = row.state;
    item.toggleAttribute("data-repaired", row.repaired);
    const hidden = isEmpty(row);
    if (item.hidden !== hidden) {
      item.hidden = hidden;
      this.#join(this.transcript.rows.lastIndexOf(row) + 1);
    }
    if (!this.following) this.#missed.add(row.key);
    if (row.state !== "ended") return;
    this.#doubt(said, row.confidence);
    this.#say(row, row.text);
  }

  /** Words of which the recogniser is not sure; shown with the attribute `unsure`. @param {HTMLElement} said
   * @param {number[]} confidence */
  #doubt(said, confidence) {
    const node = said.firstChild;
    const words = [...(node?.textContent ?? "").matchAll(/\S+/g)];
    if (!node || words.length !== confidence.length) return;
    words.forEach((word, index) => {
      if (confidence[index] >= SURE) return;
      const range = new Range();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      UNSURE?.add(range);
      this.#unsure.push(range);
    });
  }

  /** @param {Row} row */
  #place(row) {
    const item = element("div", `row ${row.kind}`);
    item.setAttribute("role", "listitem");
    if (row.speaker >= 0) item.dataset.speaker = String(row.speaker % 4);
    item.dir = "auto"; // of what is said: parts with a direction of their own do not count
    const name = element("span", "name");
    name.dir = "auto";
    const when = element("time", "when", minutes(row.start));
    when.dir = "ltr";
    const who = element("div", "who");
    who.append(name, when);
    const what = element("div", "what");
    what.append(element("p", "said"), element("span", "state"));
    item.append(who, what);
    this.#name(item, row);
    const at = this.transcript.rows.lastIndexOf(row);
    const next = this.#items.get(this.transcript.rows[at + 1]?.key);
    if (next) next.before(item);
    else this.#lastPart().append(item);
    this.#items.set(row.key, item);
    this.#join(at);
    this.#join(at + 1);
    return item;
  }

  #lastPart() {
    const last = this.#list.lastElementChild;
    if (last && last.childElementCount < PART) return last;
    const part = element("div", "part");
    part.setAttribute("role", "none");
    this.#list.append(part);
    return part;
  }

  /** @param {HTMLElement} item @param {Row} row */
  #name(item, row) {
    const name = this.transcript.name(row.speaker);
    setText(/** @type {HTMLElement} */ (item.querySelector(".name")), name);
    /** @type {HTMLElement} */ (item.querySelector(".said")).dataset.name = name; // for subtitles
  }

  /** Who goes on is not named again. @param {number} at An index of `rows`. */
  #join(at) {
    const { rows } = this.transcript;
    const row = rows[at];
    let before = at - 1;
    while (before >= 0 && isEmpty(rows[before])) before--;
    const same = row?.call === rows[before]?.call && row?.speaker === rows[before]?.speaker && row?.speaker >= 0;
    if (row) this.#items.get(row.key)?.toggleAttribute("data-same", same);
  }

  /** A live region is told of finished turns and of gaps: updates would drown a screen reader.
   * @param {Row} row @param {string} whole */
  #say(row, whole) {
    const before = this.#spoken.get(row.key) ?? "";
    const text = whole.slice(whole.startsWith(before) ? before.length : 0); // manual mode continues a turn
    this.#spoken.set(row.key, whole);
    if (!text.trim()) return;
    const isNamed = row.kind === "turn" && (this.transcript.speakers > 1 || this.transcript.given(row.speaker));
    this.#log.append(element("p", "", isNamed ? `${this.transcript.name(row.speaker)}: ${text}` : text));
    while (this.#log.childElementCount > SPOKEN) this.#log.firstElementChild?.remove();
  }

  #look() {
    this.#following = this.#box.scrollTop > -AT_END; // from the end, since the box is laid out in reverse
    if (this.#following) this.#missed.clear();
    this.#count();
  }

  #count() {
    const { following } = this;
    this.#newest.hidden = following;
    if (following) return;
    setText(this.#newest, this.#missed.size ? `Newest (${this.#missed.size} new)` : "Newest");
  }
}

if (globalThis.customElements && !customElements.get("rtcstt-captions")) {
  customElements.define("rtcstt-captions", RtcsttCaptions);
}

/** Of a turn that ended without text nothing is shown. @param {Row} row */
const isEmpty = (row) => row.kind === "turn" && row.state === "ended" && !row.text.trim();

/** @param {string} tag @param {string} className */
function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** @param {HTMLElement} item @param {string} text */
function setText(item, text) {
  if (item.textContent !== text) item.textContent = text;
}

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
