// The page of who reads a call along: its captions, and nothing to say.

import { downloads, showClock } from "./calls.js";
import { $, menu } from "./dom.js";
import { Notices, inWords } from "./notices.js";
import { reader } from "./reader.js";
import "./rtcstt-captions.js";

const BASE = new URL("..", import.meta.url);
const captions = $("captions");
const notices = new Notices();
const token = new URLSearchParams(location.search).get("access_token") ?? undefined;
const files = downloads(BASE, () => token);
const STATES = { connecting: "Connecting", live: "Live", resuming: "Connection lost, trying again", closed: "Call ended" };

menu().box.append(...reader(captions, files.nav));

function status(state, words = STATES[state]) {
  $("status").dataset.state = state;
  $("status").textContent = words;
}

captions.addEventListener("reading", async ({ detail: reading }) => {
  files.of(reading);
  let time = 0;
  let lag = 0;
  reading.on("*", (event) => {
    if (event.type === "state") return status(event.state);
    if (event.type === "session.end") status("closed", event.complete === false ? "Call ended, not complete" : undefined);
    if (event.type === "stt.behind") lag = event.lag;
    if (event.type === "stt.caught_up") lag = 0;
    if (event.type.startsWith("stt.")) status(reading.state, lag >= 2 ? `Live, ${Math.round(lag)} s behind` : undefined);
    notices.receive(event);
    showClock((time = Math.max(time, event.time)));
  });
  const about = await reading.fetch().then((response) => response.json(), () => ({}));
  if (about.label) document.title = about.label;
});
captions.addEventListener("failed", ({ detail: error }) => {
  notices.show("failed", ...inWords(error, token));
  status("failed", "Not connected");
});

if (token) captions.setAttribute("token", token);
captions.setAttribute("server", BASE.href);
captions.setAttribute("call-id", decodeURIComponent(location.pathname.split("/").at(-1) ?? ""));
