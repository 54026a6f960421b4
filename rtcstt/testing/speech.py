"""Invented speech whose words an oracle can read back from the audio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rtcstt import wire
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples

# -- audio that carries its transcript ---------------------------------------------------------------

_FRAME = 160  # a word is a row of such frames, each with a header: magic, index, count, length, text
_MAGIC = (23130, -23131)
_MAX_LETTERS = 60


def _word(text: str, duration_s: float, seed: int) -> Samples:
    letters = text.encode()
    if not 0 < len(letters) <= _MAX_LETTERS:
        raise ValueError(f"a word of 1 to {_MAX_LETTERS} bytes, not {text!r}")
    count = max(2, round(duration_s * SAMPLE_RATE / _FRAME))
    period = np.random.default_rng(seed).integers(-6000, 6000, _FRAME).astype(np.int16)
    sound = np.tile(period, (count, 1))  # a voice of 100 Hz
    sound[:, 0:2] = _MAGIC
    sound[:, 2] = np.arange(count)
    sound[:, 3:5] = (count, len(letters))
    sound[:, 5 : 5 + len(letters)] = np.frombuffer(letters, np.uint8)
    return sound.reshape(-1)


def speech(text: str | Sequence[str], *, word_s: float = 0.2, gap_s: float = 0.06) -> Samples:
    """The words of ``text``, each ``word_s`` long and with ``gap_s`` of silence behind it."""
    spoken = text.split() if isinstance(text, str) else text
    gap = silence(gap_s)
    parts = [part for i, word in enumerate(spoken) for part in (_word(word, word_s, i), gap)]
    return np.concatenate(parts) if parts else silence(0)


def silence(duration_s: float) -> Samples:
    """Zeros."""
    return np.zeros(round(duration_s * SAMPLE_RATE), np.int16)


def noise(duration_s: float, *, level_db: float = -30.0, seed: int = 0) -> Samples:
    """White noise that carries no word; ``level_db`` relative to full scale."""
    sound = np.random.default_rng(seed).normal(
        0.0, 32768.0 * 10 ** (level_db / 20), round(duration_s * SAMPLE_RATE)
    )
    return np.clip(sound, -32768, 32767).astype(np.int16)


def chunks(samples: Samples, *, chunk_ms: int = 100, start: int = 0) -> Iterator[Chunk]:
    """The audio cut as a call cuts it."""
    size = chunk_ms * SAMPLE_RATE // 1000
    for offset in range(0, len(samples), size):
        yield Chunk(samples[offset : offset + size], start + offset)


class _Sends(Protocol):
    def send(self, chunk: Chunk) -> None: ...


async def play(stream: _Sends, samples: Samples, *, chunk_ms: int = 100, start: int = 0) -> int:
    """Send audio to a stream at real-time pace; returns the sample behind it, to go on from."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for chunk in chunks(samples, chunk_ms=chunk_ms, start=start):
        due = begin + (chunk.start - start + len(chunk.samples)) / SAMPLE_RATE
        await asyncio.sleep(max(0.0, due - loop.time()))
        stream.send(chunk)
    return start + len(samples)


class _Event(Protocol):
    @property
    def type(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, object]: ...


def transcript(events: Iterable[_Event]) -> str:
    """The full text of what a listener got: `turn.end` transcripts (manual: final texts), verbatim."""
    texts = []
    for event in events:
        if event.type == "turn.end":
            texts.append(str(event.fields["transcript"]))
        elif event.type == "transcript" and event.fields["is_final"]:
            texts.append(str(event.fields["text"]))
    return "".join(texts)


# -- the recogniser for it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A word found in the audio, with the sample behind its last one."""

    text: str
    end: int


