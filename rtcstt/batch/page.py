"""An HTML page of all transcripts of a run, to search; a click on a line plays the recording; a core."""

from __future__ import annotations

import html
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from rtcstt import captions
from rtcstt.batch.formats import marked, missing
from rtcstt.batch.run import Result
from rtcstt.batch.sources import printable
from rtcstt.batch.transcripts import Transcription, sentences

_VIDEO = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ogv", ".avi"}


def page(results: Sequence[Result], folder: Path, offset: float = 0.0) -> str:
    """The page, for a file in ``folder``: the recordings are linked from there. ``offset``: what was added to
    their times."""
    done = [result for result in results if result.transcription is not None]
    sections = "\n".join(line for result in done for line in _section(result, folder, offset))
    failed = "".join(
        f"<li>{_text(printable(result.source))}: {_text(result.error)}</li>"
        for result in results
        if result.status == "failed"
    )
    count = failed.count("<li>")
    trouble = f"<details><summary>{count} failed</summary><ul>{failed}</ul></details>" if failed else ""
    return _PAGE.format(
        style=_STYLE,
        script=_SCRIPT,
        count=_count(len(done), "transcript"),
        trouble=trouble,
        sections=sections,
    )


def _section(result: Result, folder: Path, offset: float) -> Iterator[str]:
    whole = result.transcription
    assert whole is not None
    kind = "video" if result.source.suffix.lower() in _VIDEO else "audio"
    yield (
        f'<section data-src="{_link(result.source, folder)}" data-kind={kind} data-offset="{offset:g}">'
        f"<h2>{_text(whole.name)}</h2>"
        f"<p class=about>{captions.stamp(round(whole.duration), '.')[:8]}, "
        f"{_count(len(whole.text.split()), 'word')}, "
        f"{_text(whole.language or '')} {_text(whole.model)}</p><div class=player></div><ol>"
    )
    yield from (line for _, line in sorted(_lines(whole), key=lambda line: line[0]))
    yield "</ol></section>"


def _lines(whole: Transcription) -> Iterator[tuple[float, str]]:
    for gap in marked(whole):
        yield gap.start, f"<li class=gap>{_text(missing(gap))}</li>"
    for turn in itertools.chain.from_iterable(map(sentences, whole.turns)):
        who = f"<b>{_text(turn.speaker)}</b> " if turn.speaker else ""
        time = captions.stamp(turn.start, ".")[:8]
        yield (
            turn.start,
            f'<li><button type=button data-t="{turn.start:.2f}"><time>{time}</time> {who}'
            f"<span>{_text(turn.text.strip())}</span></button></li>",
        )


def _link(source: Path, folder: Path) -> str:
    try:
        path = os.path.relpath(source.absolute(), folder.absolute())
    except ValueError:  # on another drive
        path = str(source.absolute())
    return quote(os.fsencode(Path(path).as_posix()))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _text(text: str) -> str:
    return html.escape(text)


