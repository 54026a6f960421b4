"""The text of one turn as it grows: audio cut into segments, each decoded with what was published of it
forced.

The text is append-only by construction: `TurnText.publish` takes nothing that does not begin with the text
before. A core; what happens when is `listener`'s.

- What the last two hypotheses agree on is published, cut back to a whole word, less the newest word and
  punctuation, which may still change.
- A decode without the silence behind it (silence makes the model invent words) is kept for the pause, so that
  the end of a turn costs no further one.
- A decode that went in circles, or did not stop, is missing what follows in the audio. The audio is then cut
  in two and decoded in parts.
- A full stop in the midst of a turn is left out where the model was not sure of it; an eager end may be
  wrong.
- When speech goes on after an eager end, its last word may turn out to be half of one ("America",
  "Americans"), and its full stop a comma. So it is decoded once more, and taken where its words continue the
  published text, in which that full stop stays.

Nothing is decoded in which there was not at least 0.2 s of voice, because a recogniser asked what was said in
a cough will answer. It answers music as well ("Thank you for watching!") with odds that are no worse than for
speech in noise. The voice detector tells: the frames that it takes for voice average 0.42 to 0.85 in music,
0.83 and more in speech. So what is said of doubtful voice is believed only when the recogniser is rather
sure, and the surer the more it says in so short a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from rtcstt.embedded import dictated
from rtcstt.embedded.cuts import Tail, part, quietest
from rtcstt.embedded.hypothesis import (
    FRAME,
    Audio,
    Hypothesis,
    Recogniser,
    Spoken,
    Streaming,
    Vocabulary,
)
from rtcstt.embedded.wording import common, continued, joined, letters, uncapitalised, unmarked, whole_words
from rtcstt.media.pcm import SAMPLE_RATE

PRE_ROLL = int(0.5 * SAMPLE_RATE)  # before a turn, so that its first sound is in it
AGREE = 2  # hypotheses; on a word of which the model is not sure, more
SURE_TOKEN, AGREE_UNSURE = 0.5, 4
CUT_WITHIN = 2 * SAMPLE_RATE  # where a segment is cut without a pause
HARD, HARD_STREAMED = 14 * SAMPLE_RATE, 60 * SAMPLE_RATE  # when a segment must be closed
LEAD = int(0.1 * SAMPLE_RATE)  # of silence that is decoded before the first speech
UNSURE, LEAD_AGAIN = -0.3, int(0.3 * SAMPLE_RATE)  # of a mean log-probability; and how it is asked then
TRIM = int(0.15 * SAMPLE_RATE)  # of silence that is decoded after the last speech
APART = int(0.1 * SAMPLE_RATE)  # of silence, for what was said before and after it to be decoded apart
MIN_VOICED = int(0.2 * SAMPLE_RATE)
# Mean log-probabilities: the least that is believed of a clear voice; of a doubtful one, there so much more
# for each letter a second above so many; what is believed of a clear voice however fast it was.
UNLIKELY, LIKELY, SURE = -1.5, -0.9, -0.3
PER_LETTER, UNHURRIED = 0.02, 12
DOUBTFUL, CLEAR = 0.80, 0.89  # mean voice activity of what may be no voice at all, and of what is
LETTERS, LETTERS_PER_S = 2, 20  # the most that is said in so many seconds of voice
# What recognisers write of music and nobody says; and what they say of it.
UNSAID = frozenset("©♪")
INVENTED = frozenset(
    "you so mm mmm hm hmm oh um uh soforexample thankyouforwatching thanksforwatching".split()
)
SURE_STOP = 0.85  # the probability of a full stop that stays in the midst of a turn

Run = tuple[int, int]  # samples between which there is voice


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was said in a stretch of the stream. ``runs``: where in it there is voice, ``words``: where
    each word is, if that is known; ``odds``: how sure each word is, if that is known."""

    text: str
    runs: tuple[Run, ...]
    words: tuple[Spoken, ...] = ()
    odds: tuple[float, ...] = ()

    @property
    def start(self) -> int:
        return self.runs[0][0] if self.runs else 0

    @property
    def end(self) -> int:
        return self.runs[-1][1] if self.runs else 0


