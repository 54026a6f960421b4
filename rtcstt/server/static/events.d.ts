// The events of a call, made from the classes of rtcstt/events.py by tests/event_types.py.

/** What became of a track's audio, in ms; see docs/ledger.md. */
export interface AudioLedger {
  received?: number;
  recovered?: number;
  concealed?: number;
  silence?: number;
  sent?: number;
  discarded?: number;
  discarded_by_reason?: Record<string, number>;
  unanswered?: number;
}

/** A stretch of audio that has no text although it may have held speech; seconds on the call's clock. */
export interface Gap {
  track: string;
  start: number;
  end: number;
  reason: string;
}

/** An item of `SessionEnd.tracks`. */
export interface TrackLedger {
  track: string;
  ledger: AudioLedger;
}

/** What all events have. */
export interface Event {
  call: string;
  seq: number;
  time: number;
}

/** What the events of a track have: `track`, the media section's mid. */
export interface TrackEvent extends Event {
  track: string;
}

/** What the events of a turn have. `turn` counts the turns of its track from 0; `start` and `end` are those of the speech, so far. */
export interface TurnEvent extends TrackEvent {
  turn: number;
  start: number;
  end: number;
  request_id?: string;
}

/** Packets come that are not received, and why; said once for each reason, the counters go on. `track` is empty where it is not known whose they are. */
export interface AudioIgnored extends TrackEvent {
  type: "audio.ignored";
  reason: string;
  payload_type?: number;
}

/** Packets come again after `stalled` seconds. */
export interface AudioResumed extends TrackEvent {
  type: "audio.resumed";
  stalled: number;
}

/** So many sources (SSRCs) send at once on one track; whoever speaks is received. */
export interface AudioSources extends TrackEvent {
  type: "audio.sources";
  sources: number;
}

/** Packets stopped, and the sender had not said that they would. */
export interface AudioStalled extends TrackEvent {
  type: "audio.stalled";
}

/** The audio cannot be what was stated; `guess` says what it may be. */
export interface AudioSuspect extends TrackEvent {
  type: "audio.suspect";
  guess: string;
}

/** A key was pressed (RFC 4733, or a gateway's message). */
export interface Dtmf extends TrackEvent {
  type: "dtmf";
  digit: string;
  duration_ms: number;
}

/** Something was refused or failed; of a track's speech-to-text service where `track` is there. */
export interface ErrorEvent extends Event {
  type: "error";
  track?: string;
  title: string;
  message: string;
  status_code: number;
  error_code?: string;
  doc_url?: string;
  request_id?: string;
  engine?: string;
}

/** The last event. `complete`: nothing is in `missing`, the audio without text that may have held speech. */
export interface SessionEnd extends Event {
  type: "session.end";
  reason: string;
  tracks: TrackLedger[];
  ledger: Record<string, AudioLedger>;
  complete: boolean;
  missing: Gap[];
}

/** The caller is asked to offer again with the call's id: another server takes the call. */
export interface SessionMove extends Event {
  type: "session.move";
  reason: string;
}

/** The first event. `created` is the time of day (ISO 8601, UTC). */
export interface SessionStart extends Event {
  type: "session.start";
  mode: string;
  engine: string;
  label?: string;
  created?: string;
}

/** No more audio comes of this track, and all its text has come. */
export interface TrackEnd extends TrackEvent {
  type: "track.end";
  reason: string;
  ledger: AudioLedger;
}

/** The sender said that it stops for now (RTCP BYE, hold). */
export interface TrackMuted extends TrackEvent {
  type: "track.muted";
  reason?: string;
}

/** Who speaks on this track, from its first word on; empty when it is no longer said. */
export interface TrackNamed extends TrackEvent {
  type: "track.named";
  speaker: string;
}

/** A section of the offer is refused (port 0), and why. */
export interface TrackRefused extends TrackEvent {
  type: "track.refused";
  reason: string;
}

export interface TrackStart extends TrackEvent {
  type: "track.start";
}

/** Packets come again. */
export interface TrackUnmuted extends TrackEvent {
  type: "track.unmuted";
}

/** The service's first message, on the first connection. */
export interface Connected extends TrackEvent {
  type: "connected";
  request_id?: string;
}

/** Manual mode: answers a `finalize`, after the transcripts that it brought about. */
export interface FlushDone extends TrackEvent {
  type: "flush_done";
  request_id?: string;
}

/** `lag` seconds of audio wait for the service; said at 2 s, and each time it has doubled. */
export interface SttBehind extends TrackEvent {
  type: "stt.behind";
  lag: number;
}

/** After `SttBehind`: text comes as soon as usual again. */
export interface SttCaughtUp extends TrackEvent {
  type: "stt.caught_up";
}

/** The connection was lost or refused, and will be tried again. */
export interface SttReconnecting extends TrackEvent {
  type: "stt.reconnecting";
  attempt: number;
  reason: string;
  engine: string;
}

/** It is there again; `lag` seconds of audio wait for it, `lost` seconds were too many to keep. */
export interface SttRecovered extends TrackEvent {
  type: "stt.recovered";
  lag: number;
  attempts: number;
  lost: number;
  engine: string;
}

/** Manual mode: the text since the last final one. Only final ones count; join verbatim. */
export interface Transcript extends TurnEvent {
  type: "transcript";
  text: string;
  is_final: boolean;
  duration?: number;
  language?: string;
  words?: unknown[] | Record<string, unknown>;
}

/** The audio from `start` to `end` will have no text, although it may have held speech. */
export interface TranscriptGap extends TrackEvent {
  type: "transcript.gap";
  start: number;
  end: number;
  reason: string;
}

/** The speaker might be done: `TurnResume` or `TurnEnd` follows. */
export interface TurnEagerEnd extends TurnEvent {
  type: "turn.eager_end";
  transcript: string;
}

/** The turn is over. The transcripts of a track, joined with nothing between, are its text. `confidence`: how sure the service is of each word (as spaces part them), 0 to 1, where known. `concealed`: ms of its audio that were lost and bridged by packet loss concealment, where some were. */
export interface TurnEnd extends TurnEvent {
  type: "turn.end";
  transcript: string;
  confidence?: number[];
  concealed?: number;
}

/** They were not done. */
export interface TurnResume extends TurnEvent {
  type: "turn.resume";
}

/** Somebody began to speak. */
export interface TurnStart extends TurnEvent {
  type: "turn.start";
}

/** `transcript` is all the text of this turn so far, verbatim; it only ever grows. */
export interface TurnUpdate extends TurnEvent {
  type: "turn.update";
  transcript: string;
}

/** What the server says. */
export type ServerEvent =
  | AudioIgnored
  | AudioResumed
  | AudioSources
  | AudioStalled
  | AudioSuspect
  | Dtmf
  | ErrorEvent
  | SessionEnd
  | SessionMove
  | SessionStart
  | TrackEnd
  | TrackMuted
  | TrackNamed
  | TrackRefused
  | TrackStart
  | TrackUnmuted
  | Connected
  | FlushDone
  | SttBehind
  | SttCaughtUp
  | SttReconnecting
  | SttRecovered
  | Transcript
  | TranscriptGap
  | TurnEagerEnd
  | TurnEnd
  | TurnResume
  | TurnStart
  | TurnUpdate;
