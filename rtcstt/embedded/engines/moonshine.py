"""Moonshine on onnxruntime: audio in, tokens out, with the beginning of the text forced where wanted.

One pair of sessions serves every stream; `decode` may be called from many threads (onnxruntime
releases the interpreter, and the decoder's cache lives in the call).

What was learned by measuring (word error rate on read speech):

- Zeros around the audio, 0.1 s before and 0.5 s after, take away most invented endings (5.2 -> 2.8 %).
- Forcing what was published as the decoder's prefix makes every hypothesis an extension of it:
  append-only text by construction. Without it, hypotheses and published text drift apart.
- A loop is cut when at least 4 copies and 16 tokens repeat; a stricter guard destroyed "0-0-0".
- Beam search from where the decoder is not sure repairs a fifth of the errors in whole recordings (124 -> 97
  of 1269 words) and costs a third more CPU; more than three texts, a wider margin, a bonus for each token,
  and to begin it where the decoder is surer make no difference.
- One thread per decode is best: two are no faster and cost more.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcstt.embedded.beam import Sentence, Text, likeliest
from rtcstt.embedded.engines.onnx import session
from rtcstt.embedded.hypothesis import CPU, NO_TERMS, Audio, Device, Hypothesis, Spoken, Terms
from rtcstt.embedded.keyterms import KeyTerms
from rtcstt.embedded.levelling import raised
from rtcstt.embedded.word_times import word_starts
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

BEGIN, END = 1, 2
TOKENS_PER_S = 13.0  # more than anybody says: two for each of ", one", numbers being dictated in a hurry
LEAD, TAIL = int(0.1 * SAMPLE_RATE), int(0.5 * SAMPLE_RATE)
SHORTEST = SAMPLE_RATE // 10
STATE = 384  # samples for each of the encoder's states
SHOWN = 12  # states more, each time, that the decoder is shown to find out when words were said
BEHIND, AHEAD = 4, 6  # tokens that are then looked at, before and after those that are known
WIDTH, SURE = 3, 0.6  # how many texts a search looks at; it begins at a token that is less probable
KNOWN = 1.0  # a log-probability that close to its final value is known
_SPACE = "▁".encode()


class Tokens:
    """Moonshine's tokenizer.bin: length-prefixed byte strings, one per token."""

    def __init__(self, path: Path) -> None:
        data, position = path.read_bytes(), 0
        self._tokens: list[bytes] = []
        while position < len(data):
            length = data[position]
            position += 1
            if length >= 128:
                length = data[position] * 128 + length - 128
                position += 1
            self._tokens.append(data[position : position + length])
            position += length

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without space around it."""
        joined = b"".join(self._tokens[token] for token in ids if token > END)
        return joined.decode("utf-8", "ignore").replace("▁", " ").strip()

    def starts_word(self, token: int) -> bool:
        return self._tokens[token].startswith(_SPACE)

    @property
    def spelled(self) -> Sequence[bytes]:
        """What each token stands for."""
        return self._tokens

    @functools.cached_property
    def by_bytes(self) -> dict[bytes, int]:
        """The tokens that stand for these bytes; a word begins with U+2581."""
        return {text: token for token, text in reversed(list(enumerate(self._tokens))) if token > END}

    def is_punctuation(self, token: int) -> bool:
        text = self._tokens[token]
        return bool(text) and text[0] < 128 and not any(chr(byte).isalnum() for byte in text)

    def is_mark(self, token: int) -> bool:
        """Punctuation other than quotes and brackets alone."""
        return self.is_punctuation(token) and any(byte in b".,?!;:-" for byte in self._tokens[token])

    def stops(self) -> list[int]:
        """The tokens that end a sentence, `END` among them. An ellipsis does not: it trails off."""
        return [END, *(t for t in range(END + 1, len(self._tokens)) if self._ends_sentence(t))]

    def _ends_sentence(self, token: int) -> bool:
        text = self._tokens[token].decode("utf-8", "ignore").rstrip("\"')")
        return self.is_punctuation(token) and text.endswith((".", "?", "!")) and not text.endswith("..")


class Moonshine:
    """A recogniser, loaded once. ``folder`` holds encoder, decoder (.ort or .onnx) and tokenizer.bin."""

    live = True  # fast enough to decode the same speech again every half second
    languages: tuple[str, ...] = ("en",)

    def __init__(self, folder: Path, device: Device = CPU) -> None:
        self.name = folder.name
        # The .ort files run as fast without an arena, and memory stays flat after a long segment. The
        # quantized .onnx files expand the last layer at every step: 3 times slower without one.
        arena = not (folder / "encoder_model.ort").exists()
        self._encoder = session(_file(folder, "encoder_model"), arena=arena, device=device.name)
        self._decoder = session(_file(folder, "decoder_model_merged"), arena=arena, device=device.name)
        self._masks_encoder = "attention_mask" in {i.name for i in self._encoder.get_inputs()}
        inputs = self._decoder.get_inputs()
        self._masks_decoder = "encoder_attention_mask" in {i.name for i in inputs}
        self._outputs = [output.name for output in self._decoder.get_outputs()][1:]
        cache = [i for i in inputs if i.name.startswith("past_key_values.")]
        self._empty_cache = {i.name: np.zeros((1, i.shape[1], 1, i.shape[3]), np.float32) for i in cache}
        tokenizer = folder / "tokenizer.bin"
        if not tokenizer.exists():
            raise EngineError(f"{folder} holds no tokenizer.bin")
        self.tokens = Tokens(tokenizer)
        self._stops = np.array(self.tokens.stops())

    def describe(self) -> str:
        return f"Moonshine {self.name} on onnxruntime, English"

    def stream(self, language: str | None = None, keyterms: Terms = NO_TERMS) -> MoonshineStream:
        """What one stream asks: in English, with these terms expected."""
        texts, strength = keyterms
        terms = KeyTerms(texts, self.tokens.by_bytes, strength=strength) if texts and strength else None
        return MoonshineStream(self, terms)

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        terms: KeyTerms | None = None,
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        """The most likely tokens for 16 kHz audio, given that they begin with ``forced``.

        ``draft``: what was decoded of nearly the same audio before. It changes nothing but the cost: one pass
        of the decoder verifies all of it. ``terms``: those that are expected, written in the place of words
        that sound like them.
        ``timed``: also when each word was said, at the cost of another decode. ``thorough``: where a token is
        not sure the likeliest text is searched for, which may cost as much again; not with terms.
        """
        feed = self._encoded(audio)
        known = terms.own(forced) if terms is not None else forced
        most = max(int((len(audio) / SAMPLE_RATE + 0.5) * TOKENS_PER_S), len(forced), len(known)) + 1

        def write(forced: Sequence[int], draft: Sequence[int], terms: KeyTerms | None = None) -> Hypothesis:
            return self._written(feed, forced, draft, most, terms)

        if terms is None:
            found = write(forced, draft)
            if thorough and found.finished:
                found = self._searched(feed, found, len(forced), most)
        else:
            found = terms.decode(write, self.tokens, forced, draft)
        if timed and (thorough or terms is not None):  # it looks at what the decoder knows of these tokens
            self._forget(feed, 0)
            for _ in itertools.islice(self._logits(feed, found.ids, (), ()), 1):
                pass
        return replace(found, words=self._timed(feed, found.ids, len(audio))) if timed else found

    def _written(
        self,
        feed: dict[str, Any],
        forced: Sequence[int],
        draft: Sequence[int],
        most: int,
        terms: KeyTerms | None = None,
    ) -> Hypothesis:
        """What the decoder writes of the encoded audio, at most so many tokens."""
        self._forget(feed, 0)
        expected = draft[len(forced) :] if tuple(draft[: len(forced)]) == tuple(forced) else ()
        ids, odds, last = list(forced), list[float](), 0.0
        finished, stop = False, 0.0
        within = terms.after(forced) if terms is not None else None
        for logits in self._logits(feed, forced, expected, ids):
            if len(ids) >= most:
                break
            token, probabilities = _choose(logits, within.raised() if within else {}, may_end=bool(ids))
            if not (ids and self.tokens.is_mark(ids[-1])):
                stop = float(probabilities[self._stops].sum())  # after the last word so far
            if token == END:
                finished, last = True, float(probabilities[token])
                break
            ids.append(token)
            odds.append(float(probabilities[token]))
            if within is not None:
                within.take(token)
            repeated = loop_start(ids[len(forced) :])
            if repeated is not None:
                del ids[len(forced) + repeated :], odds[repeated:]
                break
        logprobs = np.log(np.maximum([*odds, last] if finished else odds, 1e-30))
        logprob = float(logprobs.mean()) if len(logprobs) else 0.0
        return Hypothesis(tuple(ids), finished, logprob, stop, odds=tuple(odds))

    def _searched(self, feed: dict[str, Any], found: Hypothesis, forced: int, most: int) -> Hypothesis:
        """The likeliest text that begins like ``found``, as far as the decoder was sure of that."""
        sure = next((count for count, odds in enumerate(found.odds) if odds < SURE), None)
        if sure is None:
            return found
        known, odds = found.ids[: forced + sure], found.odds[:sure]
        self._forget(feed, 0)
        logits = next(self._logits(feed, known, (), known))
        feed = {name: value if name == "use_cache_branch" else _times(value) for name, value in feed.items()}

        def step(rows: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
            part = {
                name: value[list(rows)]
                if ".decoder." in name
                else value[: 1 if name == "use_cache_branch" else len(rows)]
                for name, value in feed.items()
            }
            part["input_ids"] = np.array(tokens, np.int64)[:, None]
            logits, *state = self._decoder.run(None, part)
            self._remember(feed, state)
            return np.asarray(logits[:, -1])

        logprob = float(np.log(np.maximum(odds, 1e-30)).sum())
        sentence = Sentence(END, self._stops, self.tokens.is_mark)
        best = likeliest(logits, step, sentence, width=WIDTH, most=most, begun=Text(known, odds, logprob))
        if best is None or best.ids == found.ids or loop_start(best.ids[forced:]) is not None:
            return found
        return Hypothesis(best.ids, True, best.logprob / (len(best.odds) + 1), best.stop, odds=best.odds)

    def _logits(
        self, feed: dict[str, Any], forced: Sequence[int], expected: Sequence[int], ids: Sequence[int]
    ) -> Iterator[NDArray[np.float32]]:
        """What the decoder finds of each next token. Between them ``ids`` grows by the one that was chosen;
        as long as they are those ``expected``, the first pass has said it all."""
        feed["input_ids"] = np.array([[BEGIN, *forced, *expected]], np.int64)
        logits, *state = self._decoder.run(None, feed)
        self._remember(feed, state)
        for known, row in enumerate(logits[0, len(forced) :]):
            yield row
            if known < len(expected) and ids[-1] != expected[known]:
                self._forget(feed, 1 + len(forced) + known)
                break
        while True:
            feed["input_ids"] = np.array([ids[-1:]], np.int64)
            logits, *state = self._decoder.run(None, feed)
            self._remember(feed, state)
            yield logits[0, -1]

    def _timed(self, feed: dict[str, Any], ids: Sequence[int], length: int) -> tuple[Spoken, ...]:
        """Where in the audio, ``length`` samples, each word was said; see `word_times`."""
        first = [i for i, token in enumerate(ids) if i == 0 or self.tokens.starts_word(token)]
        names = self.tokens.text(ids).split()
        if not ids or len(names) != len(first):
            return ()
        states = feed["encoder_hidden_states"].shape[1]
        final = self._logprobs(feed, ids, 0, len(ids), states)
        times_s, rows, known = list[float](), list[NDArray[np.float32]](), 0
        for shown in range(SHOWN, states, SHOWN):
            begin, end = max(0, known - BEHIND), min(len(ids), known + AHEAD)
            row = np.full(len(ids), np.nan, np.float32)
            row[begin:end] = self._logprobs(feed, ids, begin, end, shown)
            while known < end and row[known] >= final[known] - KNOWN:
                known += 1
            times_s.append((shown * STATE - LEAD) / SAMPLE_RATE)
            rows.append(row)
        found = np.array(rows).reshape(len(rows), len(ids))[:, first]
        starts_s = word_starts(times_s, found, final[first], [len(name) for name in names])
        starts = [min(round(at * SAMPLE_RATE), length) for at in starts_s]
        ends = [*starts[1:], length]
        return tuple(Spoken(*word) for word in zip(names, starts, ends, strict=True))

    def _logprobs(
        self, feed: dict[str, Any], ids: Sequence[int], begin: int, end: int, shown: int
    ) -> NDArray[np.float32]:
        """How probable the tokens from ``begin`` to ``end`` are, when so many of the encoder's states are
        seen. What the decoder knows of the tokens before is left as it is."""
        part: dict[str, Any] = {**feed, "use_cache_branch": np.array([True])}
        for name in self._outputs:
            name = "past_key_values." + name.removeprefix("present.")
            part[name] = part[name][:, :, : begin if ".decoder." in name else shown]
        part["encoder_hidden_states"] = feed["encoder_hidden_states"][:, :shown]
        if self._masks_decoder:
            part["encoder_attention_mask"] = feed["encoder_attention_mask"][:, : (shown + 2) * STATE - 1]
        part["input_ids"] = np.array([[BEGIN, *ids][begin:end]], np.int64)
        logits = self._decoder.run(["logits"], part)[0][0]
        most = logits.max(axis=1)
        chosen = logits[np.arange(end - begin), list(ids[begin:end])]
        logprobs: NDArray[np.float32] = chosen - most - np.log(np.exp(logits - most[:, None]).sum(axis=1))
        return logprobs

    def _encoded(self, audio: Audio) -> dict[str, Any]:
        padded = np.pad(audio, (LEAD, max(TAIL, SHORTEST - len(audio)))).astype(np.float32)
        feed: dict[str, Any] = {"input_values": padded[None]}
        if self._masks_encoder:
            feed["attention_mask"] = np.ones((1, len(padded)), np.int64)
        hidden = self._encoder.run(None, feed)[0]
        first: dict[str, Any] = {"encoder_hidden_states": hidden, "use_cache_branch": np.array([False])}
        if self._masks_decoder:
            first["encoder_attention_mask"] = np.ones((1, len(padded)), np.int64)
        return {**first, **self._empty_cache}

    def _remember(self, feed: dict[str, Any], state: list[Any]) -> None:
        """What the decoder knows goes into its next step; of the encoder's part only the first time."""
        first = not feed["use_cache_branch"][0]
        for name, value in zip(self._outputs, state, strict=True):
            if first or ".decoder." in name:
                feed["past_key_values." + name.removeprefix("present.")] = value
        feed["use_cache_branch"] = np.array([True])

    def _forget(self, feed: dict[str, Any], length: int) -> None:
        """Of what the decoder knows only so many tokens from the beginning are kept."""
        if not feed["use_cache_branch"][0]:
            return
        for name in self._outputs:
            if ".decoder." in name:
                name = "past_key_values." + name.removeprefix("present.")
                feed[name] = feed[name][:, :, :length]


