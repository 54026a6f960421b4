export class RtcsttCaptions extends HTMLElement {
    static observedAttributes: string[];
    /** What is shown. */
    transcript: Transcript;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** @param {string} name @param {string | null} before @param {string | null} now */
    attributeChangedCallback(name: string, before: string | null, now: string | null): void;
    /** Whether the newest line is kept in view: until the reader scrolls away from it. */
    get following(): boolean;
    /** What is read by `call-id`; null when nothing is. */
    get reading(): Reading | null;
    /** Shows a call (or a reading) from now on, below what is there. @param {Call | Reading} call */
    show(call: Call | Reading): void;
    /** @param {CallEvent} event */
    receive(event: CallEvent): void;
    clear(): void;
    toNewest(): void;
    /** All of it as plain text. */
    text({ times }?: {
        times?: boolean | undefined;
    }): string;
    /** @param {number} speaker From 0. @param {string} name */
    rename(speaker: number, name: string): void;
    /** The rows that contain some text. @param {string} text */
    find(text: string): Row[];
    /** @param {Row} row */
    reveal(row: Row): void;
    #private;
}
import { Transcript } from "./transcript.js";
import { Reading } from "./reading.js";
import type { Call } from "./rtcstt.js";
import type { CallEvent } from "./options.js";
import type { Row } from "./transcript.js";
