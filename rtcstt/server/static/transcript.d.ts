/** What a row says that is no turn. @param {Row} row */
export function describe(row: Row): string;
/** @param {number} seconds */
export function minutes(seconds: number): string;
/** @import { Gap } from "./events.js" */
/** @import { CallEvent } from "./options.js" */
/**
 * `speaking`: its text may still change; `eager`: perhaps done; `paused`: no audio comes, so nothing can be added now;
 * `cut`: the call ended first; `ended`: final.
 * @typedef {"speaking" | "eager" | "paused" | "cut" | "ended"} TurnState
 */
/**
 * A line of the transcript. `kind`: `turn`; `gap`: a stretch without text; `keys`: pressed on a telephone; `call`: here
 * another call begins; `end`: it ended, and text is missing.
 * @typedef {object} Row
 * @property {"turn" | "gap" | "keys" | "call" | "end"} kind
 * @property {string} key
 * @property {string} call
 * @property {string} track
 * @property {number} speaker From 0, in the order of their coming; -1 for none.
 * @property {number} start Seconds on the call's clock.
 * @property {number} end
 * @property {string} text
 * @property {TurnState} state
 * @property {string} reason Of a gap.
 * @property {number[]} confidence How sure each of its words is, from 0 to 1; empty where that is not known.
 * @property {boolean} repaired Some of its audio was lost, and bridged by concealment.
 */
export class Transcript {
    /** In the order in which they are read. @type {Row[]} */
    rows: Row[];
    /** How many speakers there were, of all calls. */
    get speakers(): number;
    /**
     * The rows that an event changes or adds; those that are `rows.at(n)` for the first time are new.
     * @param {CallEvent} event
     * @returns {Row[]}
     */
    receive(event: CallEvent): Row[];
    /** The track of a call whose speaker has a number. @param {string} call @param {number} speaker */
    track(call: string, speaker: number): string | undefined;
    /** A name that was given. @param {number} speaker */
    given(speaker: number): string;
    /** A speaker's name, given or numbered. @param {number} speaker */
    name(speaker: number): string;
    /** @param {number} speaker @param {string} name */
    rename(speaker: number, name: string): void;
    /** All of it as plain text: verbatim for one speaker, a line for each turn with several or with times. */
    text({ times }?: {
        times?: boolean | undefined;
    }): string;
    #private;
}
/**
 * `speaking`: its text may still change; `eager`: perhaps done; `paused`: no audio comes, so nothing can be added now;
 * `cut`: the call ended first; `ended`: final.
 */
export type TurnState = "speaking" | "eager" | "paused" | "cut" | "ended";
/**
 * A line of the transcript. `kind`: `turn`; `gap`: a stretch without text; `keys`: pressed on a telephone; `call`: here
 * another call begins; `end`: it ended, and text is missing.
 */
export type Row = {
    kind: "turn" | "gap" | "keys" | "call" | "end";
    key: string;
    call: string;
    track: string;
    /**
     * From 0, in the order of their coming; -1 for none.
     */
    speaker: number;
    /**
     * Seconds on the call's clock.
     */
    start: number;
    end: number;
    text: string;
    state: TurnState;
    /**
     * Of a gap.
     */
    reason: string;
    /**
     * How sure each of its words is, from 0 to 1; empty where that is not known.
     */
    confidence: number[];
    /**
     * Some of its audio was lost, and bridged by concealment.
     */
    repaired: boolean;
};
import type { CallEvent } from "./options.js";
