// The page of a caller: it only joins the sound, the call and what is shown.

import { address, addressed, callList, downloads, share, showClock } from "./calls.js";
import { developer } from "./developer.js";
import { $, kept, menu, panel } from "./dom.js";
import { Ledger } from "./ledger.js";
import { Notices, inWords } from "./notices.js";
import { reader } from "./reader.js";
import { connect } from "./rtcstt.js";
import "./rtcstt-captions.js";
import { microphones, openSound, watchLevel } from "./sound.js";
import { Talk } from "./talk.js";

const BASE = new URL("..", import.meta.url);
const setup = $("setup");
const captions = $("captions");
const notices = new Notices();
const side = menu();

let call = null; // the one that is placed, or was placed last
let sound = null;
let stopLevel = () => {};
let wakeLock = null;
let lastSecond = 0;
let lag = 0;

const token = () => $("token").value || undefined;

async function request(path, init = {}) {
  const headers = { ...init.headers, ...(token() && { Authorization: `Bearer ${token()}` }) };
  const response = await fetch(new URL(path, BASE), { ...init, headers });
  if (response.ok) return response;
  const refusal = await response.json().catch(() => ({}));
  throw Object.assign(new Error(refusal.message ?? response.statusText), { status: response.status });
}

/** The options of `connect` that were chosen. */
function settings() {
  const keyterms = $("keyterms").value.split(/[,\n]/).map((term) => term.trim()).filter(Boolean);
  const turn = {};
  for (const name of ["start_threshold", "eager_end_threshold", "end_threshold", "end_timeout_ms"]) {
    if ($(name).value !== "") turn[name] = Number($(name).value);
  }
  const mode = setup.elements.mode.value;
  const names = Object.values(kept.read("names") ?? {}).some(Boolean) ? { speakers: kept.read("names") } : undefined;
  const turns = mode === "manual" ? undefined : turn;
  const all = { mode, label: $("label").value, language: $("language").value, keyterms, turn: turns, metadata: names };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value && Object.keys(value).length));
}

// What the menu has.

const files = downloads(BASE, token);
const timelines = Object.assign(document.createElement("div"), { id: "timelines" });
const ledger = new Ledger(timelines);
const inspector = developer(BASE, settings);
const soundPanel = panel("sound", "Microphone", []);
soundPanel.hidden = true;
side.box.append(
  soundPanel,
  ...reader(captions, files.nav),
  share(BASE, request, () => call ?? captions.reading),
  callList(BASE, request, readAlong),
  panel("ledger", "Audio ledger", [legend(), timelines], () => ledger.draw()),
  inspector.box,
);

function legend() {
  const kinds = Object.entries({ received: "received", repaired: "repaired", silence: "silence put in" });
  const items = kinds.map(([kind, words]) => {
    const item = Object.assign(document.createElement("li"), { textContent: words });
    item.dataset.kind = kind;
    return item;
  });
  const list = Object.assign(document.createElement("ul"), { className: "legend" });
  list.append(...items);
  return list;
}

// What is shown when.

const STATES = {
  idle: "Ready",
  connecting: "Connecting",
  live: "Live",
  resuming: "Connection lost, trying again",
  closing: "Waiting for the last words",
  closed: "Call ended",
};

function status(state, words = STATES[state]) {
  $("status").dataset.state = state;
  $("status").textContent = state === "live" && lag >= 2 ? `${words}, ${Math.round(lag)} s behind` : words;
}

