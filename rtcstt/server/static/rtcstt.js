// Live calls into text, from a page: a MediaStream in, the call's events out.
//
//   import { connect } from "https://HOST/rtcstt.js";
//   const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
//   const call = await connect({ stream });
//   call.on("turn.update", (event) => show(event.turn, event.transcript));
//   call.on("turn.end", (event) => keep(event.turn, event.transcript));
//   await call.close();
//
// Types are in rtcstt.d.ts. Events come over a data channel of the call, or as server-sent events where it
// does not open: each once and in order, also across a lost connection, which is made anew with the same
// call. The stream stays yours: stop it yourself.

const TAIL_MS = 250; // what was just said is still in the encoder and on the wire
const GATHER_MS = 1000;
const CONNECT_MS = 15000;
const CHANNEL_MS = 3000;
const LOST_MS = 4000; // a connection that is only "disconnected" often mends itself
const DRAIN_MS = 15000;
const RESUME_WAITS_MS = [0, 500, 1000, 2000, 4000, 8000, 8000]; // within the server's default grace of 30 s

/** A refusal or failure. `code` is the server's error_code, or `unreachable` or `no_media_path`. */
export class RtcsttError extends Error {
  constructor(code, message, { title = "", status = 0, retryAfterS = null } = {}) {
    super(message);
    this.name = "RtcsttError";
    Object.assign(this, { code, title, status, retryAfterS });
  }
}

/** Places a call. Listeners added right after `await connect()` miss nothing. */
export async function connect(options) {
  const call = new Call(options);
  await call.start();
  return call;
}

class Call extends EventTarget {
  #options;
  #tracks;
  #base;
  #pc = null;
  #channel = null;
  #held = []; // events that came before the caller of connect() could listen
  #seq = -1;
  #following = null;
  #resuming = false;
  #closing = null;
  #releaseTimer = 0;
  #abort = new AbortController();
  #ended;
  #end;

  /** The server's id of this call. */
  id = null;
  /** connecting, live, resuming, closing or closed. */
  state = "connecting";

  constructor(options) {
    super();
    this.#options = options;
    this.#tracks = [options.stream].flat().flatMap((stream) => stream.getAudioTracks());
    this.#base = new URL(options.url ?? ".", options.url ? document.baseURI : import.meta.url);
    this.#ended = new Promise((resolve) => (this.#end = resolve));
  }

