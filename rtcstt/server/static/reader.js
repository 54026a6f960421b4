// The reader's side of both pages: how captions look, names of speakers, search, copies.

import { copy, field, h, kept, panel, save } from "./dom.js";

/** @type {Record<string, [string, string[][]]>} */
const CHOICES = {
  font: ["Font", [["", "Standard"], ["serif", "Serif"], ["mono", "Typewriter"], ["readable", "Easy to read"], ["dyslexic", "For dyslexia"]]],
  spacing: ["Spacing", [["", "Normal"], ["wide", "Wide"], ["wider", "Wider"]]],
  colors: ["Colours", [["", "As the system"], ["light", "Light"], ["dark", "Dark"], ["contrast", "White on black"], ["yellow", "Yellow on black"]]],
  lines: ["Lines", [["", "All"], ["1", "The last line"], ["2", "The last two"], ["3", "The last three"]]],
};
const SIZES = [75, 100, 125, 150, 200, 250, 300, 400];

/** Gives the element what the address asks for, else what was chosen before; returns the panels of the menu. */
export function reader(captions, downloads) {
  return [display(captions), speakers(captions), search(captions), keep(captions, downloads)];
}

function display(captions) {
  const address = new URLSearchParams(location.search);
  const chosen = { ...kept.read("display"), ...Object.fromEntries(address) };
  const set = (name, value) => {
    if (value) captions.setAttribute(name, value);
    else captions.removeAttribute(name);
    kept.write("display", { ...kept.read("display"), [name]: value });
  };
  const apply = (name, allowed) => allowed.includes(chosen[name]) && chosen[name] && captions.setAttribute(name, chosen[name]);
  const controls = Object.entries(CHOICES).map(([name, [label, options]]) => {
    apply(name, options.map(([value]) => value));
    const select = h("select", { id: `display-${name}`, onchange: () => set(name, select.value) });
    select.append(...options.map(([value, words]) => new Option(words, value)));
    select.value = captions.getAttribute(name) ?? "";
    return field(label, select);
  });
  if (/^\d{2,3}$/.test(chosen.size ?? "")) captions.setAttribute("size", chosen.size);
  for (const name of ["times", "unsure"]) if (chosen[name] === "1") captions.setAttribute(name, "1");
  const size = h("output", {}, `${captions.getAttribute("size") ?? 100} %`);
  const step = (by) => {
    const now = Number(captions.getAttribute("size") ?? 100);
    const next = by > 0 ? SIZES.find((one) => one > now) : SIZES.findLast((one) => one < now);
    set("size", String(next ?? now));
    size.textContent = `${next ?? now} %`;
  };
  const check = (/** @type {string} */ name, /** @type {string} */ words) => {
    const box = h("input", { type: "checkbox", checked: captions.hasAttribute(name) });
    box.addEventListener("change", () => set(name, box.checked ? "1" : ""));
    return h("label", { className: "check" }, box, words);
  };
  const checks = [check("times", "Show times"), check("unsure", "Underline words that may be wrong")];
  const full = h("button", { type: "button", onclick: () => toggleFullScreen(captions) }, "Full screen");
  full.hidden = !document.fullscreenEnabled;
  const sizes = h("div", { className: "row", role: "group", "aria-label": "Text size" });
  sizes.append("Text size", h("button", { type: "button", "aria-label": "A− smaller text", onclick: () => step(-1) }, "A−"), size);
  sizes.append(h("button", { type: "button", "aria-label": "A+ larger text", onclick: () => step(1) }, "A+"));
  return panel("display", "Display", [sizes, ...controls, ...checks, full]);
}

function toggleFullScreen(captions) {
  if (document.fullscreenElement) document.exitFullscreen();
  else captions.requestFullscreen().catch(() => {});
}

function speakers(captions) {
  const box = h("div", { className: "grid" });
  const names = { ...kept.read("names") };
  Object.entries(names).forEach(([speaker, name]) => captions.rename(Number(speaker), name));
  const fill = () => {
    const inputs = Array.from({ length: Math.max(1, captions.transcript.speakers) }, (_, speaker) => {
      const input = h("input", { id: `speaker-${speaker}`, maxLength: 100, autocomplete: "off", value: captions.transcript.given(speaker) });
      input.addEventListener("input", () => {
        names[speaker] = input.value;
        captions.rename(speaker, input.value);
        kept.write("names", names);
      });
      input.addEventListener("change", () => captions.dispatchEvent(new CustomEvent("rename", { detail: { speaker, name: input.value } })));
      return field(`Name of speaker ${speaker + 1}`, input);
    });
    box.replaceChildren(...inputs);
  };
  captions.addEventListener("named", () => box.contains(document.activeElement) || fill());
  return panel("speakers", "Speakers", [box], fill);
}

function search(captions) {
  const count = h("output", { "aria-live": "polite" });
  const input = h("input", { id: "find", type: "search", autocomplete: "off" });
  let found = [];
  let at = 0;
  const go = (by) => {
    if (!found.length) return;
    at = (at + by + found.length) % found.length;
    captions.reveal(found[at]);
    count.textContent = `${at + 1} of ${found.length}`;
  };
  input.addEventListener("input", () => {
    found = captions.find(input.value);
    at = found.length - 1; // the newest first
    count.textContent = input.value && !found.length ? "Not found" : "";
    go(0);
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && go(event.shiftKey ? 1 : -1));
  const buttons = h("div", { className: "row" }, h("button", { type: "button", onclick: () => go(-1) }, "Earlier"));
  buttons.append(h("button", { type: "button", onclick: () => go(1) }, "Later"), count);
  return panel("search", "Search", [field("Find in the captions", input), buttons], () => input.focus());
}

function keep(captions, downloads) {
  const button = h("button", { type: "button", onclick: () => copy(button, captions.text()) }, "Copy the text");
  const timed = h("button", { type: "button", onclick: () => copy(timed, captions.text({ times: true })) }, "Copy with times");
  const text = h("button", { type: "button", onclick: () => save("captions.txt", captions.text({ times: true })) }, "Save all that is shown");
  return panel("keep", "Copy and save", [h("div", { className: "row" }, button, timed, text), downloads]);
}
