// The audio ledger over time: what part of each second was received, repaired, or silence put in.

const KEPT = 600; // columns
const KINDS = ["silence", "repaired", "received"];

export class Ledger {
  #box;
  #rows = new Map(); // track -> { canvas, words, last, columns }

  constructor(box) {
    this.#box = box;
  }

  clear() {
    this.#box.replaceChildren();
    this.#rows.clear();
  }

  /** `tracks` as in GET /calls/ID; each time adds one column per track. */
  show(tracks) {
    this.take(tracks);
    this.draw();
  }

  /** What was taken so far, once somebody looks. */
  draw() {
    for (const { canvas, columns } of this.#rows.values()) draw(canvas, columns);
  }

  /** The same, while nobody looks. */
  take(tracks) {
    tracks.forEach(({ track, ledger }, index) => {
      if (!ledger) return;
      if (!this.#rows.has(track)) this.#rows.set(track, this.#row(index));
      const row = this.#rows.get(track);
      const now = totals(ledger);
      const column = KINDS.map((kind) => Math.max(0, now[kind] - row.last[kind]));
      if (column.some((part) => part > 0)) row.columns.push(column);
      if (row.columns.length > KEPT) row.columns.shift();
      row.last = now;
      const seconds = (kind) => (now[kind] / 1000).toFixed(1);
      row.words.textContent =
        `Speaker ${index + 1}: received ${seconds("received")} s, repaired ${seconds("repaired")} s, ` +
        `silence put in ${seconds("silence")} s`;
    });
  }

  #row(index) {
    const figure = document.createElement("div");
    figure.className = "timeline";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true"); // the sentence below says it
    const words = document.createElement("p");
    figure.append(canvas, words);
    this.#box.append(figure);
    return { canvas, words, columns: [], last: { received: 0, repaired: 0, silence: 0 } };
  }
}

function totals({ received, recovered, concealed, silence }) {
  return { received, repaired: recovered + concealed, silence };
}

/** What the page's color comes to here: a canvas takes neither `var()` nor `light-dark()`. */
function colorOf(canvas, kind) {
  canvas.style.color = `var(--${kind})`;
  return getComputedStyle(canvas).color;
}

function draw(canvas, columns) {
  const scale = window.devicePixelRatio;
  const width = (canvas.width = canvas.clientWidth * scale);
  const height = (canvas.height = canvas.clientHeight * scale);
  const colors = KINDS.map((kind) => colorOf(canvas, kind));
  const paint = canvas.getContext("2d");
  const step = Math.min(10 * scale, width / Math.max(1, columns.length));
  columns.forEach((column, index) => {
    const whole = column.reduce((sum, part) => sum + part);
    let top = 0;
    KINDS.forEach((kind, place) => {
      const share = (column[place] / whole) * height;
      // What little was repaired must still be seen.
      const tall = kind === "repaired" && share > 0 ? Math.max(share, 3 * scale) : share;
      paint.fillStyle = colors[place];
      paint.fillRect(index * step, top, Math.max(1, step - scale), tall);
      top += tall;
    });
  });
}
