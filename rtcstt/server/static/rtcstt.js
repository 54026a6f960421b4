// Live calls into text, from a page: a MediaStream in, the call's events out.
//
//   import { connect } from "https://HOST/rtcstt.js";
//   const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
//   const call = await connect({ stream });
//   call.on("turn.update", (event) => show(event.track, event.turn, event.transcript));
//   call.on("turn.end", (event) => keep(event.track, event.turn, event.transcript));
//   await call.close();
//
// Events come over a data channel of the call, or as server-sent events where it does not open: each once and in
// order, also across a lost connection, which is made again with the same call. The stream stays yours: stop it
// yourself. The types of events and options are in events.d.ts and options.d.ts; `npm run types` makes rtcstt.d.ts from this file.

/** @import { CallFile, ConnectOptions, Ending, TurnSettings } from "./options.js" */

import { Link, when } from "./link.js";
import { Events, Feed, NO_USE, Reading, RtcsttError, Server, messageOf, sleep, watch } from "./reading.js";

export { Events, Reading, RtcsttError, watch };

const TAIL_MS = 250; // what was just said is still in the encoder and on the wire
const CHANNEL_MS = 3000;
const DRAIN_MS = 65_000; // the server's own limit is 60 s
const OVERLAP_MS = 500;
const OFTEN_RECOVERS_MS = 2500; // ICE brings back most connections that are only "disconnected"
const RESUME_MS = 45_000; // the server's default grace is 30 s
const FINAL = ["call_ended", "no_webrtc"];
const OPTIONS = ["stream", "url", "mode", "token", "label", "metadata", "iceServers"];
OPTIONS.push("language", "keyterms", "turn", "signal");

/**
 * Places a call. Listeners added right after `await connect()` miss nothing.
 * @param {ConnectOptions} options
 * @returns {Promise<Call>} Rejects with an `RtcsttError`, or with the signal's reason.
 */
export async function connect(options) {
  const unknown = Object.keys(options ?? {}).find((name) => !OPTIONS.includes(name));
  if (unknown) throw new RtcsttError("bad_option", `connect takes no option "${unknown}".`);
  const streams = [options?.stream].flat();
  if (!streams.every((stream) => typeof stream?.getAudioTracks === "function")) {
    throw new RtcsttError("bad_option", "stream must be a MediaStream, or a list of them.");
  }
  if (!streams.some((stream) => stream.getAudioTracks().length)) {
    throw new RtcsttError("no_audio", "The stream has no audio track.");
  }
  return Call.place(options);
}

const isFinal = (/** @type {any} */ error) => FINAL.includes(error?.code) || NO_USE.includes(error?.status);

/** @param {string} sdp @param {ConnectOptions} options @param {string} id @param {string | undefined} resume */
function offer(sdp, { mode, label, metadata, language, keyterms, turn }, id, resume) {
  const about = id ? { call: id, resume } : { mode, label, metadata, language, keyterms, turn };
  const body = JSON.stringify({ sdp, type: "offer", ...about });
  return { method: "POST", headers: { "Content-Type": "application/json" }, body };
}

/** A call of one's own: `connect` makes it. */
export class Call extends Events {
  #feed;
  #server;
  #options;
  #tracks;
  #id = "";
  /** What the server takes this call up again for. @type {string | undefined} */
  #secret;
  /** @type {Link | null} */
  #link = null;
  /** The one before it, until the server is received over the new one. @type {Link | null} */
  #before = null;
  /** @type {Promise<void> | null} */
  #following = null;
  #resuming = false;
  #moving = false;
  /** @type {Promise<Ending> | null} */
  #closing = null;
  #releaseTimer = 0;
  #nudge = () => {}; // ends a pause between attempts
  #stop = new AbortController();

  /** @private @param {ConnectOptions} options @param {Feed} feed */
  constructor(options, feed) {
    super(feed);
    this.#feed = feed;
    this.#server = Server.at(options.url, options.token);
    this.#options = options;
    this.#tracks = [options.stream].flat().flatMap((stream) => stream.getAudioTracks());
  }

