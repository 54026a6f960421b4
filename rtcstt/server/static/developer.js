// For developers: how late the text is, every event as it came, and the same call in code.

import { copy, h, panel } from "./dom.js";

const KEPT = 300; // events
const MEASURED = 20; // updates

/** `settings()` are the options of `connect` that were chosen. */
export function developer(base, settings) {
  const late = h("output", { id: "latency" }, "-");
  const engine = h("output", { id: "engine" }, "-");
  const log = h("pre", { id: "events", tabIndex: 0, role: "region", "aria-label": "Events, newest last" });
  const lines = [];
  const delays = [];
  const write = () => {
    log.textContent = lines.join("\n");
    log.scrollTop = log.scrollHeight;
  };
  const box = panel("developer", "For developers", [
    h("p", {}, "Recognizer: ", engine, h("br"), "Sound to text: ", late),
    h("div", { className: "row" }, ...codeButtons(base, settings)),
    log,
  ], write);
  return {
    box,
    receive(event) {
      if (event.type === "session.start") engine.textContent = event.engine ?? "-";
      lines.push(JSON.stringify(event));
      if (lines.length > KEPT) lines.shift();
      if (event.type === "turn.update" && event.end !== undefined) {
        delays.push(Math.max(0, event.time - event.end)); // published at, less what it is the text of
        if (delays.length > MEASURED) delays.shift();
        const middle = [...delays].sort((a, b) => a - b)[delays.length >> 1];
        late.textContent = `${middle.toFixed(2)} s (median of ${delays.length})`;
      }
      if (box.open) write();
    },
  };
}

function codeButtons(base, settings) {
  return Object.entries({ JavaScript: javascript, Python: python, curl }).map(([name, code]) => {
    const button = h("button", { type: "button", onclick: () => copy(button, code(base.href, settings())) }, `Copy as ${name}`);
    return button;
  });
}

const json = (value) => JSON.stringify(value, null, 2);

export function javascript(base, options) {
  const given = Object.entries(options).map(([name, value]) => `  ${name}: ${JSON.stringify(value)},\n`).join("");
  return `import { connect } from "${base}rtcstt.js";

const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
const call = await connect({
  stream,
${given}});
call.on("turn.update", ({ track, turn, transcript }) => console.log(track, turn, transcript));
call.on("turn.end", ({ track, turn, transcript }) => console.log(track, turn, transcript));
// later: const { complete, missing } = await call.close();
`;
}

export function python(base, options) {
  return `import json
import urllib.request

# One call's events, as they come; place a call on the page first.
with urllib.request.urlopen("${base}calls") as answer:
    call = json.load(answer)["calls"][-1]["call"]
with urllib.request.urlopen(f"${base}calls/{call}/events") as events:
    for line in events:
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if event["type"] == "turn.end":
                print(event["transcript"])
# The page offered: ${JSON.stringify(options)}
`;
}

export function curl(base, options) {
  return `# An offer's other fields: ${json(options).replaceAll("\n", "\n# ")}
curl -N ${base}calls/CALL/events
curl ${base}calls/CALL/captions.vtt
`;
}
