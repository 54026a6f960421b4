// The page itself: it only joins the sound, the call and what is shown.

import { connect } from "../rtcstt.js";
import { Captions, minutes } from "./captions.js";
import { Ledger } from "./ledger.js";
import { microphone, microphones, recording, watchLevel } from "./sound.js";

const $ = (id) => document.getElementById(id);
const setup = $("setup");
const captions = new Captions($("captions"), $("finished"));
const ledger = new Ledger($("timelines"));

let call = null;
let sound = null;
let stopLevel = () => {};
let wakeLock = null;
let lastSecond = 0;

// What went wrong, and what to do about it.

const MICROPHONE = {
  InsecureContext: [
    "The browser gives no microphone to this page.",
    "It does so only over https:// or on this same machine (http://127.0.0.1). Serve rtcstt with TLS, or put a TLS proxy before it.",
  ],
  NotAllowedError: [
    "The microphone may not be used.",
    "Allow it for this page (the icon beside the address), then press Start again.",
  ],
  NotFoundError: ["No microphone was found.", "Plug one in or choose a recording instead."],
  NotReadableError: ["The microphone is held by another program.", "Close that program, then press Start again."],
  OverconstrainedError: ["The chosen microphone is gone.", "Choose another device."],
  EncodingError: ["This browser cannot read that file.", "Try WAV, MP3, OGG or MP4; on the server, rtcstt transcribe reads more."],
};

function inWords(error) {
  if (MICROPHONE[error.name]) return MICROPHONE[error.name];
  if (error.status === 401) {
    const title = $("token").value ? "The server does not take this access token." : "This server wants an access token.";
    return [title, "Whoever runs it gives it out. Enter it above, then press Start."];
  }
  switch (error.code) {
    case "no_media_path":
      return [
        "The audio finds no way to the server.",
        "UDP is probably blocked on the way. The server's operator can run rtcstt doctor and add a TURN server.",
      ];
    case "unreachable":
      return ["The server does not answer.", "Is rtcstt serve still running?"];
    default:
      return [error.title || "This did not work.", again(error)];
  }
}

function again(error) {
  return error.retryAfterS ? `${error.message} Try again in ${error.retryAfterS} s.` : error.message;
}

function notice(key, title, advice = "") {
  $(`notice-${key}`)?.remove();
  const box = document.createElement("div");
  box.className = "notice";
  box.id = `notice-${key}`;
  for (const text of [title, advice].filter(Boolean)) {
    const line = document.createElement("p");
    line.textContent = text;
    box.append(line);
  }
  $("notices").append(box);
}

const settle = (key) => $(`notice-${key}`)?.remove();

const NOTICES = {
  "audio.stalled": () => notice("audio", "No audio reaches the server.", "It waits; the captions go on when the audio does."),
  "audio.resumed": () => settle("audio"),
  "stt.reconnecting": () => notice("stt", "The speech-to-text service is away.", "What is said now is kept and comes when it is back."),
  "stt.recovered": () => settle("stt"),
  error: (event) => notice("error", event.title ?? "Error", event.message),
};

const STATES = {
  connecting: "Connecting",
  live: "Live",
  resuming: "Connection lost, trying again",
  closing: "Waiting for the last words",
  closed: "Call ended",
};

function status(state, words = STATES[state]) {
  $("status").dataset.state = state;
  $("status").textContent = words;
}

// The call.

async function start() {
  const mode = setup.elements.mode.value;
  $("notices").replaceChildren();
  show("connecting");
  sound = null;
  try {
    sound = await openSound();
    call = await connect({ stream: sound.stream, mode, token: $("token").value || undefined });
  } catch (error) {
    sound?.stop();
    notice("failed", ...inWords(error));
    if (error.status === 401) askForToken();
    show("idle");
    status("failed", "Not connected");
    return;
  }
  captions.clear();
  ledger.clear();
  lastSecond = 0;
  $("empty").hidden = false;
  call.on("*", onEvent);
  call.mute(mode === "manual"); // push-to-talk begins unheard
  stopLevel = watchLevel(sound.stream, $("level"), () =>
    notice("silent", "The sound is all silence.", "Is the right device chosen, and is it switched on?"),
  );
  linkDownloads();
  show("live");
  sound.begin();
  listDevices(); // the browser names them now
  wakeLock = navigator.wakeLock?.request("screen").catch(() => null); // a phone's screen stays on
  pollLedger(call, sound.duration);
}

async function openSound() {
  if (setup.elements.source.value === "microphone") return microphone($("device").value);
  return recording($("file").files[0], { aloud: $("aloud").checked, onEnd: () => call?.close() });
}

function onEvent(event) {
  if (event.type === "state") return onState(event);
  NOTICES[event.type]?.(event);
  captions.receive(event);
  if ($("captions").childElementCount) $("empty").hidden = true;
  lastSecond = Math.max(lastSecond, event.time ?? 0);
}