  /** The server's id of this call. */
  get id() { return this.#id; }

  get muted() { return this.#tracks.every((track) => !track.enabled); }

  /** Whether something comes from the server now. */
  get connected() { return this.#link?.works ?? false; }

  /** @param {ConnectOptions} options */
  static async place(options) {
    const { signal } = options;
    signal?.throwIfAborted();
    const call = new Call(options, new Feed());
    const abort = () => (call.state === "connecting" ? call.#stop.abort(signal?.reason) : void call.close());
    const online = () => call.#nudge();
    signal?.addEventListener("abort", abort);
    addEventListener("online", online);
    call.ended.then(() => (signal?.removeEventListener("abort", abort), removeEventListener("online", online)));
    try {
      await call.#connect();
    } catch (error) {
      call.#finish(messageOf(error));
      if (call.id) call.#delete();
      throw error;
    }
    if (call.state === "connecting") call.#feed.setState("live");
    call.#feed.letOut();
    return call;
  }

  mute(muted = true) {
    this.#tracks.forEach((track) => (track.enabled = !muted));
  }

  /** Push-to-talk: from here on the caller is transcribed. */
  press() {
    clearTimeout(this.#releaseTimer);
    this.mute(false);
  }

  /** Push-to-talk: mutes and finalizes, a moment later, so that the last word is whole. */
  release() {
    clearTimeout(this.#releaseTimer);
    this.#releaseTimer = setTimeout(() => (this.mute(), this.finalize()), TAIL_MS);
  }

  /** Manual mode: asks for the text of all that was said until now. False when no data channel is open. */
  finalize() {
    return this.#send({ type: "finalize" });
  }

  /**
   * Changes turn detection, e.g. `{ end_timeout_ms: 900 }`. False when no data channel is open.
   * @param {TurnSettings} turn
   */
  configure(turn) {
    return this.#send({ type: "config", turn });
  }

  /**
   * Who speaks on a track, for everybody who reads along and in the call's captions. False when no data channel is open.
   * @param {string} track
   * @param {string} speaker
   */
  name(track, speaker) {
    return this.#send({ type: "name", track, speaker });
  }

  /**
   * Another microphone in mid-call.
   * @param {MediaStreamTrack} track
   */
  async replaceTrack(track, index = 0) {
    track.enabled = this.#tracks[index].enabled;
    this.#tracks[index] = track;
    await this.#link?.pc.getSenders()[index].replaceTrack(track);
  }

  /**
   * Something of this call over HTTP: `""` for its state, `"captions.vtt"`, `"transcript.json"`...
   * @param {CallFile} [name]
   */
  fetch(name = "") {
    return this.#server.fetch(this.#id, name);
  }

  /** Hangs up; resolves when every event still due has come, and says whether all did. */
  close() {
    return (this.#closing ??= this.#hangUp());
  }

  async #hangUp() {
    if (this.state === "closed") return this.ended;
    this.#feed.setState("closing");
    await sleep(TAIL_MS);
    const asked = this.#send({ type: "close" });
    if (!asked || !this.connected) {
      this.#delete();
      this.#follow();
    }
    await Promise.race([this.ended, sleep(DRAIN_MS)]);
    this.#finish("closed");
    return this.ended;
  }

  async #connect() {
    const { signal } = this.#stop;
    const ask = async () => (await (await this.#server.request("ice-servers", { signal })).json()).iceServers;
    const iceServers = this.#options.iceServers ?? (await ask());
    signal.throwIfAborted();
    const link = new Link(iceServers, this.#tracks, (text) => this.#receive(link, text));
    try {
      const body = offer(await link.offer(signal), this.#options, this.#id, this.#secret);
      const answer = await (await this.#server.request("offer", { ...body, signal })).json();
      this.#secret = answer.resume;
      this.#id = answer.call;
      await link.accept(answer.sdp, signal);
    } catch (error) {
      link.close();
      throw error;
    }
    const before = (this.#before = this.#link);
    const opened = when(link.channel, "open", () => link.channel.readyState !== "connecting", CHANNEL_MS);
    // Until the server has its first packet over the new one, and commands have a way there.
    Promise.all([opened, sleep(OVERLAP_MS)]).then(() => before?.close());
    this.#link = link;
    link.onchange = () => this.#look(link);
    link.watch(this.#server);
    link.channel.onclose = () => link === this.#link && this.#follow();
    opened.then(() => {
      if (link === this.#link && link.channel.readyState !== "open") this.#follow();
    });
  }

  /** @param {Link} link @param {string} text */
  #receive(link, text) {
    link.received();
    const event = this.#feed.receive(text);
    if (event?.type === "session.end") this.#finish("ended");
    if (event?.type === "session.move") this.#move();
  }

  /** The connection changed: it may be lost, or be back. @param {Link} link */
  #look(link) {
    if (link !== this.#link) return;
    this.#nudge();
    if (link.works && this.state === "resuming") this.#feed.setState("live");
    else if (!link.works && this.state === "live") this.#resume(link);
    else if (!link.works && this.state === "closing") this.#follow();
  }

  /** Offers again with the call's id, so that transcript and clock go on, unless the old connection comes back.
   * @param {Link} link */
  async #resume(link) {
    if (this.#resuming) return void this.#feed.setState("resuming");
    this.#resuming = true;
    this.#feed.setState("resuming");
    let error = null;
    let deadline = performance.now() + RESUME_MS;
    await this.#pause(link.isOver ? 0 : OFTEN_RECOVERS_MS, () => link.isOver);
    for (let wait = 500; this.state === "resuming"; wait = Math.min(2 * wait, 4000)) {
      error = await this.#connect().then(() => null, (reason) => reason);
      if (error?.code === "call_connected") {
        // The server still gets the audio of the old connection: it is whole, or will soon be given up there too.
        if (this.#link?.pc.connectionState === "connected") this.#link.received();
        deadline = performance.now() + RESUME_MS;
        wait = 500;
      }
      if (this.#link) this.#look(this.#link);
      if (isFinal(error) || performance.now() > deadline) break;
      if (this.state === "resuming") await this.#pause(wait);
    }
    this.#resuming = false;
    if (this.state === "resuming") {
      await this.#follow(); // the call may have ended, and its last events be there
      this.#finish(error?.message ?? "");
    }
    this.#settle();
  }

  /** The server wants to be rid of the call: another connection first, and only then an end to this one. */
  async #move() {
    if (this.#moving) return;
    this.#moving = true;
    for (let wait = 250; ["live", "resuming"].includes(this.state); wait = Math.min(2 * wait, 4000)) {
      const error = await this.#connect().then(() => null, (reason) => reason);
      if (error === null || isFinal(error) || this.#resuming) break;
      await this.#pause(wait);
    }
    this.#moving = false;
    this.#settle();
  }

  /** A connection that was made after the end, or after `close`, has no use. */
  #settle() {
    if (this.state === "closed") this.#link?.close();
    else if (this.state === "closing") this.#send({ type: "close" });
  }

  /** @param {number} ms @param {() => boolean} [enough] */
  #pause(ms, enough = () => true) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#nudge = () => enough() && (clearTimeout(timer), resolve(undefined));
    });
  }

  /** Reads server-sent events from where the data channel stopped, until the call ends or the server is lost. */
  #follow() {
    return (this.#following ??= this.#readEvents().finally(() => (this.#following = null)));
  }

  async #readEvents() {
    const feed = this.#feed;
    for (let wait = 500; this.state !== "closed"; wait *= 2) {
      try {
        for await (const text of this.#server.events(this.#id, feed.seq, this.#stop.signal)) feed.receive(text);
      } catch (error) {
        if (this.state === "closing" && wait > 4000) this.#finish(messageOf(error));
      }
      if (this.state !== "closing") break;
      await sleep(wait);
    }
    if (this.state === "closed") this.#finish("ended");
  }

  #delete() {
    this.#server.request(`calls/${this.#id}`, { method: "DELETE" }, DRAIN_MS).catch(() => {}); // its events tell
  }

  /** @param {object} message */
  #send(message) {
    const link = [this.#link, this.#before?.works ? this.#before : null].find((one) => one?.channel.readyState === "open");
    link?.channel.send(JSON.stringify(message));
    return link !== undefined;
  }

  /** @param {string} reason */
  #finish(reason) {
    clearTimeout(this.#releaseTimer);
    this.#feed.finish(reason);
    this.#stop.abort();
    this.#link?.close();
    this.#before?.close();
    this.#nudge();
  }
}
