// The captions: one list item per turn, updated while it is spoken.

const WORDS = { speaking: "speaking", eager: "perhaps done", ended: "" };

export class Captions {
  #list;
  #log;
  #turns = new Map(); // track and turn -> its list item
  #speakers = []; // tracks in the order they came

  /** `log` is a live region that hears of finished turns only: updates would drown a screen reader. */
  constructor(list, log) {
    this.#list = list;
    this.#log = log;
  }

  clear() {
    this.#list.replaceChildren();
    this.#log.replaceChildren();
    this.#turns.clear();
    this.#speakers = [];
  }

  receive(event) {
    switch (event.type) {
      case "track.start":
        this.speaker(event.track);
        break;
      case "turn.start":
      case "turn.resume":
        this.#show(event, "speaking");
        break;
      case "turn.update":
        this.#show(event, "speaking", event.transcript);
        break;
      case "turn.eager_end":
        this.#show(event, "eager", event.transcript);
        break;
      case "turn.end":
        this.#end(event, event.transcript);
        break;
      case "transcript":
        this.#append(event);
        break;
    }
  }

  speaker(track) {
    if (!this.#speakers.includes(track)) this.#speakers.push(track);
    return this.#speakers.indexOf(track);
  }

  /** A transcript that is cumulative takes the place of the one before. */
  #show(event, state, text) {
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 60;
    const key = `${event.track} ${event.turn}`;
    if (!this.#turns.has(key)) this.#turns.set(key, this.#item(event));
    const item = this.#turns.get(key);
    item.dataset.state = state;
    item.querySelector(".state").textContent = WORDS[state];
    if (text !== undefined) item.querySelector(".said").textContent = text;
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
    return item;
  }

  #end(event, text) {
    const item = this.#show(event, "ended", text);
    if (!text.trim()) return item.remove();
    const line = document.createElement("p");
    line.textContent = `${item.dataset.name}: ${text}`;
    this.#log.append(line);
    while (this.#log.childElementCount > 20) this.#log.firstElementChild.remove();
  }

  /** Manual mode: texts continue each other, exactly as they are; one that is not final may still change. */
  #append(event) {
    const item = this.#show(event, event.is_final ? "ended" : "speaking");
    const text = (item.final ?? "") + event.text;
    if (event.is_final) item.final = text;
    item.querySelector(".said").textContent = text;
    item.hidden = !text.trim();
  }

  #item(event) {
    const speaker = this.speaker(event.track);
    const item = document.createElement("li");
    item.className = "turn";
    item.dataset.speaker = speaker % 4;
    item.dataset.name = `Speaker ${speaker + 1}`;
    const who = element("div", "who", item.dataset.name);
    who.append(element("time", "when", minutes(event.start ?? event.time)));
    const what = element("div", "what");
    what.append(element("p", "said"), element("span", "state"));
    item.append(who, what);
    this.#list.append(item);
    return item;
  }
}

export function minutes(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}
