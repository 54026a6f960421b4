"""What a transcribed recording looks like in the answer: the vendor's form, and those of OpenAI's clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from rtcstt.embedded.batch import Batch, Word
from rtcstt.wire import bad_request

LONGEST_S = 7.0  # of one segment, as captions should be no longer
LONGEST_TEXT = 84
PAUSE_S = 1.0


def transcript(batch: Batch, request_id: str, *, words: bool) -> dict[str, Any]:
    """The answer of `POST /stt`."""
    answer = {
        "type": "transcript",
        "text": batch.text,
        "duration": round(batch.duration, 3),
        "language": batch.language,
        "request_id": request_id,
    }
    return answer | ({"words": _words(batch.words)} if words else {})


def openai(batch: Batch, response_format: str, granularities: Sequence[str]) -> web.Response:
    """The answer of `POST /audio/transcriptions`."""
    match response_format:
        case "json":
            return web.json_response({"text": batch.text})
        case "text":
            return web.Response(text=batch.text + "\n")
        case "verbose_json":
            return web.json_response(_verbose(batch, granularities))
        case "srt":
            return web.Response(text=_captions(batch, ","), content_type="application/x-subrip")
        case "vtt":
            return web.Response(
                text="WEBVTT\n\n" + _captions(batch, ".", numbered=False), content_type="text/vtt"
            )
    raise bad_request("response_format must be json, text, verbose_json, srt or vtt.")


def _verbose(batch: Batch, granularities: Sequence[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": {"en": "english"}.get(batch.language, batch.language),
        "duration": round(batch.duration, 3),
        "text": batch.text,
    }
    if "word" in granularities:
        answer["words"] = _words(batch.words)
    if "segment" in granularities or not granularities:
        answer["segments"] = [
            {"id": number, "start": first.start, "end": last.end, "text": text}
            for number, (first, last, text) in enumerate(segments(batch.words))
        ]
    return answer


def segments(words: Sequence[Word]) -> Iterator[tuple[Word, Word, str]]:
    """First word, last word and text of each sentence, or of as much of it as makes a caption."""
    line: list[Word] = []
    for word in words:
        if line and _is_full(line, word):
            yield line[0], line[-1], _text(line)
            line = []
        line.append(word)
    if line:
        yield line[0], line[-1], _text(line)


def _is_full(line: Sequence[Word], following: Word) -> bool:
    return (
        line[-1].word.endswith((".", "?", "!"))
        or following.start - line[-1].end > PAUSE_S
        or following.end - line[0].start > LONGEST_S
        or len(_text(line)) + 1 + len(following.word) > LONGEST_TEXT
    )


def _captions(batch: Batch, point: str, *, numbered: bool = True) -> str:
    cues = []
    for number, (first, last, text) in enumerate(segments(batch.words), 1):
        head = f"{number}\n" if numbered else ""
        cues.append(f"{head}{_clock(first.start, point)} --> {_clock(last.end, point)}\n{text}\n")
    return "\n".join(cues)


def _clock(at_s: float, point: str) -> str:
    seconds, milliseconds = divmod(round(at_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _text(line: Sequence[Word]) -> str:
    return " ".join(word.word for word in line)


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"word": word.word, "start": word.start, "end": word.end} for word in words]