function onState({ state, reason }) {
  if (state !== "closed") return status(state);
  stopLevel();
  sound.stop();
  wakeLock?.then((lock) => lock?.release());
  show("idle");
  if (["ended", "closed"].includes(reason)) return status("closed");
  status("failed", "Connection lost");
  notice("lost", "The connection to the server was lost.", reason);
}

async function pollLedger(watched, duration) {
  for (;;) {
    const last = watched.state === "closed";
    try {
      const snapshot = await (await watched.fetch()).json();
      if (watched !== call) return;
      ledger.show(snapshot.tracks ?? []);
      $("ledger").hidden = false;
      lastSecond = Math.max(lastSecond, snapshot.time ?? 0);
    } catch {
      // The call's own state tells of a lost server; the ledger just stays as it was.
    }
    $("clock").textContent = minutes(lastSecond) + (duration ? ` of ${minutes(duration)}` : "");
    if (last) return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

// What is shown when.

function show(state) {
  const idle = state === "idle";
  const focused = document.activeElement; // hidden soon, or switched off: then Start is where to go on
  const adrift = idle && (focused === document.body || $("live").contains(focused));
  status(state, idle ? "Ready" : undefined);
  for (const control of setup.elements) control.disabled = !idle;
  if (!idle && setup.elements.source.value === "microphone") $("device").disabled = false;
  setup.toggleAttribute("data-live", state === "live");
  setup.hidden = state === "live" && setup.elements.source.value === "file";
  $("live").hidden = state !== "live";
  $("talk").hidden = setup.elements.mode.value !== "manual";
  $("mute").hidden = !$("talk").hidden;
  setMute(false);
  if (state === "live") ($("talk").hidden ? $("mute") : $("talk")).focus();
  if (adrift) $("start").focus({ preventScroll: true });
}

function setMute(muted) {
  $("mute").dataset.on = String(muted); // no aria-pressed: the name tells already
  $("mute").textContent = muted ? "Unmute" : "Mute";
}

function chooseSource() {
  for (const field of setup.querySelectorAll("[data-for]")) {
    field.hidden = field.dataset.for !== setup.elements.source.value;
  }
  $("file").required = setup.elements.source.value === "file";
}

async function listDevices() {
  const chosen = $("device").value;
  const options = (await microphones()).map((device) => new Option(device.label || "Microphone", device.deviceId));
  $("device").replaceChildren(new Option("The browser's choice", ""), ...options);
  $("device").value = options.some((option) => option.value === chosen) ? chosen : "";
}

async function changeDevice() {
  if (call?.state !== "live") return;
  try {
    const next = await microphone($("device").value);
    await call.replaceTrack(next.stream.getAudioTracks()[0]);
    stopLevel();
    sound.stop();
    sound = next;
    stopLevel = watchLevel(next.stream, $("level"), () => {});
  } catch (error) {
    notice("device", ...inWords(error));
  }
}

function askForToken() {
  $("token-field").hidden = false;
  $("token").disabled = false;
  $("token").focus();
}

/** Links by themselves where no token is needed; with one, the page fetches and hands over the file. */
function linkDownloads() {
  for (const link of $("downloads").children) {
    link.href = `calls/${call.id}/${link.dataset.name}`;
    link.download = link.dataset.name;
  }
  $("downloads").hidden = false;
}

async function download(click) {
  const link = click.target.closest("a");
  if (!link || !$("token").value) return;
  click.preventDefault();
  const blob = await (await call.fetch(link.dataset.name)).blob();
  const made = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: link.download });
  made.click();
  URL.revokeObjectURL(made.href);
}

// Push to talk: held by pointer or by the space bar.

function press() {
  $("talk").dataset.held = "";
  call.press();
}

function release() {
  if (!("held" in $("talk").dataset)) return;
  delete $("talk").dataset.held;
  call.release();
}

function onSpace(key) {
  const inField = key.target.closest("input, select, a, #hangup");
  if (key.code !== "Space" || $("live").hidden || $("talk").hidden || inField) return;
  key.preventDefault();
  if (key.type === "keyup") release();
  else if (!key.repeat) press();
}

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
$("talk").addEventListener("pointerdown", (event) => {
  $("talk").setPointerCapture(event.pointerId);
  press();
});
for (const type of ["pointerup", "pointercancel"]) $("talk").addEventListener(type, release);
document.addEventListener("keydown", onSpace);
document.addEventListener("keyup", onSpace);
window.addEventListener("blur", release); // the key comes up in another window, unseen
$("downloads").addEventListener("click", download);
navigator.mediaDevices?.addEventListener("devicechange", listDevices);

status("idle", "Ready");
chooseSource();
listDevices();
