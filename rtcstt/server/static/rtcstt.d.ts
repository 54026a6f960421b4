/** Where an event belongs; `time`, `start` and `end` are seconds on the call's audio clock. */
export interface Placed {
  /** Per call, from 0. */
  seq: number;
  call: string;
  /** The media section's mid; each audio track is one speaker. */
  track?: string;
  time: number;
}

interface OfTurn extends Placed {
  track: string;
  /** The turn's index on its track. */
  turn: number;
  start: number;
  end: number;
  request_id?: string;
}

export interface TurnStart extends OfTurn {
  type: "turn.start";
}

/** `transcript` is the whole text of the turn so far: show it in place of the one before. */
export interface TurnUpdate extends OfTurn {
  type: "turn.update" | "turn.eager_end";
  transcript: string;
}

export interface TurnResume extends OfTurn {
  type: "turn.resume";
}

/** The turn's definitive text. Joined as they are, with nothing added or stripped, they are the whole transcript. */
export interface TurnEnd extends OfTurn {
  type: "turn.end";
  transcript: string;
}

/** Manual mode: `text` continues what came before; only `is_final` counts. */
export interface Transcript extends OfTurn {
  type: "transcript";
  is_final: boolean;
  text: string;
}

export interface FlushDone extends Placed {
  type: "flush_done";
}

/** Milliseconds of audio; `sent` is what the recogniser got. */
export interface Ledger {
  received: number;
  recovered: number;
  concealed: number;
  silence: number;
  sent: number;
  discarded: number | Record<string, number>;
}

export interface SessionStart extends Placed {
  type: "session.start";
}

export interface SessionEnd extends Placed {
  type: "session.end";
  [field: string]: unknown;
}

export interface Trouble extends Placed {
  type: "error";
  title: string;
  message: string;
  status_code?: number;
  error_code?: string;
}

export interface Notice extends Placed {
  type: "track.start" | "track.end" | "audio.stalled" | "audio.resumed" | "stt.reconnecting" | "stt.recovered";
  [field: string]: unknown;
}

export type State = "connecting" | "live" | "resuming" | "closing" | "closed";

/** Of this client, not of the server: it has no `seq`. */
export interface StateChange {
  type: "state";
  state: State;
  /** Why it closed: `ended`, `closed`, or what went wrong. */
  reason: string | null;
}

export type CallEvent =
  | TurnStart
  | TurnUpdate
  | TurnResume
  | TurnEnd
  | Transcript
  | FlushDone
  | SessionStart
  | SessionEnd
  | Trouble
  | Notice
  | StateChange;

type Named<E, T> = E extends { type: infer Names } ? (T extends Names ? E : never) : never;

export type EventOf<T extends string> = T extends "*" ? CallEvent : Named<CallEvent, T>;

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
}

export interface Call {
  readonly id: string;
  readonly state: State;
  readonly muted: boolean;
  on<T extends CallEvent["type"] | "*">(type: T, listener: (event: EventOf<T>) => void): () => void;
  mute(muted?: boolean): void;
  press(): void;
  release(): void;
  /** False when there is no open data channel to say it on; so for `configure`. */
  finalize(): boolean;
  configure(turn: TurnSettings): boolean;
  replaceTrack(track: MediaStreamTrack, index?: number): Promise<void>;
  /** Rejects with an `RtcsttError` when the server refuses. */
  fetch(name?: "" | "captions.vtt" | "captions.srt" | "transcript.txt" | "transcript.json"): Promise<Response>;
  close(): Promise<void>;
}

export class RtcsttError extends Error {
  /** The server's `error_code`, or `unreachable` or `no_media_path`. */
  readonly code: string;
  readonly title: string;
  /** The HTTP status, 0 when there was none. */
  readonly status: number;
  readonly retryAfterS: number | null;
}

export function connect(options: ConnectOptions): Promise<Call>;