class _Receiver:
    """Finds the words in a stream of samples, however it is cut. A word of which less than half arrives
    (the audio began in the middle of it) is not received."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.int16)
        self._position = 0
        self._frames = 0
        self._from = -1

    def receive(self, samples: Samples) -> list[tuple[int, str | None]]:
        """(sample, None) for every frame of a word; (sample, text) where a word is complete."""
        pcm = np.concatenate([self._rest, samples])
        usable = max(0, len(pcm) - _FRAME + 1)
        found: list[tuple[int, str | None]] = []
        for at in (
            np.flatnonzero((pcm[:usable][:-1] == _MAGIC[0]) & (pcm[1:usable] == _MAGIC[1]))
            if usable > 1
            else []
        ):
            found.append(self._frame(pcm[at : at + _FRAME], self._position + int(at)))
        self._position += max(0, usable - 1)
        self._rest = pcm[max(0, usable - 1) :]
        return found

    def _frame(self, frame: Samples, at: int) -> tuple[int, str | None]:
        index, count, length = (int(n) for n in frame[2:5])
        self._frames = 1 if index == 0 or at != self._from else self._frames + 1
        self._from = at + _FRAME
        complete = index == count - 1 and self._frames * 2 >= count
        text = bytes(frame[5 : 5 + length].astype(np.uint8)).decode(errors="replace") if complete else None
        return at + _FRAME, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """How the recogniser of `speech` behaves; times in seconds of audio.

    ``hold_words`` are kept back until the next word or the pause; ``latency_s`` delays every message;
    ``max_words`` ends a turn (manual: makes a final) in the middle of the speech. ``mishear`` changes words
    (a recogniser does not say twice the same). ``late_text`` gives no text before the end of the turn.
    ``durations``: whether manual finals say how much audio they are of. ``positions``: whether messages say
    how much audio they are made from, as the embedded recogniser's do.
    """

    start_s: float = 0.1
    eager_end_s: float | None = 0.35
    end_s: float = 0.6
    latency_s: float = 0.0
    hold_words: int = 1
    max_words: int | None = None
    late_text: bool = False
    mishear: Mapping[str, str] = field(default_factory=dict)
    durations: bool = True
    positions: bool = False


class _Recogniser:
    """The STT's side of one connection: audio and commands in, messages out, each with the sample from which
    it is due. Both endpoints; time is samples received."""

    def __init__(self, oracle: Oracle, *, manual: bool, request_id: str) -> None:
        self._oracle = oracle
        self._manual = manual
        self._id = request_id
        self._receiver = _Receiver()
        self.received = 0
        self._pending: deque[tuple[int, wire.ServerMessage]] = deque()
        self._words: list[str] = []
        self._speaking = False
        self._eager = False
        self._voiced = 0
        self._last_voice = 0
        self._published = ""
        self._ended = 0
        self._finals_from = 0

    def receive(self, samples: Samples) -> None:
        """Take in audio; `due` then has what is to be said."""
        found = self._receiver.receive(samples)
        self.received += len(samples)
        for at, text in found:
            self._pause(at - _FRAME)
            self._voice(at)
            if text is not None:
                self._words.append(self._oracle.mishear.get(text, text))
                self._on_word(at)
        self._pause(self.received)

    def due(self, *, everything: bool = False) -> Iterator[wire.ServerMessage]:
        """The messages whose time has come."""
        while self._pending and (everything or self._pending[0][0] <= self.received):
            yield self._pending.popleft()[1]

    def _say(self, at: int, message: wire.ServerMessage) -> None:
        if self._oracle.positions:
            message = replace(message, extra={wire.AUDIO_POSITION: at / SAMPLE_RATE})
        self._pending.append((at + round(self._oracle.latency_s * SAMPLE_RATE), message))

    def _text(self, held: int = 0) -> str:
        said = self._words[: max(0, len(self._words) - held)]
        text = " ".join(said)
        return " " + text if text and self._ended else text

    def _voice(self, at: int) -> None:
        self._voiced += _FRAME
        self._last_voice = at
        if self._manual:
            return
        if self._eager:
            self._eager = False
            self._say(at, wire.TurnResume(request_id=self._id))
        if not self._speaking and self._voiced >= self._oracle.start_s * SAMPLE_RATE:
            self._speaking = True
            self._say(at, wire.TurnStart(request_id=self._id))

    def _on_word(self, at: int) -> None:
        if self._manual:
            text = self._text()
            if self._oracle.max_words and len(self._words) >= self._oracle.max_words:
                self._final(at)
            elif not self._oracle.late_text:
                self._say(at, wire.Transcript(request_id=self._id, is_final=False, text=text))
            return
        if not self._speaking:
            return
        if self._oracle.max_words and len(self._words) >= self._oracle.max_words:
            self._end(at)
        elif not self._oracle.late_text:
            self._update(at, self._text(self._oracle.hold_words))

    def _update(self, at: int, text: str) -> None:
        if len(text) > len(self._published):
            self._published = text
            self._say(at, wire.TurnUpdate(request_id=self._id, transcript=text))

    def _pause(self, at: int) -> None:
        quiet = (at - self._last_voice) / SAMPLE_RATE
        if self._manual or not self._speaking:
            if quiet > 0.5:
                self._voiced = 0
            return
        eager = self._oracle.eager_end_s
        if eager is not None and quiet >= eager and not self._eager:
            self._eager = True
            self._published = self._text()
            self._say(
                self._last_voice + round(eager * SAMPLE_RATE),
                wire.TurnEagerEnd(request_id=self._id, transcript=self._published),
            )
        if quiet >= self._oracle.end_s:
            self._end(self._last_voice + round(self._oracle.end_s * SAMPLE_RATE))

    def _end(self, at: int) -> None:
        self._say(at, wire.TurnEnd(request_id=self._id, transcript=self._text()))
        self._ended += 1
        self._words, self._published = [], ""
        self._speaking = self._eager = False
        self._voiced = 0

    def finalize(self) -> None:
        """Manual: what was received so far, then `flush_done`."""
        self._final(self.received)
        self._say(self.received, wire.FlushDone(request_id=self._id))

    def _final(self, at: int) -> None:
        if self._words:
            text = self._text()
            duration = (at - self._finals_from) / SAMPLE_RATE if self._oracle.durations else None
            self._say(at, wire.Transcript(request_id=self._id, is_final=True, text=text, duration=duration))
            self._ended += 1
            self._words = []
            self._finals_from = at

    def close(self) -> None:
        """Everything still due."""
        if self._manual:
            self._final(self.received)
            self._say(self.received, wire.Done(request_id=self._id))
        elif self._words or self._speaking:
            if not self._speaking:
                self._say(self.received, wire.TurnStart(request_id=self._id))
            self._end(self.received)