function show(state) {
  const idle = state === "idle";
  const live = state === "live";
  const focused = document.activeElement; // hidden soon, or switched off: then Start is where to go on
  const adrift = idle && (focused === document.body || [$("talk"), $("mute"), $("hangup")].includes(focused));
  const manual = setup.elements.mode.value === "manual";
  status(state);
  for (const control of setup.elements) control.disabled = !idle;
  const switchable = live && sound?.kind === "microphone";
  $("device").disabled = !idle && !switchable;
  (switchable ? $("sound").querySelector(".inside") : $("setup")).insertBefore(
    $("device-field"), switchable ? null : setup.querySelector('[data-for="file"]'),
  );
  soundPanel.hidden = !switchable;
  $("setup-box").hidden = live;
  if (state === "connecting" || captions.transcript.rows.length) $("setup-box").open = false;
  $("live").hidden = !live;
  $("start").hidden = live;
  $("hangup").hidden = !live;
  $("talk").hidden = !(live && manual);
  $("mute").hidden = !(live && !manual);
  setMute(false);
  if (live) (manual ? $("talk") : $("mute")).focus();
  if (adrift) $("start").focus({ preventScroll: true });
}

function setMute(muted) {
  $("mute").dataset.on = String(muted); // no aria-pressed: the name tells already
  $("mute").textContent = muted ? "Unmute" : "Mute";
}

function chooseSource() {
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-for]"))) {
    part.hidden = part.dataset.for !== setup.elements.source.value;
  }
  $("file").required = setup.elements.source.value === "file";
}

// The call.

async function start() {
  notices.clear();
  show("connecting");
  sound = null;
  try {
    sound = await openSound(setup.elements.source.value, {
      devices: [$("device").value, $("device2").value].filter((id, index) => id || !index),
      file: $("file").files[0],
      aloud: $("aloud").checked,
      onEnd: () => call?.close(),
    });
    call = await connect({ stream: sound.stream, url: BASE, token: token(), ...settings() });
  } catch (error) {
    sound?.stop();
    notices.show("failed", ...inWords(error, token()));
    show("idle");
    status("failed", "Not connected");
    $("setup-box").open = true;
    if (error.status === 401) askForToken();
    return;
  }
  begin(setup.elements.mode.value === "manual");
}

function begin(manual) {
  captions.removeAttribute("call-id");
  ledger.clear();
  lastSecond = lag = 0;
  captions.show(call);
  call.on("*", onEvent);
  call.mute(manual); // push-to-talk begins unheard
  meter();
  for (const track of sound.stream.getAudioTracks()) {
    track.addEventListener("ended", () => {
      if (call?.state === "live") notices.show("unplugged", "The microphone is gone.", "Choose another one in the menu.");
    });
  }
  files.of(call);
  address(call.id);
  show("live");
  sound.begin();
  listDevices(); // the browser names them now
  wakeLock = navigator.wakeLock?.request("screen").catch(() => null); // a phone's screen stays on
  pollLedger(call, sound.duration);
}

function meter() {
  stopLevel();
  const silent = ["silent", "The sound is all silence.", "Is the right device chosen, and is it switched on?"];
  stopLevel = watchLevel(sound.stream, $("level"), (isSilent) => (isSilent ? notices.show(...silent) : notices.settle("silent")));
}

function onEvent(event) {
  if (event.type === "state") return onState(event);
  notices.receive(event);
  inspector.receive(event);
  lastSecond = Math.max(lastSecond, event.time ?? 0);
  if (event.type === "stt.behind") lag = event.lag;
  if (event.type === "stt.caught_up") lag = 0;
  if (["stt.behind", "stt.caught_up"].includes(event.type)) status(call.state);
}

async function onState({ state, reason }) {
  if (state !== "closed") return status(state);
  stopLevel();
  sound.stop();
  wakeLock?.then((lock) => lock?.release());
  const { complete, missing } = await call.ended;
  show("idle");
  notices.settle("silent", "unplugged", "device");
  if (reason === "ended") {
    status("closed", complete ? "Call ended" : "Call ended, not complete");
    if (!complete) {
      const seconds = missing.reduce((sum, gap) => sum + gap.end - gap.start, 0);
      notices.show("incomplete", "Not every word was transcribed.", `${seconds.toFixed(1)} s of audio have no text; the captions say where.`);
    }
    return;
  }
  status("failed", reason === "closed" ? "Call ended, not complete" : "Connection lost");
  const title = reason === "closed" ? "The last words did not come." : "The connection to the server was lost.";
  notices.clear();
  notices.show("lost", title, reason === "closed" ? "The server may still have them: see Calls in the menu." : reason);
}

