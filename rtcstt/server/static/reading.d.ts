/**
 * Reads a call along, without taking part: its events from the first, then as they come.
 * @param {WatchOptions} options
 * @returns {Promise<Reading>} Rejects with an `RtcsttError`, or with the signal's reason.
 */
export function watch(options: WatchOptions): Promise<Reading>;
export const NO_USE: number[];
/**
 * A refusal or failure. `code` is the server's error_code, or `bad_option`, `no_audio`, `unreachable` (no answer),
 * `origin_not_allowed` (it answers, but not to this page), `no_media_path` (no way for the audio), or `refused`.
 */
export class RtcsttError extends Error {
    /**
     * @param {string} code
     * @param {string} message
     * @param {{ title?: string, status?: number, retryAfterS?: number | null }} [more]
     */
    constructor(code: string, message: string, { title, status, retryAfterS }?: {
        title?: string;
        status?: number;
        retryAfterS?: number | null;
    });
    /** @readonly */
    readonly code: string;
    /** @readonly */
    readonly title: string;
    /** The HTTP status, 0 when there was none. @readonly */
    readonly status: number;
    /** When a full server may be asked again. @readonly */
    readonly retryAfterS: number | null;
}
/** The events of a call, each once and in order. `feed` is this module's own. */
export class Events extends EventTarget {
    /** @param {Feed} feed */
    constructor(feed: Feed);
    /** How it ended, once it has. @type {Promise<Ending>} */
    ended: Promise<Ending>;
    get state(): State;
    /**
     * Calls `listener(event)` for every event of a type, or of all with `"*"`; returns what takes it off again.
     * @template {CallEvent["type"] | "*"} T
     * @param {T} type
     * @param {(event: EventOf<T>) => void} listener
     * @returns {() => void}
     */
    on<T extends CallEvent["type"] | "*">(type: T, listener: (event: EventOf<T>) => void): () => void;
    /**
     * The next event of a type; null when the call ends without one.
     * @template {CallEvent["type"]} T
     * @param {T} type
     * @returns {Promise<EventOf<T> | null>}
     */
    once<T extends CallEvent["type"]>(type: T): Promise<EventOf<T> | null>;
    /**
     * Every event from here on, until the call is closed. Updates that a later one of the same turn makes useless are
     * left out when the loop is slower than they come.
     * @returns {AsyncGenerator<CallEvent, void, void>}
     */
    [Symbol.asyncIterator](): AsyncGenerator<CallEvent, void, void>;
    #private;
}
/** What comes from the server, told to one listener; the state; the end. */
export class Feed {
    /** The number of the newest event. */
    seq: number;
    /** @type {State} */
    state: State;
    /** @type {Promise<Ending>} */
    ended: Promise<Ending>;
    listener: (/** @type {CallEvent} */ _: CallEvent) => void;
    /** The event; null when it is known, since a new channel tells the whole call again. @param {string} text */
    receive(text: string): ServerEvent | null;
    /** Lets out what was held back, once whoever awaited the call can listen. */
    letOut(): void;
    /** @param {State} state @param {string | null} reason */
    setState(state: State, reason?: string | null): void;
    /** @param {string} reason @param {{ complete: boolean, missing: Gap[] }} [told] */
    finish(reason: string, told?: {
        complete: boolean;
        missing: Gap[];
    }): void;
    #private;
}
/** Somebody's call, read along: `watch` makes it. */
export class Reading extends Events {
    /** @param {WatchOptions} options */
    static open(options: WatchOptions): Promise<Reading>;
    /** @private @param {WatchOptions} options @param {Feed} feed */
    private constructor();
    get id(): string;
    /** @param {CallFile} [name] */
    fetch(name?: CallFile): Promise<Response>;
    close(): void;
    #private;
}
/** HTTP to the server. */
export class Server {
    /** @param {string | URL | undefined} url By default where this module is from. @param {string} [token] */
    static at(url: string | URL | undefined, token?: string): Server;
    /** @param {URL} base @param {string} [token] */
    constructor(base: URL, token?: string);
    /** @param {string} call @param {CallFile} name */
    fetch(call: string, name: CallFile): Promise<Response>;
    /**
     * @param {string} path
     * @param {Omit<RequestInit, "headers"> & { headers?: Record<string, string> }} [init]
     */
    request(path: string, { headers, signal, ...init }?: Omit<RequestInit, "headers"> & {
        headers?: Record<string, string>;
    }, ms?: number): Promise<Response>;
    /**
     * The data of each event after number `seq`. By fetch, since an EventSource can send no token.
     * @param {string} call
     * @param {number} seq
     * @param {AbortSignal} signal
     * @param {(there: boolean) => void} onLife Told whether something comes, from the first answer on.
     */
    events(call: string, seq: number, signal: AbortSignal, onLife?: (there: boolean) => void): AsyncGenerator<string, void, unknown>;
    /** Whether anything answers, also where this page may not read the answer. */
    isThere(ms?: number): Promise<boolean>;
    #private;
}
export function sleep(ms: number): Promise<void>;
export function messageOf(error: unknown): string;
import type { WatchOptions } from "./options.js";
import type { Ending } from "./options.js";
import type { State } from "./options.js";
import type { CallEvent } from "./options.js";
import type { EventOf } from "./options.js";
import type { ServerEvent } from "./events.js";
import type { Gap } from "./events.js";
import type { CallFile } from "./options.js";
