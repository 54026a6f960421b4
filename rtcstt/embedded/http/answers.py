"""What a transcribed recording looks like in the answer: the vendor's form, and those of OpenAI's clients."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from aiohttp import web

from rtcstt import captions
from rtcstt.embedded.batch import Batch, Word
from rtcstt.embedded.http.upload import refused
from rtcstt.media.tracks import Gap

LONGEST_S = 7.0  # of one segment, as captions should be no longer
LONGEST_TEXT = 84
PAUSE_S = 1.0
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
GRANULARITIES = ("word", "segment")


def transcript(batch: Batch, request_id: str, *, words: bool, gaps: Sequence[Gap] = ()) -> dict[str, object]:
    """The answer of `POST /stt`. ``gaps``, where audio was lost, is an addition of ours."""
    answer = {
        "type": "transcript",
        "text": batch.text,
        "duration": round(batch.duration, 3),
        "language": batch.language,
        "request_id": request_id,
    }
    if gaps:
        answer["gaps"] = [asdict(gap) for gap in gaps]
    return answer | ({"words": _words(batch.words)} if words else {})


def openai(
    batch: Batch,
    response_format: str,
    granularities: Sequence[str] = (),
    *,
    temperature: float = 0.0,
    logprobs: bool = False,
) -> web.Response:
    """The answer of `POST /audio/transcriptions`."""
    match response_format:
        case "json":
            extra: dict[str, object] = {"logprobs": _logprobs(batch.words)} if logprobs else {}
            return web.json_response({"text": batch.text, "usage": usage(batch), **extra})
        case "text":
            return web.Response(text=batch.text + "\n")
        case "verbose_json":
            return web.json_response(_verbose(batch, granularities, temperature))
        case "srt":
            text = captions.subrip(_turns(batch.words))
            return web.Response(text=text, content_type="application/x-subrip")
        case "vtt":
            return web.Response(text=captions.webvtt(_turns(batch.words)), content_type="text/vtt")
    raise refused("response_format", f"must be one of {', '.join(FORMATS)}.")


def usage(batch: Batch) -> dict[str, object]:
    """OpenAI bills by it; here it says how much audio there was."""
    return {"type": "duration", "seconds": math.ceil(batch.duration)}


def delta(text: str) -> bytes:
    """A server-sent event: more of the text."""
    return _event({"type": "transcript.text.delta", "delta": text})


def done(batch: Batch, *, logprobs: bool = False) -> bytes:
    """The last server-sent event: all of the text."""
    extra: dict[str, object] = {"logprobs": _logprobs(batch.words)} if logprobs else {}
    return _event({"type": "transcript.text.done", "text": batch.text, "usage": usage(batch), **extra})


def failed(error: Mapping[str, object]) -> bytes:
    """A server-sent event in place of the rest."""
    return _event({"error": error})


def _event(event: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def _verbose(batch: Batch, granularities: Sequence[str], temperature: float) -> dict[str, object]:
    answer: dict[str, object] = {
        "task": "transcribe",
        "language": {"en": "english"}.get(batch.language, batch.language),
        "duration": round(batch.duration, 3),
        "text": batch.text,
        "usage": usage(batch),
    }
    if "word" in granularities:
        answer["words"] = _words(batch.words)
    if "segment" in granularities or not granularities:
        answer["segments"] = [
            _segment(number, words, temperature) for number, words in enumerate(_segments(batch.words))
        ]
    return answer


def _segment(number: int, words: Sequence[Word], temperature: float) -> dict[str, object]:
    """With every field that OpenAI's has. Whatever is here was taken for speech: ``no_speech_prob`` is 0.
    Tokens are not given: their numbers would mean something else than Whisper's."""
    text = _text(words)
    data = text.encode()
    return {
        "id": number,
        "seek": round(words[0].start * 100),
        "start": words[0].start,
        "end": words[-1].end,
        "text": text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": round(_mean_logprob(words), 4),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 4),
        "no_speech_prob": 0.0,
    }


def _mean_logprob(words: Sequence[Word]) -> float:
    """Of the words whose confidence is known; 0 where none is."""
    known = [_logprob(word) for word in words if word.confidence is not None]
    return sum(known) / len(known) if known else 0.0


def _logprob(word: Word) -> float:
    return math.log(max(word.confidence or 0.0, 1e-6)) if word.confidence is not None else 0.0


def _logprobs(words: Sequence[Word]) -> list[dict[str, object]]:
    """Of words: they are what this recogniser is sure or unsure of."""
    return [
        {"token": word.word, "logprob": round(_logprob(word), 4), "bytes": list(word.word.encode())}
        for word in words
        if word.confidence is not None
    ]


def segments(words: Sequence[Word]) -> Iterator[tuple[Word, Word, str]]:
    """First word, last word and text of each sentence, or of as much of it as makes a caption."""
    for line in _segments(words):
        yield line[0], line[-1], _text(line)


def _segments(words: Sequence[Word]) -> Iterator[list[Word]]:
    line: list[Word] = []
    for word in words:
        if line and _is_full(line, word):
            yield line
            line = []
        line.append(word)
    if line:
        yield line


def _is_full(line: Sequence[Word], following: Word) -> bool:
    return (
        line[-1].word.endswith((".", "?", "!"))
        or following.start - line[-1].end > PAUSE_S
        or following.end - line[0].start > LONGEST_S
        or len(_text(line)) + 1 + len(following.word) > LONGEST_TEXT
    )


def _turns(words: Sequence[Word]) -> list[captions.Turn]:
    """What `captions` makes cues of: the segments, each word with its times."""
    return [
        captions.Turn(
            track="0",
            speaker="",
            turn=number,
            text=_text(line),
            start=line[0].start,
            end=line[-1].end,
            final=True,
            words=tuple((word.start, word.end) for word in line),
        )
        for number, line in enumerate(_segments(words))
    ]


def _text(line: Sequence[Word]) -> str:
    return " ".join(word.word for word in line)


def _words(words: Sequence[Word]) -> list[dict[str, object]]:
    return [_word(word) for word in words]


def _word(word: Word) -> dict[str, object]:
    timed = {"word": word.word, "start": word.start, "end": word.end}
    return timed if word.confidence is None else {**timed, "confidence": word.confidence}