async function pollLedger(watched, duration) {
  for (;;) {
    const last = watched.state === "closed";
    try {
      const snapshot = await (await watched.fetch()).json();
      if (watched !== call) return;
      const tracks = snapshot.tracks ?? [];
      if ($("ledger").open) ledger.show(tracks);
      else ledger.take(tracks);
      lastSecond = Math.max(lastSecond, snapshot.time ?? 0);
    } catch {
      // The call's own state tells of a lost server; the ledger just stays as it was.
    }
    showClock(lastSecond, duration);
    if (last) return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** A call of before, or of somebody else, below what is shown. */
function readAlong(id) {
  if (call && call.state !== "closed") return void window.open(new URL(`watch/${id}`, BASE), "_blank", "noopener");
  call = null;
  captions.clear();
  if (token()) captions.setAttribute("token", token());
  captions.setAttribute("server", BASE.href);
  captions.setAttribute("call-id", id);
  address(id);
}

captions.addEventListener("rename", ({ detail: { speaker, name } }) => {
  const track = call?.state === "live" ? captions.transcript.track(call.id, speaker) : undefined;
  if (track !== undefined) call.name(track, name);
});
captions.addEventListener("reading", ({ detail: reading }) => {
  files.of(reading);
  $("setup-box").open = false;
  reading.on("*", (event) => {
    if (event.type === "state") return status(event.state);
    inspector.receive(event);
  });
});
captions.addEventListener("failed", ({ detail: error }) => {
  if (error.status === 401) askForToken();
  notices.show("failed", ...inWords(error, token()));
});

// Devices and tokens.

async function listDevices() {
  const found = await microphones();
  for (const [select, none] of [[$("device"), "The browser's choice"], [$("device2"), "None"]]) {
    const chosen = select.value;
    const options = found.map((device) => new Option(device.label || "Microphone", device.deviceId));
    select.replaceChildren(new Option(none, ""), ...options);
    select.value = options.some((option) => option.value === chosen) ? chosen : "";
  }
}

async function changeDevice() {
  if (call?.state !== "live" || sound.kind !== "microphone") return;
  try {
    const next = await openSound("microphone", { devices: [$("device").value] });
    await call.replaceTrack(next.stream.getAudioTracks()[0]);
    sound.stop();
    sound = next;
    meter();
    notices.settle("device", "unplugged", "silent");
  } catch (error) {
    notices.show("device", ...inWords(error, token()));
  }
}

function askForToken() {
  $("token-field").hidden = false;
  $("setup-box").open = true;
  $("token").disabled = false;
  $("token").focus();
}

const talk = new Talk($("talk"), () => call, () => $("toggle").checked);
$("toggle").addEventListener("change", () => talk.say());
setup.addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
setup.addEventListener("change", chooseSource);
$("device").addEventListener("change", changeDevice);
$("mute").addEventListener("click", () => {
  call.mute(!call.muted);
  setMute(call.muted);
});
$("hangup").addEventListener("click", () => {
  $("hangup").disabled = true;
  call.close().finally(() => ($("hangup").disabled = false));
});
window.addEventListener("beforeunload", (event) => {
  if (call && ["live", "resuming", "closing"].includes(call.state)) event.preventDefault();
});
window.addEventListener("hashchange", () => addressed() && readAlong(addressed()));
navigator.mediaDevices?.addEventListener("devicechange", listDevices);
$("start").addEventListener("click", () => ($("setup-box").open = $("setup-box").open || !setup.checkValidity()));

status("idle");
chooseSource();
listDevices();
if (addressed()) readAlong(addressed());
