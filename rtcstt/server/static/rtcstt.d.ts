/**
 * Places a call. Listeners added right after `await connect()` miss nothing.
 * @param {ConnectOptions} options
 * @returns {Promise<Call>} Rejects with an `RtcsttError`, or with the signal's reason.
 */
export function connect(options: ConnectOptions): Promise<Call>;
/** A call of one's own: `connect` makes it. */
export class Call extends Events {
    /** @param {ConnectOptions} options */
    static place(options: ConnectOptions): Promise<Call>;
    /** @private @param {ConnectOptions} options @param {Feed} feed */
    private constructor();
    /** The server's id of this call. */
    get id(): string;
    get muted(): boolean;
    /** Whether something comes from the server now. */
    get connected(): boolean;
    mute(muted?: boolean): void;
    /** Push-to-talk: from here on the caller is transcribed. */
    press(): void;
    /** Push-to-talk: mutes and finalizes, a moment later, so that the last word is whole. */
    release(): void;
    /** Manual mode: asks for the text of all that was said until now. False when no data channel is open. */
    finalize(): boolean;
    /**
     * Changes turn detection, e.g. `{ end_timeout_ms: 900 }`. False when no data channel is open.
     * @param {TurnSettings} turn
     */
    configure(turn: TurnSettings): boolean;
    /**
     * Who speaks on a track, for everybody who reads along and in the call's captions. False when no data channel is open.
     * @param {string} track
     * @param {string} speaker
     */
    name(track: string, speaker: string): boolean;
    /**
     * Another microphone in mid-call.
     * @param {MediaStreamTrack} track
     */
    replaceTrack(track: MediaStreamTrack, index?: number): Promise<void>;
    /**
     * Something of this call over HTTP: `""` for its state, `"captions.vtt"`, `"transcript.json"`...
     * @param {CallFile} [name]
     */
    fetch(name?: CallFile): Promise<Response>;
    /** Hangs up; resolves when every event still due has come, and says whether all did. */
    close(): Promise<Ending>;
    #private;
}
import type { ConnectOptions } from "./options.js";
import { Events } from "./reading.js";
import { Reading } from "./reading.js";
import { RtcsttError } from "./reading.js";
import { watch } from "./reading.js";
import type { TurnSettings } from "./options.js";
import type { CallFile } from "./options.js";
import type { Ending } from "./options.js";
export { Events, Reading, RtcsttError, watch };
