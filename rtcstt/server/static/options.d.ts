// What the client takes, and what it adds to the server's events.

import type { Gap, ServerEvent } from "./events.js";
import type { RtcsttCaptions } from "./rtcstt-captions.js";

declare global {
  interface HTMLElementTagNameMap {
    "rtcstt-captions": RtcsttCaptions;
  }
}

export type State = "connecting" | "live" | "resuming" | "closing" | "closed";

/** Of this client, not of the server: it has no `seq`. */
export interface StateChange {
  type: "state";
  state: State;
  /** Why it closed: `ended`, `closed`, or what went wrong. */
  reason: string | null;
}

export type CallEvent = ServerEvent | StateChange;

export type EventOf<T extends string> = T extends "*" ? CallEvent : Extract<CallEvent, { type: T }>;

export interface TurnSettings {
  start_threshold?: number;
  eager_end_threshold?: number;
  end_threshold?: number;
  end_timeout_ms?: number;
}

export interface ConnectOptions {
  /** Every audio track in it becomes a speaker of its own. */
  stream: MediaStream | MediaStream[];
  /** The server; by default the one this module was loaded from. */
  url?: string | URL;
  /** `auto`: the server says when turns end. `manual`: `finalize()` or `release()` does. */
  mode?: "auto" | "manual";
  token?: string;
  label?: string;
  metadata?: Record<string, unknown>;
  /** By default those that the server is given, with their logins. */
  iceServers?: RTCIceServer[];
  /** ISO 639 code of what is spoken. */
  language?: string;
  /** Terms to be recognized better. */
  keyterms?: string[];
  /** When turns begin and end (`auto` mode). */
  turn?: TurnSettings;
  /** Ends the call: while it connects `connect` rejects with the signal's reason, later it hangs up. */
  signal?: AbortSignal;
}

export interface WatchOptions {
  /** The call's id. */
  call: string;
  /** The server; by default the one this module was loaded from. */
  url?: string | URL;
  /** A token that may listen, where the server wants one. */
  token?: string;
  /** Ends the reading. */
  signal?: AbortSignal;
}

/** How a call ended: `complete` is false when text may be missing, or when the end did not come. */
export interface Ending {
  complete: boolean;
  missing: Gap[];
  reason: string;
}

/** What of a call can be fetched: `""` is its state. */
export type CallFile = "" | "captions.vtt" | "captions.srt" | "transcript.txt" | "transcript.json";