_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 15%, Canvas);
  --dim: color-mix(in srgb, CanvasText 68%, Canvas); --focus: light-dark(#1a5fd0, #8ab4ff); }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 0 1rem 4rem; }
header { position: sticky; top: 0; z-index: 2; background: Canvas; padding: 1rem 0 .5rem;
  border-bottom: 1px solid var(--line); }
h1 { font-size: 1.25rem; margin: 0 0 .5rem; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem .75rem;
  border: 1px solid var(--dim); border-radius: .375rem; }
section { content-visibility: auto; contain-intrinsic-size: auto 20rem; }
h2 { font-size: 1.1rem; margin: 1.75rem 0 0; overflow-wrap: anywhere; }
.about, time, .gap { color: var(--dim); }
.about { margin: 0 0 .5rem; font-size: .875rem; }
ol { list-style: none; margin: 0; padding: 0; }
li button { font: inherit; color: inherit; background: none; border: 0; border-radius: .25rem;
  text-align: start; width: 100%; padding: .2rem .4rem; cursor: pointer; display: flex; gap: .6rem; }
li button:hover { background: color-mix(in srgb, Highlight 15%, Canvas); }
li button:focus-visible, input:focus-visible { outline: 2px solid var(--focus); outline-offset: 1px; }
li button.now { background: color-mix(in srgb, Highlight 25%, Canvas); }
li.gap { padding: .2rem .4rem; }
time { font-variant-numeric: tabular-nums; flex: none; font-size: .875rem; padding-top: .1rem; }
mark { background: Mark; color: MarkText; }
.player { position: sticky; top: var(--header, 0); z-index: 1; background: Canvas; }
audio, video { display: block; width: 100%; max-height: min(20rem, 35vh); padding: .25rem 0; }
[hidden] { display: none; }
"""

_SCRIPT = """
const find = document.querySelector("input"), count = document.querySelector("output");
const header = document.querySelector("header");
new ResizeObserver(() => document.documentElement.style.setProperty("--header", `${header.offsetHeight}px`))
  .observe(header);  // the player stays in view below it
if (matchMedia("(hover: hover)").matches) find.focus();  // elsewhere it would bring up a keyboard
const sections = [...document.querySelectorAll("section")].map((element) => ({
  element,
  name: element.querySelector("h2").textContent.toLowerCase(),
  lines: [...element.querySelectorAll("li")].map((line) => ({ line, text: line.textContent.toLowerCase() })),
}));
function search() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, name, lines } of sections) {
    let any = words.length > 0 && words.every((word) => name.includes(word));
    const all = any || !words.length;
    for (const { line, text } of lines) {
      line.hidden = !all && !words.every((word) => text.includes(word));
      if (!line.hidden) { any = true; shown += 1; }
      highlight(line.querySelector("span"), words);
    }
    element.hidden = words.length > 0 && !any;
  }
  count.textContent = words.length ? `${shown} ${shown === 1 ? "line" : "lines"}` : "";
}
function highlight(span, words) {
  if (!span || (!words.length && !span.querySelector("mark"))) return;
  const text = span.textContent, lower = text.toLowerCase(), parts = [];
  let at = 0;
  while (words.length && lower.length === text.length) {
    const hits = words.map((word) => [lower.indexOf(word, at), word]).filter(([place]) => place >= 0);
    if (!hits.length) break;
    const [place, word] = hits.sort((a, b) => a[0] - b[0])[0];
    const mark = document.createElement("mark");
    mark.textContent = text.slice(place, place + word.length);
    parts.push(text.slice(at, place), mark);
    at = place + word.length;
  }
  span.replaceChildren(...parts, text.slice(at));
}
let waiting = 0;
find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 80); });
document.addEventListener("click", (event) => {
  const button = event.target.closest("li button");
  if (!button) return;
  const section = button.closest("section"), box = section.querySelector(".player");
  for (const other of document.querySelectorAll("audio, video")) if (!box.contains(other)) other.pause();
  let player = box.firstElementChild;
  if (!player) {
    player = document.createElement(section.dataset.kind);
    player.controls = true;
    player.src = section.dataset.src;
    player.addEventListener("error", () => box.replaceChildren("This browser cannot play the recording."));
    player.addEventListener("timeupdate", () => follow(section, player.currentTime));
    box.append(player);
  }
  player.currentTime = Math.max(0, button.dataset.t - section.dataset.offset);
  player.play().catch(() => {});
});
function follow(section, time) {
  let now = null;
  for (const button of section.querySelectorAll("li button")) {
    button.classList.remove("now");
    if (button.dataset.t - section.dataset.offset <= time + 0.05) now = button;
  }
  now?.classList.add("now");
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Transcripts</title>
<style>{style}</style>
<header>
<h1>{count}</h1>
<input type="search" placeholder="Search all transcripts" aria-label="Search all transcripts">
<output aria-live="polite"></output>
</header>
<main>
{trouble}
{sections}
</main>
<script>{script}</script>
</html>
"""