  async start() {
    try {
      await this.#connect();
    } catch (error) {
      this.#finish(error.message);
      if (this.id) this.#request(`calls/${this.id}`, { method: "DELETE" }).catch(() => {});
      throw error;
    }
    if (this.state === "connecting") this.#setState("live");
    setTimeout(() => {
      const held = this.#held;
      this.#held = null;
      held.forEach((event) => this.#dispatch(event));
    });
  }

  /** Calls `listener(event)` for every event of a type, or of all with `"*"`; returns what takes it off again. */
  on(type, listener) {
    const unwrap = ({ detail }) => listener(detail);
    this.addEventListener(type, unwrap);
    return () => this.removeEventListener(type, unwrap);
  }

  get muted() { return this.#tracks.every((track) => !track.enabled); }

  mute(muted = true) {
    this.#tracks.forEach((track) => (track.enabled = !muted));
  }

  /** Push-to-talk: from here on the caller is heard. */
  press() {
    clearTimeout(this.#releaseTimer);
    this.mute(false);
  }

  /** Push-to-talk: mutes and finalizes, a moment later, so that the last word is whole. */
  release() {
    clearTimeout(this.#releaseTimer);
    this.#releaseTimer = setTimeout(() => (this.mute(), this.finalize()), TAIL_MS);
  }

  /** Manual mode: asks for the text of all that was said until now. */
  finalize() {
    return this.#send({ type: "finalize" });
  }

  /** Changes turn detection, e.g. `{ end_timeout_ms: 900 }`. */
  configure(turn) {
    return this.#send({ type: "config", turn });
  }

  /** Another microphone in mid-call. */
  async replaceTrack(track, index = 0) {
    track.enabled = this.#tracks[index].enabled;
    this.#tracks[index] = track;
    await this.#pc.getSenders()[index].replaceTrack(track);
  }

  /** Something of this call over HTTP: `""` for its state, `"captions.vtt"`, `"transcript.json"`... */
  fetch(name = "") {
    return this.#request(`calls/${this.id}${name && "/" + name}`, { method: "GET" });
  }

  /** Hangs up; resolves when every event still due has come. */
  close() {
    return (this.#closing ??= this.#hangUp());
  }

  async #hangUp() {
    if (this.state === "closed") return;
    this.#setState("closing");
    await sleep(TAIL_MS);
    if (!this.#send({ type: "close" })) {
      this.#follow();
      await this.#request(`calls/${this.id}`, { method: "DELETE" }).catch(() => {});
    }
    await Promise.race([this.#ended, sleep(DRAIN_MS)]);
    this.#finish("closed");
  }

  async #connect() {
    const ask = async () => (await (await this.#request("ice-servers", { method: "GET" })).json()).iceServers;
    const pc = new RTCPeerConnection({ iceServers: this.#options.iceServers ?? (await ask()) });
    try {
      this.#tracks.forEach((track) => pc.addTransceiver(track, { direction: "sendonly" }));
      const channel = pc.createDataChannel("events");
      channel.onmessage = ({ data }) => this.#receive(data);
      await pc.setLocalDescription();
      await when(pc, "icegatheringstatechange", () => pc.iceGatheringState === "complete", GATHER_MS);
      const answer = await this.#offer(pc.localDescription.sdp);
      this.id = answer.call;
      await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
      const settled = () => ["connected", "failed", "closed"].includes(pc.connectionState);
      await when(pc, "connectionstatechange", settled, CONNECT_MS);
      if (pc.connectionState !== "connected") {
        throw new RtcsttError("no_media_path", "No way for the audio to the server was found (ICE failed).");
      }
      this.#pc?.close();
      this.#pc = pc;
      this.#channel = channel;
      this.#watch(pc, channel);
    } catch (error) {
      pc.close();
      throw error;
    }
  }

  async #offer(sdp) {
    const { mode, label, metadata } = this.#options;
    const body = JSON.stringify({ sdp, type: "offer", mode, label, metadata, call: this.id ?? undefined });
    const headers = { "Content-Type": "application/json" };
    return (await this.#request("offer", { method: "POST", headers, body })).json();
  }

  async #watch(pc, channel) {
    const lost = () => ["disconnected", "failed", "closed"].includes(pc.connectionState);
    pc.onconnectionstatechange = async () => {
      if (pc.connectionState === "disconnected") await when(pc, "connectionstatechange", () => !lost(), LOST_MS);
      if (lost() && pc === this.#pc) this.#resume();
    };
    channel.onclose = () => pc === this.#pc && this.#follow();
    await when(channel, "open", () => channel.readyState !== "connecting", CHANNEL_MS);
    if (channel.readyState !== "open") this.#follow();
  }

  /** Offers again with the call's id, so that transcript and clock go on. */
  async #resume() {
    if (this.#resuming || this.state !== "live") return;
    this.#resuming = true;
    this.#setState("resuming");
    let last = null;
    for (const wait of RESUME_WAITS_MS) {
      await sleep(wait);
      if (this.state !== "resuming") break;
      last = await this.#connect().then(() => null, (error) => error);
      if (last === null || ["call_ended", "call_not_found", "unauthorized"].includes(last.code)) break;
    }
    this.#resuming = false;
    if (last) await this.#follow(); // the call may have ended, and its last events be there
    if (this.state === "closed") this.#pc.close();
    else if (last) this.#finish(last.message);
    else if (this.state === "resuming") this.#setState("live");
  }

  /** Reads server-sent events from where the data channel stopped, until the call ends or the server is lost. */
  #follow() {
    return (this.#following ??= this.#readEvents().catch(() => {}).finally(() => (this.#following = null)));
  }

  async #readEvents() {
    const headers = this.#seq < 0 ? {} : { "Last-Event-ID": String(this.#seq) };
    const response = await this.#request(`calls/${this.id}/events`, { method: "GET", headers });
    for await (const data of serverSentEvents(response.body)) this.#receive(data);
  }

  async #request(path, { headers = {}, ...init }) {
    if (this.#options.token) headers = { ...headers, Authorization: `Bearer ${this.#options.token}` };
    const signal = path.endsWith("/events") ? this.#abort.signal : undefined;
    const response = await fetch(new URL(path, this.#base), { ...init, headers, signal }).catch((error) => {
      throw new RtcsttError("unreachable", `The server does not answer: ${error.message}`);
    });
    if (response.ok) return response;
    const refusal = await response.json().catch(() => ({}));
    throw new RtcsttError(refusal.error_code ?? "refused", refusal.message ?? response.statusText, {
      title: refusal.title ?? "The server refused",
      status: response.status,
      retryAfterS: Number(response.headers.get("Retry-After")) || null,
    });
  }

  #send(message) {
    if (this.#channel?.readyState !== "open") return false;
    this.#channel.send(JSON.stringify(message));
    return true;
  }

  #receive(text) {
    const event = JSON.parse(text);
    if (event.seq <= this.#seq) return; // a new channel tells the whole call again
    this.#seq = event.seq;
    this.#dispatch(event);
    if (event.type === "session.end") this.#finish("ended");
  }

  #dispatch(event) {
    if (this.#held) return void this.#held.push(event);
    for (const type of [event.type, "*"]) this.dispatchEvent(new CustomEvent(type, { detail: event }));
  }

  #setState(state, reason = null) {
    this.state = state;
    this.#dispatch({ type: "state", state, reason });
  }

  #finish(reason) {
    if (this.state === "closed") return;
    clearTimeout(this.#releaseTimer);
    this.#setState("closed", reason);
    this.#abort.abort();
    this.#pc?.close();
    this.#end();
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when `test()` holds, looked at on every event of `type`, or after `ms`. */
function when(target, type, test, ms) {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      target.removeEventListener(type, check);
      resolve();
    };
    const check = () => test() && finish();
    const timer = setTimeout(finish, ms);
    target.addEventListener(type, check);
    check();
  });
}

/** The data of each event, which the server writes on one line. By fetch, since an EventSource can send no token. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (text + part.value).split(/\r?\n/);
    text = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5);
  }
}
