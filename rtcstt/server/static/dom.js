// Small helpers of the pages: elements from code, a menu of folded panels, files to keep.

/** @typedef {{ [name: string]: any }} Properties */

/** An element of the page, which has it. @type {(id: string) => any} */
export const $ = (id) => document.getElementById(id);

/**
 * An element with properties (or `data-`, `aria-` attributes and `on...` listeners) and children.
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * A part of the menu, folded away until it is wanted; `onopen` is called each time it is unfolded.
 * @param {string} id
 * @param {string} title
 * @param {(Node | string)[]} children
 * @param {() => unknown} [onopen]
 * @returns {HTMLDetailsElement}
 */
export function panel(id, title, children, onopen = () => {}) {
  const box = h("details", { id, className: "panel" }, h("summary", {}, title), h("div", { className: "inside" }, ...children));
  box.addEventListener("toggle", async () => {
    if (!box.open) return;
    await onopen();
    box.scrollIntoView({ block: "nearest" });
  });
  return box;
}

/** A labelled control. @param {string} label @param {HTMLElement} control @returns {HTMLElement} */
export function field(label, control) {
  return h("div", { className: "field" }, h("label", { htmlFor: control.id }, label), control);
}

export function menu() {
  const box = $("menu");
  const button = $("menu-button");
  const show = (/** @type {boolean} */ open) => {
    box.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) box.querySelector(":scope > :not([hidden]) > summary")?.focus(); // a hidden one takes no focus
  };
  button.addEventListener("click", () => show(box.hidden));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || box.hidden) return;
    show(false);
    button.focus();
  });
  return { box, show, open: (/** @type {string} */ id) => (show(true), Object.assign($(id), { open: true }).querySelector("summary").focus()) };
}

/** @param {string} name @param {string | Blob} content */
export function save(name, content, type = "text/plain") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

/** Text to the clipboard; the button says that it is there. @param {HTMLElement} button @param {string} text */
export async function copy(button, text) {
  const before = button.textContent;
  const done = await navigator.clipboard.writeText(text).then(() => "Copied", () => "The browser did not allow it");
  button.textContent = done;
  setTimeout(() => (button.textContent = before), 4000);
}

/** What the browser keeps for this page; nothing where it may not. */
export const kept = {
  /** @param {string} key */
  read(key) {
    try {
      return JSON.parse(localStorage.getItem(`rtcstt-${key}`) ?? "null");
    } catch {
      return null;
    }
  },
  /** @param {string} key @param {unknown} value */
  write(key, value) {
    try {
      localStorage.setItem(`rtcstt-${key}`, JSON.stringify(value));
    } catch {
      // Private windows may refuse; the setting then lasts as long as the page.
    }
  },
};