class MoonshineStream:
    """The model for one stream; ``terms`` are those that are expected in it."""

    def __init__(self, model: Moonshine, terms: KeyTerms | None = None) -> None:
        self._model = model
        self._terms = terms
        self.tokens = model.tokens

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        return self._model.decode(raised(audio), forced, draft, self._terms, timed=timed, thorough=thorough)


def loop_start(ids: Sequence[int], *, longest: int = 10) -> int | None:
    """Where the tokens began to go round in circles: at least 4 copies and 16 tokens; None if not."""
    for size in range(1, longest + 1):
        copies = max(4, -(-16 // size))
        tail = list(ids[-size:])
        if len(ids) >= size * copies and list(ids[-size * copies :]) == tail * copies:
            return len(ids) - size * (copies - 1)
    return None


def _choose(
    logits: NDArray[np.float32], raised: Mapping[int, float], *, may_end: bool
) -> tuple[int, NDArray[np.float32]]:
    """The best token, and the probability of each. Something is said: whether at all was decided before."""
    if raised or not may_end:
        logits = logits.copy()
    for token, by in raised.items():
        logits[token] += by
    if not may_end:
        logits[END] = -np.inf
    token = int(logits.argmax())
    weights = np.exp(logits - logits[token])
    return token, weights / weights.sum()


def _times(value: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(value, WIDTH, axis=0)


def _file(folder: Path, stem: str) -> Path:
    for suffix in (".ort", ".onnx"):
        if (folder / (stem + suffix)).exists():
            return folder / (stem + suffix)
    raise EngineError(f"{folder} holds no {stem}.ort or {stem}.onnx")
