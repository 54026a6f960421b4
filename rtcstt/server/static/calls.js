// Panels about calls: a link for others who want to read along, files to take away, the calls that the server keeps.

import { $, copy, h, panel, save } from "./dom.js";
import { minutes } from "./transcript.js";

const FILES = { "captions.vtt": "VTT", "captions.srt": "SRT", "transcript.txt": "TXT", "transcript.json": "JSON" };

/** Links to a call's files. Where a token is needed the page fetches them; else the links work by themselves. */
export function downloads(base, token) {
  const links = Object.entries(FILES).map(([name, words]) => h("a", { href: "#", download: name, "data-name": name }, words));
  const nav = h("nav", { id: "downloads", "aria-label": "Download the captions", hidden: true }, ...links);
  let source = null;
  nav.addEventListener("click", async (click) => {
    const link = click.target.closest("a");
    if (!link || !token()) return;
    click.preventDefault();
    save(link.dataset.name, await (await source.fetch(link.dataset.name)).blob());
  });
  return {
    nav,
    of(call) {
      source = call;
      links.forEach((link) => (link.href = new URL(`calls/${call.id}/${link.dataset.name}`, base).href));
      nav.hidden = false;
    },
  };
}

/** `request(path, init)` asks the server as this page may. */
export function share(base, request, current) {
  const link = h("input", { id: "share-link", readOnly: true, onfocus: () => link.select() });
  const button = h("button", { type: "button", onclick: () => copy(button, link.value) }, "Copy the link");
  const code = h("div", { className: "qr", role: "img", "aria-label": "The link as a QR code" });
  const advice = h("p", { className: "hint", "aria-live": "polite" });
  const shown = h("div", { hidden: true }, h("label", { htmlFor: link.id }, "Link"), link, button, code);
  const fill = async () => {
    const call = current();
    advice.textContent = call ? "Whoever has the link can read along, and cannot speak." : "There is no call yet.";
    shown.hidden = true;
    if (!call) return;
    try {
      const body = JSON.stringify({ page: new URL(`watch/${call.id}`, base).href });
      const init = { method: "POST", headers: { "Content-Type": "application/json" }, body };
      const { url, qr } = await (await request(`calls/${call.id}/share`, init)).json();
      link.value = url;
      code.replaceChildren(new DOMParser().parseFromString(qr, "image/svg+xml").documentElement);
      shown.hidden = false;
    } catch (error) {
      advice.textContent = `No link could be had: ${error.message}`;
    }
  };
  return panel("share", "Share: read along elsewhere", [advice, shown], fill);
}

/** Running and past calls, for whoever may list them. */
export function callList(base, request, open) {
  const list = h("ul", { className: "calls" });
  const words = h("p", { className: "hint", "aria-live": "polite" });
  const fill = async () => {
    try {
      const { calls } = await (await request("calls")).json();
      words.textContent = calls.length ? "" : "There are none yet.";
      list.replaceChildren(...calls.slice(-100).reverse().map((call) => entry(base, call, open)));
    } catch (error) {
      words.textContent = error.status === 401 ? "The server wants an access token for its list." : error.message;
    }
  };
  const again = h("button", { type: "button", onclick: fill }, "Look again");
  return panel("calls", "Calls", [words, list, again], fill);
}

function entry(base, call, open) {
  const when = new Date(1000 * call.created).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  const title = [when, call.label].filter(Boolean).join(", ");
  const state = call.state === "closed" ? minutes(call.time) : "running";
  const button = h("button", { type: "button", className: "link", onclick: () => open(call.call) }, title);
  return h("li", {}, button, h("span", { className: "hint" }, `${state}, ${call.turn_count} turns`));
}

/** The call that the address names. */
export function addressed() {
  return new URLSearchParams(location.hash.slice(1)).get("call");
}

export function address(call) {
  history.replaceState(null, "", `${location.pathname}${location.search}#call=${encodeURIComponent(call)}`);
}

export function showClock(seconds, duration) {
  $("clock").textContent = minutes(seconds) + (duration ? ` of ${minutes(duration)}` : "");
}
