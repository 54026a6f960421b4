// How <rtcstt-captions> looks. A constructed style sheet is let in by a Content-Security-Policy without inline styles.

export const STYLE = `
:host {
  --text: var(--rtcstt-text, light-dark(#16211e, #e8efec));
  --soft: var(--rtcstt-soft, light-dark(#4f5f5a, #a5b8b2));
  --ground: var(--rtcstt-ground, light-dark(#ffffff, #19211f));
  --focus: var(--rtcstt-focus, light-dark(#0b57d0, #a8c7fa));
  --warn: light-dark(#fff4e0, #33270f);
  --on-warn: light-dark(#5c3a00, #ffd899);
  display: flex; flex-direction: column; position: relative; min-block-size: 0; min-inline-size: 0;
  background: var(--ground); color: var(--text);
  font: calc(1.15rem * var(--rtcstt-size, 1)) / 1.45 system-ui, sans-serif;
}
:host([hidden]), [hidden] { display: none !important; }
:host([colors="light"]) { color-scheme: light; }
:host([colors="dark"]) { color-scheme: dark; }
:host([colors="contrast"]) { color-scheme: dark; --ground: #000000; --text: #ffffff; --soft: #ffffff; }
:host([colors="yellow"]) { color-scheme: dark; --ground: #000000; --text: #ffff00; --soft: #ffff99; }
:host([font="serif"]) { font-family: Georgia, "Times New Roman", serif; }
:host([font="mono"]) { font-family: ui-monospace, Consolas, monospace; }
:host([font="readable"]) { font-family: "Atkinson Hyperlegible", Verdana, "DejaVu Sans", sans-serif; }
:host([font="dyslexic"]) { font-family: OpenDyslexic, "Atkinson Hyperlegible", Verdana, sans-serif; line-height: 1.9; }
:host([spacing="wide"]) .said { letter-spacing: 0.06em; word-spacing: 0.16em; line-height: 1.7; }
:host([spacing="wider"]) .said { letter-spacing: 0.12em; word-spacing: 0.3em; line-height: 2; }

/* In reverse, so that the end stays in view by layout alone, however rows grow or the window turns. */
.box { flex: 1 1 auto; min-block-size: 0; display: flex; flex-direction: column-reverse; overflow: hidden auto; overscroll-behavior: contain; }
.box:focus-visible { outline: 3px solid var(--focus); outline-offset: -3px; }
.inner { flex: none; margin-block-end: auto; }
.rows { margin: 0 auto; padding: 0.4rem 0.8rem 0.6rem; max-inline-size: 52em; } /* lines that the eye finds back from */
.rows:empty { padding: 0; }
.empty { margin: 0; padding: min(18vh, 5rem) 1.2rem 0.8rem; color: var(--soft); text-align: center; text-wrap: balance; }
@media (max-height: 22rem) { .empty { padding-block: 0.4rem; } }
@media (max-height: 18rem) { .empty { padding-block: 0.2rem; font-size: 0.8rem; line-height: 1.2; } }

[data-speaker="0"] { --speaker: light-dark(#0f6b64, #3ed0c1); }
[data-speaker="1"] { --speaker: light-dark(#1d4ed8, #93b7ff); }
[data-speaker="2"] { --speaker: light-dark(#9a1ba5, #f0a2f5); }
[data-speaker="3"] { --speaker: light-dark(#8f4405, #f5b567); }
.part { content-visibility: auto; contain-intrinsic-size: auto 130em; }
.row { padding-block: 0.22em; }
.name { min-inline-size: 0; overflow-wrap: anywhere; }
.who { display: none; gap: 0.6em; color: var(--speaker, var(--soft)); font-size: 0.72em; font-weight: 600; line-height: 1.5; }
.box[data-several] .who, :host([times]) .who { display: flex; }
.box:not([data-several]) .name, :host(:not([times])) [data-same] .who { display: none; }
:host(:not([times])) .when { display: none; }
.when { flex: none; color: var(--soft); font-weight: 400; font-variant-numeric: tabular-nums; }
.box[data-several] :is(.turn, .gap, .keys) { border-inline-start: 3px solid var(--speaker); padding-inline-start: 0.6em; margin-block-start: 0.45em; }
.box[data-several] [data-same] { margin-block-start: 0 !important; }
.said { display: inline; margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
.state { margin-inline-start: 0.5em; color: var(--soft); font-size: 0.72em; white-space: nowrap; }
.state:empty { display: none; }
.turn:is([data-state="speaking"], [data-state="eager"]) .said { color: var(--soft); }
.turn[data-state="speaking"] .state::before {
  content: ""; display: inline-block; inline-size: 0.6em; block-size: 0.6em; margin-inline-end: 0.4em; border-radius: 50%;
  background: var(--speaker, currentColor); animation: pulse 1.1s infinite alternate;
}
@keyframes pulse { to { opacity: 0.2; } }
.turn[data-repaired] .said { text-decoration: underline dotted var(--soft) 0.1em; text-underline-offset: 0.25em; }
.row[data-current] { outline: 2px solid var(--focus); outline-offset: -2px; }
:is(.gap, .end, .keys, .call) .what { font-size: 0.8em; }
:is(.gap, .end) .said { display: inline-block; padding: 0.1em 0.5em; border: 1px dashed currentColor; border-radius: 0.3em; background: var(--warn); color: var(--on-warn); }
.keys .said, .call .said { color: var(--soft); }
.call { margin-block: 0.8em 0.3em; border-block-start: 1px solid var(--soft); }
.call .who { display: none !important; }
:host([unsure]) .said::highlight(rtcstt-unsure) { text-decoration: underline wavy #c2690a 0.08em; }
::highlight(rtcstt-found) { background-color: #ffd54a; color: #000000; }

.newest {
  position: absolute; inset-block-end: 0.5rem; inset-inline: 0; margin-inline: auto; inline-size: fit-content; min-block-size: 2.75rem;
  padding: 0.3rem 1.2rem; border: 2px solid var(--ground); border-radius: 2rem; background: var(--text); color: var(--ground);
  font: 600 1rem/1.2 system-ui, sans-serif; cursor: pointer;
}
.newest:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.log { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); }

:host([lines]) .box { flex: none; margin-block: auto 0.3em; overflow: hidden; }
:host([lines]) .row { padding-block: 0; margin: 0 !important; border: 0 !important; }
:host([lines]) :is(.who, .state) { display: none !important; }
:host([lines]) .rows { padding-block: 0; }
:host([lines]) .what { font-size: 1em; } /* each line as high as any other, so that none is cut */
:host([lines]) :is(.gap, .end) .said { display: inline; padding-block: 0; }
:host([lines="1"]) .box { block-size: 1lh; }
:host([lines="2"]) .box { block-size: 2lh; }
:host([lines="3"]) .box { block-size: 3lh; }
:host([lines]) .said { line-height: inherit; }
:host([lines]) .box[data-several] .row:not([data-same]) .said::before { content: attr(data-name) ": "; unicode-bidi: isolate; color: var(--speaker); font-weight: 600; }
:host([lines][spacing="wide"]) { line-height: 1.7; }
:host([lines][spacing="wider"]) { line-height: 2; }

@media (prefers-reduced-motion: reduce) { .state::before { animation: none !important; } }
@media (forced-colors: active) {
  .turn[data-state="speaking"] .state::before { background: Highlight; forced-color-adjust: none; }
  .turn:is([data-state="speaking"], [data-state="eager"]) .said { font-style: italic; }
  .newest { border-color: ButtonText; }
}
`;
