// The events of a call as they come over data channels and as server-sent events (docs/http.md#events).

/** Where an event belongs. `time`, `start` and `end` are seconds on the call's audio clock. */
export interface Placed {
  /** Counts the call's events from 0. */
  seq: number;
  call: string;
  time: number;
}

/** `track` is the media section's mid: each audio track is one speaker. */
export interface OfTrack extends Placed {
  track: string;
}

export interface OfTurn extends OfTrack {
  /** The turn's index on its track: only track and turn together name it. */
  turn: number;
  start: number;
  end: number;
  request_id?: string;
}

export interface SessionStart extends Placed {
  type: "session.start";
  mode: "auto" | "manual";
  /** The speech-to-text service. */
  engine: string;
  label?: string;
  /** When the call was placed (ISO 8601). */
  created?: string;
}

export interface TrackStart extends OfTrack {
  type: "track.start";
}

export interface TrackEnd extends OfTrack {
  type: "track.end";
  reason: string;
  ledger: Ledger;
}

export interface TurnStart extends OfTurn {
  type: "turn.start";
}

/** `transcript` is the whole text of the turn so far: show it in place of the one before. */
export interface TurnUpdate extends OfTurn {
  type: "turn.update";
  transcript: string;
}

/** The speaker is perhaps done; `turn.end` or `turn.resume` follows. */
export interface TurnEagerEnd extends OfTurn {
  type: "turn.eager_end";
  transcript: string;
}

export interface TurnResume extends OfTurn {
  type: "turn.resume";
}

/** The turn's final text. Joined as they are, with nothing added or stripped, they are the whole transcript. */
export interface TurnEnd extends OfTurn {
  type: "turn.end";
  transcript: string;
}

/** Manual mode: `text` continues the text before it; only `is_final` counts. */
export interface Transcript extends OfTurn {
  type: "transcript";
  is_final: boolean;
  text: string;
}

export interface FlushDone extends Placed {
  type: "flush_done";
  track?: string;
}

export type GapReason = "network" | "stt" | "overflow" | "drain_timeout" | "server";

/** A stretch of audio that will have no text although it may have held speech. */
export interface Gap {
  track: string;
  start: number;
  end: number;
  reason: GapReason;
}

export interface TranscriptGap extends OfTrack, Gap {
  type: "transcript.gap";
  track: string;
}

export interface AudioStalled extends OfTrack {
  type: "audio.stalled";
}

export interface AudioResumed extends OfTrack {
  type: "audio.resumed";
  /** Seconds without audio. */
  stalled: number;
}

/** The sender put the track on hold, or said RTCP BYE. */
export interface TrackMuted extends OfTrack {
  type: "track.muted";
}

export interface TrackUnmuted extends OfTrack {
  type: "track.unmuted";
}

/** A section of the offer that is not taken, and why. */
export interface TrackRefused extends OfTrack {
  type: "track.refused";
  reason: string;
}

/** Packets come that are not received; said once for each reason. */
export interface AudioIgnored extends OfTrack {
  type: "audio.ignored";
  reason: string;
  payload_type?: number;
}

/** More than one source sends on this track. */
export interface AudioSources extends OfTrack {
  type: "audio.sources";
  sources: number;
}

/** The audio cannot be what its sender states; `guess` is what it seems to be. */
export interface AudioSuspect extends OfTrack {
  type: "audio.suspect";
  guess: string;
}

export interface SttReconnecting extends Placed {
  type: "stt.reconnecting";
  track?: string;
  reason: string;
  engine?: string;
}

export interface SttRecovered extends Placed {
  type: "stt.recovered";
  track?: string;
  engine?: string;
  /** Seconds that the text is late for a while. */
  lag?: number;
  /** Seconds of audio that could not be kept. */
  lost?: number;
}

export interface SttBehind extends OfTrack {
  type: "stt.behind";
  /** Seconds. */
  lag: number;
}

export interface SttCaughtUp extends Placed {
  type: "stt.caught_up";
  track?: string;
}

/** The server asks for another offer with the call's id; `connect` makes it by itself. */
export interface SessionMove extends Placed {
  type: "session.move";
  reason: string;
}

export interface Dtmf extends OfTrack {
  type: "dtmf";
  digit: string;
  duration_ms: number;
}

export interface Trouble extends Placed {
  type: "error";
  title: string;
  message: string;
  track?: string;
  status_code?: number;
  error_code?: string;
}

/** Milliseconds of audio; `sent` is what a speech-to-text connection took. */
export interface Ledger {
  received: number;
  recovered: number;
  concealed: number;
  silence: number;
  sent: number;
  discarded: number;
  discarded_by_reason?: Record<string, number>;
  unanswered?: number;
}

/** The last event. `complete`: nothing that may have held speech is without text. */
export interface SessionEnd extends Placed {
  type: "session.end";
  reason: string;
  complete: boolean;
  missing: Gap[];
  /** By track. */
  ledger: Record<string, Ledger>;
}

export type State = "connecting" | "live" | "resuming" | "closing" | "closed";

/** Of this client, not of the server: it has no `seq`. */
export interface StateChange {
  type: "state";
  state: State;
  /** Why it closed: `ended`, `closed`, or what went wrong. */
  reason: string | null;
}

/** What the server says. */
export type ServerEvent =
  | SessionStart
  | TrackStart
  | TrackEnd
  | TurnStart
  | TurnUpdate
  | TurnEagerEnd
  | TurnResume
  | TurnEnd
  | Transcript
  | FlushDone
  | TranscriptGap
  | AudioStalled
  | AudioResumed
  | TrackMuted
  | TrackUnmuted
  | TrackRefused
  | AudioIgnored
  | AudioSources
  | AudioSuspect
  | SttReconnecting
  | SttRecovered
  | SttBehind
  | SttCaughtUp
  | SessionMove
  | Dtmf
  | Trouble
  | SessionEnd;

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