@dataclass(slots=True)
class Segment:
    """The open part of a turn. ``start`` is a sample of the stream, all others count from there."""

    start: int
    continues: bool = False  # a sentence that an earlier segment has begun
    ids: tuple[int, ...] = ()  # published
    odds: tuple[float, ...] = ()  # of those
    text: str = ""  # of those
    forced: tuple[int, ...] = ()  # those of them that the next decode has to begin with
    draft: tuple[int, ...] = ()  # the last hypothesis
    recent: list[tuple[int, ...]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    certainty: float = 0.0  # voice activity, summed over the voiced samples
    settled: int = 0  # where the speech ended that was decoded for an eager end
    settled_text: str = ""  # what was published of it
    resumed: int = 0  # where it went on
    paused: Hypothesis | None = None  # what was decoded in the present pause
    understood: Hypothesis | None = None  # in the pause before

    @property
    def voiced(self) -> int:
        return sum(end - begin for begin, end in self.runs)

    @property
    def last_speech(self) -> int:
        return self.runs[-1][1] if self.runs else 0

    @property
    def went_on(self) -> bool:
        """Whether speech went on after an eager end, and was not just a word in the midst of which the voice
        was missed for a moment."""
        return 0 < self.settled <= self.resumed - APART

    def since_speech(self, audio: Audio, lead: int) -> tuple[Audio, int]:
        """Its audio, with so much before its first speech, and where that begins."""
        first = self.runs[0][0] if self.runs else 0
        at = first - lead if lead > LEAD else max(0, first - lead)
        return np.pad(audio[max(0, at) :], (max(0, -at), 0)), at

    def says_no_more(self, text: str) -> bool:
        """Than was published for an eager end, but for punctuation."""
        return self.text == self.settled_text and len(letters(text)) <= len(letters(self.text))

    def voice(self, begin: int, end: int, probability: float) -> None:
        """There is voice of this probability, after all that was known so far."""
        if self.settled and not self.resumed:
            self.resumed = begin
        if self.runs and self.runs[-1][1] >= begin:
            self.runs[-1] = (self.runs[-1][0], end)
        else:
            self.runs.append((begin, end))
        self.certainty += probability * (end - begin)
        if self.paused is not None:
            self.paused, self.understood = None, self.paused

    def rest(self, length: int, *, continues: bool = False) -> Segment:
        """A new one that begins ``length`` samples into this one, with the speech since then that was not
        decoded for an eager end."""
        begin = max(length, self.resumed)
        runs = [(max(first, begin) - length, last - length) for first, last in self.runs if last > begin]
        rest = Segment(self.start + length, continues, runs=runs)
        rest.certainty = rest.voiced * self.certainty / max(1, self.voiced)
        return rest

    def before(self, length: int) -> tuple[Run, ...]:
        """The voice in its first ``length`` samples, counted from the beginning of the stream."""
        runs = [(begin, min(end, length)) for begin, end in self.runs if begin < length]
        return tuple((self.start + begin, self.start + end) for begin, end in runs)

    def believes(self, found: Hypothesis, vocabulary: Vocabulary) -> bool:
        """Whether somebody said that."""
        if self.ids:
            return True
        text = vocabulary.text(found.ids)
        said = "".join(filter(str.isalpha, text)).lower()
        voiced = max(1, self.voiced)
        doubt = float(np.interp(self.certainty / voiced, (DOUBTFUL, CLEAR), (1.0, 0.0)))
        hurry = max(0.0, len(said) * SAMPLE_RATE / voiced - UNHURRIED)
        if found.logprob < UNLIKELY + doubt * (LIKELY - UNLIKELY + PER_LETTER * hurry):
            return False
        if (doubt > 0.3 and said in INVENTED) or UNSAID.intersection(text) or not any(map(str.isalnum, text)):
            return False
        sure = found.logprob >= SURE and doubt < 0.5
        return sure or len(said) <= LETTERS + LETTERS_PER_S * self.voiced / SAMPLE_RATE

    def reopen(self, vocabulary: Vocabulary) -> None:
        """The last published word may be recognised differently from now on, as far as the text stays."""
        count = unmarked(vocabulary, self.ids)
        while count and not vocabulary.starts_word(self.ids[count - 1]):
            count -= 1
        self.forced = self.ids[: max(0, count - 1)]
        self.recent = []

    def begun(self, found: Hypothesis, vocabulary: Vocabulary) -> Hypothesis | None:
        """What was understood in the pause before, where it goes on from what is forced, and ``found`` begins
        otherwise."""
        before = self.understood
        if before is None or len(before.odds) != len(before.ids):
            return None
        count = unmarked(vocabulary, before.ids)
        ids = before.ids[:count]
        if count <= len(self.forced) or ids[: len(self.forced)] != self.forced or found.ids[:count] == ids:
            return None
        return replace(before, ids=ids, odds=before.odds[:count])

    def piece(self, length: int, vocabulary: Vocabulary) -> Piece:
        """What was said in its first ``length`` samples."""
        found, words = self.paused, tuple[Spoken, ...]()
        shown = self.text.split()
        if found is not None and found.ids == self.ids and len(found.words) == len(shown):
            words = tuple(
                Spoken(word, self.start + begin, self.start + end)
                for word, (_, begin, end) in zip(shown, found.words, strict=True)
            )
        return Piece(self.text, self.before(length), words, word_odds(vocabulary, self.ids, self.odds))


class TurnText:
    """The open turn of a stream: its audio since the last cut, and its text. Between turns it keeps the last
    half second, from which the next one begins."""

    def __init__(self, recogniser: Recogniser, *, timed: bool = False) -> None:
        """``timed``: the recogniser is asked when each word was said."""
        self._recogniser = recogniser
        self._timed = timed
        self._tokens = recogniser.tokens
        self.streaming = recogniser if isinstance(recogniser, Streaming) else None
        self.longest = HARD if self.streaming is None else HARD_STREAMED
        self._audio = Tail()
        self._closed: list[Piece] = []  # the open turn's segments before this one
        self._said = False  # anything, in an earlier turn
        self._closed_stop: float | None = None  # of the last closed segment
        self._left_out = ""  # the mark behind the last closed segment, for a turn that ends with it
        self.segment = Segment(0)

    @property
    def position(self) -> int:
        """Samples of the stream so far."""
        return self._audio.end

    @property
    def length(self) -> int:
        """Samples of the open segment."""
        return self._audio.end - self._audio.start

    @property
    def transcript(self) -> str:
        text = joined([piece.text for piece in self._closed] + [self.segment.text])
        return " " + text if text and self._said else text

    @property
    def stop(self) -> float | None:
        """How probable a full stop is behind what was said until this pause; None: not known."""
        paused = self.segment.paused
        if paused is not None and paused.ids:
            return paused.stop
        return None if self.segment.text else self._closed_stop

    @property
    def with_pause(self) -> str:
        """The turn's text with what was decoded in this pause, published or not."""
        paused = self.segment.paused
        text = self._worded(paused.ids) if paused else self.segment.text
        return joined([piece.text for piece in self._closed] + [text])

    def append(self, samples: Audio) -> None:
        self._audio.append(samples)

    def voice(self, samples: int, probability: float) -> None:
        """The last so many samples were voice."""
        self.segment.voice(self.length - samples, self.length, probability)

    def agree(self) -> None:
        """Decode all there is; publish what the last hypotheses have in common, as far as it is safe."""
        segment = self.segment
        found = self._decode(self.length, growing=True)
        if not found.finished or not segment.believes(found, self._tokens):
            return
        if self.streaming is not None:
            self._publish(found, whole_words(self._tokens, found.ids, len(found.ids)))
            return
        self._agree(found)

    def _agree(self, found: Hypothesis) -> None:
        segment = self.segment
        segment.recent = [*segment.recent, found.ids][-AGREE_UNSURE:]
        if len(segment.recent) >= AGREE:
            self._publish(found, whole_words(self._tokens, found.ids, _agreed(segment, found, self._tokens)))

    def decode_pause(self, length: int | None = None, *, least: int = MIN_VOICED) -> None:
        """Find out what was said until the present pause, or within ``length`` samples, unless that is known
        or there are less than ``least`` samples of voice."""
        segment = self.segment
        if length is None:
            length = min(self.length, segment.last_speech + TRIM)
        if segment.paused is not None or segment.voiced < least:
            return
        found = self._counted(self._decode_twice(length), length)
        since = min(length, segment.last_speech) - segment.settled
        if segment.went_on and since >= least and segment.says_no_more(self._worded(found.ids)):
            end = segment.start + length
            self.settle()
            self.decode_pause(end - self.segment.start, least=least)
        elif not segment.believes(found, self._tokens):
            segment.paused = Hypothesis(segment.ids, True, 0.0)
        elif not found.finished and (at := part(self._audio.first(length))):
            end = segment.start + length
            self.close(at, least=least)
            self.decode_pause(end - self.segment.start, least=least)
        else:
            segment.paused = found
            if self.streaming is None:
                self._agree(found)

    def publish_pause(self, *, final: bool = False) -> None:
        """What was decoded in this pause; all of it when the turn ends (``final``), else a full stop at its
        end only where it is sure."""
        found = self.segment.paused
        if found is None:
            return
        unsure = not final and found.stop is not None and found.stop < SURE_STOP
        count = unmarked(self._tokens, found.ids) if unsure else len(found.ids)
        self._publish(found, found.ids[:count])

    def close(self, length: int, *, least: int = MIN_VOICED) -> None:
        """Publish all of the segment's first ``length`` samples; the rest begins a new one."""
        end = self.segment.start + min(length, self.length)
        self.decode_pause(end - self.segment.start, least=least)
        self.publish_pause()
        length = end - self.segment.start  # it may have been settled, or closed in parts
        self._drop(length, length)

    def eager_end(self) -> None:
        """Publish what was said until this pause; whether it is all of the turn will be seen."""
        self.publish_pause()
        segment = self.segment
        segment.settled, segment.settled_text, segment.resumed = segment.last_speech, segment.text, 0

    def resume(self) -> None:
        """Speech goes on after an eager end."""
        self.segment.reopen(self._tokens)

    def settle(self) -> None:
        """What was decoded for an eager end stands; what follows the silence begins a new segment."""
        segment = self.segment
        if segment.settled:
            resumed = segment.resumed or self.length - FRAME
            self._drop(max(segment.settled, resumed - PRE_ROLL), segment.settled)

    def final(self) -> str:
        """The transcript of the turn, which ends here."""
        self.publish_pause(final=True)
        if not self.segment.text and self._closed:
            last = self._closed[-1]
            self._closed[-1] = replace(last, text=last.text + self._left_out)
        self._left_out = ""
        return self.transcript

    def end(self) -> list[Piece]:
        """The turn is over; what it consisted of."""
        pieces = [
            piece for piece in (*self._closed, self.segment.piece(self.length, self._tokens)) if piece.text
        ]
        self._said = self._said or bool(self.transcript)
        self._audio.drop(self.length)
        self.segment = Segment(self._audio.start)
        self._closed, self._left_out, self._closed_stop = [], "", None
        return pieces

    def keep_pre_roll(self) -> None:
        """Between turns the last half second is kept, and a short word that began no turn a while longer."""
        keep = PRE_ROLL
        if self.segment.runs:
            keep = max(keep, min(self.length - self.segment.runs[0][0] + PRE_ROLL, 4 * PRE_ROLL))
        excess = self.length - keep
        if excess > 0:
            self._audio.drop(excess)
            self.segment = self.segment.rest(excess)

    def cut(self) -> int:
        """The middle of the quietest moment of the last seconds, as a length of the segment. What was
        published lies before it. What a stream was given it cannot give back."""
        if self.streaming is not None:
            return self.length
        begin = max(self.length - CUT_WITHIN, self.segment.settled)
        return quietest(self._audio.first(self.length), begin, self.length)

    def _decode_twice(self, length: int) -> Hypothesis:
        """What was said; where the model is not sure of it, asked again with more before the first speech,
        and with the beginning that it understood in the pause before; the likeliest of these."""
        found = self._decode(length, timed=self._timed)
        if found.logprob > UNSURE or not found.odds:
            return found
        draft = self.segment.draft
        other = self._decode(length, lead=LEAD_AGAIN, timed=self._timed)
        if other.finished and other.logprob > found.logprob:
            found, draft = other, other.ids
        begun = self.segment.begun(found, self._tokens)
        if begun is not None and found.logprob <= UNSURE:
            other = self._decode(length, timed=self._timed, begun=begun)
            if other.finished and _likelihood(other) > _likelihood(found):
                found, draft = other, other.ids
        self.segment.draft = draft
        return found

    def _counted(self, found: Hypothesis, length: int) -> Hypothesis:
        """With the numbers that were left out of it."""
        segment = self.segment
        audio, at = segment.since_speech(self._audio.first(length), LEAD)
        more = dictated.completed(found, self._recogniser, audio, len(segment.ids))
        if more is found or not self._worded(more.ids).startswith(segment.text):
            return found  # nothing is put into what was published
        segment.draft = more.ids
        return replace(more, words=_moved(more.words, at))

    def _decode(
        self,
        length: int,
        *,
        lead: int = LEAD,
        timed: bool = False,
        growing: bool = False,
        begun: Hypothesis | None = None,
    ) -> Hypothesis:
        """``begun``: what it has to begin with, where that is more than what is forced."""
        segment = self.segment
        audio, at = segment.since_speech(self._audio.first(length), lead)
        forced, odds = (segment.forced, segment.odds) if begun is None else (begun.ids, begun.odds)
        decode = partial(self._recogniser.decode, timed=timed, thorough=not growing)
        if growing and self.streaming is not None:
            found = self.streaming.so_far(audio)
        else:
            found = decode(audio, forced, segment.draft)
        for more in (segment.ids[: unmarked(self._tokens, segment.ids)], segment.ids):
            if len(more) > len(forced) and not self._worded(found.ids).startswith(segment.text):
                forced = segment.forced = more
                found = decode(audio, forced, found.ids)
        segment.draft = found.ids
        return replace(found, odds=odds[: len(forced)] + found.odds, words=_moved(found.words, at))

    def _publish(self, found: Hypothesis, ids: tuple[int, ...]) -> None:
        """The first ``ids`` of what was found, where they say more than was published and nothing else."""
        segment, text = self.segment, self._worded(ids)
        goes_on = text.startswith(segment.text) and len(text) > len(segment.text)
        if goes_on:  # a token may be half of a character
            segment.ids, segment.text, segment.forced = ids, text, ids
            segment.odds = found.odds[: len(ids)]

    def _worded(self, ids: Sequence[int]) -> str:
        """The segment's text. A sentence that goes on has no capital letter, as far as that can be known."""
        text = self._tokens.text(ids)
        return continued(self.segment.text, uncapitalised(text) if self.segment.continues else text)

    def _drop(self, length: int, spoken: int) -> None:
        """The segment ends after ``length`` samples, its speech after ``spoken``."""
        segment, found = self.segment, self.segment.paused
        self._closed_stop = found.stop if found is not None and found.ids else None
        if segment.text:
            whole = self._worded(found.ids) if found is not None else ""
            self._left_out = whole[len(segment.text) :] if whole.startswith(segment.text) else ""
        self._closed.append(self.segment.piece(spoken, self._tokens))
        self._audio.drop(length)
        last = joined([closed.text for closed in self._closed])[-1:]
        self.segment = self.segment.rest(length, continues=last.isalnum() or last == ",")


def _moved(words: Sequence[Spoken], by: int) -> tuple[Spoken, ...]:
    return tuple(Spoken(word, max(0, by + begin), by + end) for word, begin, end in words)


def word_odds(vocabulary: Vocabulary, ids: Sequence[int], odds: Sequence[float]) -> tuple[float, ...]:
    """How sure each word of the text is: the mean probability of its tokens. Nothing where that is not
    known."""
    if len(odds) != len(ids):
        return ()
    words: list[list[int]] = []
    for index, token in enumerate(ids):
        if vocabulary.starts_word(token) or not words:
            words.append([])
        words[-1].append(index)
    means = tuple(float(np.mean([odds[index] for index in word])) for word in words)
    return means if len(means) == len(vocabulary.text(ids).split()) else ()


def _agreed(segment: Segment, found: Hypothesis, vocabulary: Vocabulary) -> int:
    """How many tokens the last hypotheses have in common: the last two those of which the model is sure, more
    of them the others. Dictated numbers, between which some may be missing, wait for a pause."""
    doubted = (
        index
        for index, (token, odds) in enumerate(zip(found.ids, found.odds, strict=False))
        if odds < SURE_TOKEN and index >= len(segment.ids) and not vocabulary.is_punctuation(token)
    )
    by_all = common(segment.recent) if len(segment.recent) == AGREE_UNSURE else 0
    agreed = max(by_all, min(common(segment.recent[-AGREE:]), next(doubted, len(found.ids))))
    counted = segment.paused or segment.understood  # in a pause
    known = min(agreed, common([found.ids, counted.ids])) if counted else 0
    return min(agreed, dictated.before(vocabulary, found.ids, known)) if found.odds else agreed


def _likelihood(found: Hypothesis) -> float:
    """The mean log-probability of all its tokens, those that were forced included."""
    return float(np.mean(np.log(np.maximum(found.odds, 1e-30)))) if found.odds else -np.inf
