// What is wrong at the moment, in words; each notice ends when its cause does.

import { $, h } from "./dom.js";

export const MICROPHONE = {
  InsecureContext: [
    "The browser gives no microphone to this page.",
    "It does so only over https:// or on this same machine (http://127.0.0.1). Serve rtcstt with TLS, or put a TLS " +
      "proxy before it.",
  ],
  NotAllowedError: ["The microphone may not be used.", "Allow it for this page (the icon beside the address), then press Start again."],
  NotFoundError: ["No microphone was found.", "Plug one in or choose a recording instead."],
  NotReadableError: ["The microphone is held by another program.", "Close that program, then press Start again."],
  OverconstrainedError: ["The chosen microphone is gone.", "Choose another device."],
  EncodingError: [
    "This browser cannot read that file.",
    "Try WAV, MP3, OGG or MP4; on the server, rtcstt transcribe reads more.",
  ],
  NoTabAudio: ["No audio was shared.", "Press Start again and switch on the audio in the browser's dialog."],
};

/** A failure to place a call: a title, and what to do. */
export function inWords(error, hasToken) {
  if (MICROPHONE[error.name]) return MICROPHONE[error.name];
  if (error.status === 401) {
    const title = hasToken ? "The server does not take this access token." : "This server wants an access token.";
    return [title, "Whoever runs it gives it out. Enter it above, then press Start."];
  }
  switch (error.code) {
    case "no_media_path":
      return [
        "The audio finds no way to the server.",
        "UDP is probably blocked on the way. The server's operator can run rtcstt doctor and add a TURN server.",
      ];
    case "unreachable":
      return ["The server does not answer.", "Is rtcstt serve still running?"];
    case "origin_not_allowed":
      return ["The server takes no calls from this page.", error.message];
    default: {
      const again = error.retryAfterS ? ` Try again in ${error.retryAfterS} s.` : "";
      return [error.title || "This did not work.", error.message + again];
    }
  }
}

export class Notices {
  #box = $("notices");

  show(key, title, advice = "", action = null) {
    const id = `notice-${key}`;
    const lines = [title, advice].filter(Boolean).map((text) => h("p", {}, text));
    const close = h("button", { type: "button", "aria-label": "Dismiss", onclick: () => this.settle(key) }, "×");
    const box = h("div", { id, className: "notice" }, h("div", {}, ...lines), ...(action ? [action] : []), close);
    const before = $(id);
    if (before?.textContent === box.textContent) return; // told already
    if (before) before.replaceWith(box);
    else this.#box.append(box);
  }

  settle(...keys) {
    keys.forEach((key) => $(`notice-${key}`)?.remove());
  }

  clear() {
    this.#box.replaceChildren();
  }

  /** Of the server's events those that tell of something wrong, and those that end it. */
  receive(event) {
    const { track } = event;
    switch (event.type) {
      case "audio.stalled":
        return this.show(`audio-${track}`, "No audio reaches the server.", "The captions go on when it does.");
      case "track.muted":
        return this.show(`audio-${track}`, "The caller is on hold.", "The captions go on afterwards.");
      case "track.refused":
        return this.show(`refused-${track}`, "A track is not transcribed.", event.reason);
      case "audio.ignored":
        return this.show(`ignored-${track}`, "Some audio is not received.", event.reason);
      case "audio.resumed":
      case "track.unmuted":
        return this.settle(`audio-${track}`);
      case "track.end":
        return this.settle(`audio-${track}`, `suspect-${track}`, `behind-${track}`);
      case "audio.suspect":
        return this.show(`suspect-${track}`, "The audio is not what its sender states.", `It seems to be ${event.guess}.`);
      case "stt.reconnecting":
        return this.show("stt", "The speech-to-text service is away.", "What is said now is kept for a while; a gap is marked.");
      case "stt.recovered":
        return this.settle("stt");
      case "stt.behind":
        return this.show(`behind-${track}`, `The captions are ${Math.round(event.lag)} s behind.`, "Nothing is lost; they catch up.");
      case "stt.caught_up":
        return this.#settleAll("behind");
      case "error":
        return this.show("error", event.title ?? "Error", event.message);
      case "session.end":
        this.#settleAll("audio", "suspect", "behind", "refused", "ignored");
        return this.settle("stt", "error", "silent", "device", "unplugged");
      case "turn.update":
      case "turn.end":
        return this.settle("silent"); // a voice, after all
    }
  }

  #settleAll(...kinds) {
    for (const kind of kinds) this.#box.querySelectorAll(`[id^="notice-${kind}"]`).forEach((box) => box.remove());
  }
}
