// One peer connection to the server, for rtcstt.js.

/** @import { Server } from "./reading.js" */

import { RtcsttError } from "./reading.js";

const GATHER_MS = 1000;
const CONNECT_MS = 15_000;
const CHECK_MS = 400;
const SILENT_MS = 1000; // nothing came from the server for so long: ask it over HTTP
const PROBE_MS = 1200;
const DEAF_MS = 3500; // nothing came for so long, whatever HTTP says

/** One peer connection to the server, and whether anything comes from there. */
export class Link {
  #silentMs = 0;
  #count = -1;
  #checked = performance.now();
  #timer = 0;
  #deaf = false;
  #asking = false;

  /** Called when `works` may have changed. */
  onchange = () => {};

  /**
   * @param {RTCIceServer[]} iceServers
   * @param {MediaStreamTrack[]} tracks
   * @param {(text: string) => void} onMessage
   */
  constructor(iceServers, tracks, onMessage) {
    this.pc = new RTCPeerConnection({ iceServers });
    tracks.forEach((track) => this.pc.addTransceiver(track, { direction: "sendonly" }));
    this.channel = this.pc.createDataChannel("events");
    this.channel.onmessage = ({ data }) => onMessage(data);
  }

  get works() { return this.pc.connectionState === "connected" && !this.#deaf; }

  /** It can never work again. */
  get isOver() { return ["failed", "closed"].includes(this.pc.connectionState); }

  /** @param {AbortSignal} signal */
  async offer(signal) {
    await this.pc.setLocalDescription();
    const gathered = () => this.pc.iceGatheringState === "complete";
    await when(this.pc, "icegatheringstatechange", gathered, GATHER_MS, signal);
    return this.pc.localDescription?.sdp ?? "";
  }

  /** @param {string} sdp @param {AbortSignal} signal */
  async accept(sdp, signal) {
    await this.pc.setRemoteDescription({ type: "answer", sdp });
    const settled = () => ["connected", "failed", "closed"].includes(this.pc.connectionState);
    await when(this.pc, "connectionstatechange", settled, CONNECT_MS, signal);
    if (this.pc.connectionState !== "connected") {
      throw new RtcsttError("no_media_path", "No way for the audio to the server was found (ICE failed).");
    }
  }

  /** @param {Server} server */
  watch(server) {
    this.pc.onconnectionstatechange = () => this.onchange();
    this.#timer = setInterval(() => this.#check(server), CHECK_MS);
  }

  /** Something came. */
  received() {
    this.#silentMs = 0;
    if (!this.#deaf) return;
    this.#deaf = false;
    this.onchange();
  }

  close() {
    clearInterval(this.#timer);
    this.pc.close();
  }

  /** A server that died is not noticed by ICE for 5 to 15 s: count what comes, and ask over HTTP in between.
   * @param {Server} server */
  async #check(server) {
    if (this.#asking || this.pc.connectionState === "closed") return;
    const now = performance.now();
    const passed = Math.min(now - this.#checked, 2 * CHECK_MS); // timers stop while a laptop sleeps
    this.#checked = now;
    let count = 0;
    let isWhole = false; // Firefox counts neither ICE nor RTCP: there seconds may pass without a sign of life
    const all = await this.pc.getStats().catch(() => new Map());
    all.forEach((/** @type {any} */ stats) => {
      if (stats.type !== "transport" && stats.type !== "candidate-pair") return;
      for (const name of ["packetsReceived", "bytesReceived", "responsesReceived", "requestsReceived"]) {
        count += stats[name] ?? 0;
      }
      isWhole ||= stats.responsesReceived !== undefined;
    });
    const isNew = count !== this.#count;
    this.#count = count;
    if (isNew) return this.received();
    this.#silentMs += passed;
    if (count === 0 || this.#deaf || this.#silentMs < SILENT_MS) return; // 0: this browser does not count
    this.#asking = true;
    const isThere = (!isWhole || this.#silentMs < DEAF_MS) && (await server.isThere(PROBE_MS));
    this.#asking = false;
    if (isThere || this.#silentMs < SILENT_MS) return; // it answers, or something came meanwhile
    this.#deaf = true;
    this.onchange();
  }
}

/**
 * Resolves when `test()` holds, looked at on every event of `type`, or after `ms`; rejects when `signal` aborts.
 * @param {EventTarget} target
 * @param {string} type
 * @param {() => boolean} test
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function when(target, type, test, ms, signal) {
  return new Promise((resolve, reject) => {
    const finish = () => {
      clearTimeout(timer);
      target.removeEventListener(type, check);
      signal?.removeEventListener("abort", abort);
    };
    const abort = () => (finish(), reject(signal?.reason));
    const check = () => test() && (finish(), resolve());
    const timer = setTimeout(() => (finish(), resolve()), ms);
    target.addEventListener(type, check);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    else check();
  });
}
