// Small helpers of the pages: elements from code, a menu of folded panels, files to keep.

export const $ = (id) => document.getElementById(id);

/** An element with properties (or `data-`, `aria-` attributes and `on...` listeners) and children. */
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

/** A part of the menu, folded away until it is wanted; `onopen` is called each time it is unfolded. */
export function panel(id, title, children, onopen = () => {}) {
  const box = h("details", { id, className: "panel" }, h("summary", {}, title), h("div", { className: "inside" }, ...children));
  box.addEventListener("toggle", async () => {
    if (!box.open) return;
    await onopen();
    box.scrollIntoView({ block: "nearest" });
  });
  return box;
}

/** A labelled control. */
export function field(label, control) {
  return h("div", { className: "field" }, h("label", { htmlFor: control.id }, label), control);
}

export function menu() {
  const box = $("menu");
  const button = $("menu-button");
  const show = (open) => {
    box.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) box.querySelector("summary")?.focus();
  };
  button.addEventListener("click", () => show(box.hidden));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || box.hidden) return;
    show(false);
    button.focus();
  });
  return { box, show, open: (id) => (show(true), Object.assign($(id), { open: true }).querySelector("summary").focus()) };
}

export function save(name, content, type = "text/plain") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

/** Text to the clipboard; the button says that it is there. */
export async function copy(button, text) {
  const before = button.textContent;
  const done = await navigator.clipboard.writeText(text).then(() => "Copied", () => "The browser did not allow it");
  button.textContent = done;
  setTimeout(() => (button.textContent = before), 2000);
}

/** What the browser keeps for this page; nothing where it may not. */
export const kept = {
  read(key) {
    try {
      return JSON.parse(localStorage.getItem(`rtcstt-${key}`) ?? "null");
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(`rtcstt-${key}`, JSON.stringify(value));
    } catch {
      // Private windows may refuse; the setting then lasts as long as the page.
    }
  },
};
