"""Dictated numbers that a recogniser leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_listener import FIT, Complete, Loud, receive, sound

from rtcstt.embedded import dictated
from rtcstt.embedded.dictated import Unit
from rtcstt.embedded.hypothesis import Audio, Hypothesis, Spoken
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.segments import TurnText
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import TurnEnd, TurnSettings, TurnUpdate


class Pieces:
    """Each token is a piece of text; one that begins with a space begins a word."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def ids(self, text: str) -> tuple[int, ...]:
        """Of pieces between bars: `` one|,| two``."""
        found = []
        for piece in text.split("|"):
            if piece not in self._pieces:
                self._pieces.append(piece)
            found.append(self._pieces.index(piece))
        return tuple(found)

    def text(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[token] for token in ids).strip()

    def starts_word(self, token: int) -> bool:
        return self._pieces[token].startswith(" ")

    def is_punctuation(self, token: int) -> bool:
        return bool(self._pieces[token].strip()) and not any(map(str.isalnum, self._pieces[token]))


class Forgetful:
    """Of long audio it says ``whole``; of its pieces the first one says all, which ``pieces`` has, one after
    the other, for each time it is cut. The audio begins with silence and goes on without."""

    def __init__(self, tokens: Pieces, whole: str, pieces: Sequence[str]) -> None:
        self.tokens = tokens
        self.whole, self.pieces = whole, pieces
        self.asked = 0

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        ids = tuple[int, ...]()
        if len(audio) > 4 * SAMPLE_RATE:
            ids = tuple(forced) if timed and forced else self.tokens.ids(self.whole)
        elif audio[0] == 0:
            ids = self.tokens.ids(self.pieces[self.asked % len(self.pieces)])
            self.asked += 1
        words = tuple(Spoken(word, 0, 1) for word in self.tokens.text(ids).split()) if timed else ()
        return Hypothesis(ids, True, -0.1, 0.9, odds=(0.9,) * (len(ids) - len(forced)), words=words)


SOUND = np.ones(int(7.3 * SAMPLE_RATE), np.float32)
SOUND[:9] = 0


def completed(whole: str, pieces: Sequence[str], published: int = 0, *, timed: bool = False) -> str:
    tokens = Pieces()
    recogniser = Forgetful(tokens, whole, pieces)
    found = recogniser.decode(SOUND, timed=timed)
    again = dictated.completed(found, recogniser, SOUND, published)
    assert len(again.odds) == len(again.ids)
    assert [word.word for word in again.words] == (tokens.text(again.ids).split() if timed else [])
    return tokens.text(again.ids)


ONES = " The| code| is| four|,| two|,| one|,| one|,| nine|."


@pytest.mark.parametrize("timed", [False, True])
def test_a_number_that_pieces_agree_on_is_put_in(timed: bool) -> None:
    pieces = [" The| code| is| four|,| two|,| one|,| one|,| one|,| nine|."]
    assert completed(ONES, pieces, timed=timed) == "The code is four, two, one, one, one, nine."
    whole, pieces = " Room|  |1|2|3|3", [" One|,| two| three| three| three|."]
    assert completed(whole, pieces) == "Room  12333"
    whole = " twelve|,| thirteen|,| four|teen|,| six|teen|,| seven|teen|."
    pieces = [
        " Twelve|,| thirteen|,| four|teen|,| Fif|teen|,| six|teen|.",
        " fif|teen|,| six|teen|,| Seven|teen",
    ]
    assert completed(whole, pieces) == "twelve, thirteen, fourteen, fifteen, sixteen, seventeen."


@pytest.mark.parametrize(
    ("whole", "pieces"),
    [
        (" one|,| one| more|,| two", [" one|,| one|,| one| more|,| two"]),  # not dictated
        (ONES, [" four|,| two|,| one|,| one|,| nine"]),  # nothing is missing
        (ONES, [" four|,| two|,| one|,| please|,| one|,| nine"]),  # what is, is no number
        (ONES, [" four|,| two|,| seven|,| one|,| nine"]),  # another one
        (ONES, [" four|,| two|,| one|,| one|,| to|,| nine"]),  # nobody knows how it is written
        (ONES, [" The| code| is| five|,| four|,| two|,| one|,| one|,| nine"]),  # before the first
    ],
)
def test_nothing_else_changes(whole: str, pieces: list[str]) -> None:
    tokens = Pieces()
    assert completed(whole, [*pieces]) == tokens.text(tokens.ids(whole))


def test_one_of_four_is_not_believed() -> None:
    pieces = [ONES, ".", "."] * 3 + [" four|,| two|,| one|,| one|,| one|,| nine"]
    assert completed(ONES, pieces) == "The code is four, two, one, one, nine."


def units_of(tokens: Pieces, *pieces: str) -> list[list[Unit]]:
    return [dictated.units(tokens, tokens.ids(piece)) for piece in pieces]


@pytest.mark.parametrize(
    ("others", "put_in"),
    [
        ([[" four|,| two|,| one|,| one|,| one|,| nine"]] * 2, {4: ("one",)}),
        (
            [[" four|,| two|,| one|,| one|,| one|,| nine"]] * 2 + [[" two|,| one|,| one", " nine"]] * 2,
            {4: ("one",)},
        ),
        (
            [[" four|,| two|,| one|,| one|,| one|,| nine"]] * 2
            + [[" four|,| two|,| one|,| one|,| nine"]] * 2,
            {},
        ),
    ],
)
def test_a_number_that_as_many_do_not_have_is_not_believed_unless_they_were_cut_there(
    others: list[list[str]], put_in: dict[int, tuple[str, ...]]
) -> None:
    tokens = Pieces()
    (whole,) = units_of(tokens, " four|,| two|,| one|,| one|,| nine")
    assert dictated.missing(whole, [units_of(tokens, *pieces) for pieces in others]) == put_in


def test_what_was_published_stays() -> None:
    pieces = [" four|,| two|,| one|,| one|,| one|,| nine"]
    assert completed(ONES, pieces, 9) == "The code is four, two, one, one, one, nine."
    assert completed(ONES, pieces, 11) == "The code is four, two, one, one, nine."


def test_what_was_cut_off_is_left_to_its_parts() -> None:
    tokens = Pieces()
    recogniser = Forgetful(tokens, ONES, [" four|,| two|,| one|,| one|,| one|,| nine"])
    found = replace(recogniser.decode(SOUND), finished=False)
    assert dictated.completed(found, recogniser, SOUND) is found and recogniser.asked == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (" Twenty|-|one|,| for|ty", "twenty+ one+ forty+"),
        (" |4|1|-|5|.", "four+ one+ five+"),
        (" 7|th| for| to", "7th four two"),
        (" |1|2|3", "one+ two+ three+"),
        ("", ""),
        (" ²", "²"),
    ],
)
def test_units(text: str, values: str) -> None:
    tokens = Pieces()
    found = dictated.units(tokens, tokens.ids(text))
    assert " ".join(unit.value + "+" * unit.number for unit in found) == values
    assert all(isinstance(unit, Unit) and unit.start < unit.end for unit in found)


def test_numbers_wait_for_the_pause_in_which_they_are_counted() -> None:
    tokens = Pieces()
    whole = " My| number| is| four|,| two|,| one|,| one|,| nine|."
    recogniser = Forgetful(tokens, whole, [" four|,| two|,| one|,| one|,| one|,| nine|."])
    listener = Listener(recogniser, Loud(), Complete(0.99), TurnSettings(), fit=FIT)
    spoken = sound(-0.5, 7.0, -7.0)
    spoken[SAMPLE_RATE // 2 : 15 * SAMPLE_RATE // 2] += 0.001  # no silence within
    messages = receive(listener, spoken)
    updates = [message.transcript for message in messages if isinstance(message, TurnUpdate)]
    assert any(update == "My number" for update in updates[:-1]), updates
    assert not any("four" in update and "one, one, one" not in update for update in updates), updates
    (end,) = [message for message in messages if isinstance(message, TurnEnd)]
    assert end.transcript == "My number is four, two, one, one, one, nine."


def test_updates_go_on_behind_numbers_that_were_counted_in_a_pause() -> None:
    tokens = Pieces()
    said = " My| number| is| four|,| two|,| one|,| one|,| nine|,| and| please| call| me| back| tomorrow"
    recogniser = Forgetful(tokens, said[: said.index("| and")], [said])
    turn = TurnText(recogniser)

    def speak(seconds: float) -> None:
        turn.append(np.full(int(seconds * SAMPLE_RATE), 0.5, np.float32))
        turn.voice(int(seconds * SAMPLE_RATE), 0.99)

    speak(6.0)
    turn.agree()
    turn.agree()
    assert turn.transcript == "My number"
    turn.decode_pause()
    assert turn.transcript == "My number is four, two, one, one"
    recogniser.whole = said
    for _ in range(2):
        speak(1.0)
        turn.agree()
    assert turn.transcript == "My number is four, two, one, one, nine, and please call me back"


@pytest.mark.parametrize(
    ("published", "then", "more"),
    [
        (" four| two| five| nine", "| eight| seven", " four| two| five| three| nine| eight| seven"),
        (" Code|  |4|2|5|9", "|8|7|.| please", " Code|  |4|2|5|3|9|8|7|.| please"),
    ],
)
def test_nothing_is_put_into_what_was_published_though_it_may_be_recognised_again(
    published: str, then: str, more: str
) -> None:
    """After an eager end the last word is not forced any more."""
    tokens = Pieces()
    recogniser = Forgetful(tokens, published, [published])
    turn = TurnText(recogniser)
    for seconds, whole, pieces in [(6, published, published), (3, published + then, more)]:
        recogniser.whole, recogniser.pieces = whole, [pieces]
        sound = np.ones(seconds * SAMPLE_RATE, np.float32)
        sound[:9] = 0
        turn.append(sound)
        turn.voice(len(sound), 0.99)
        turn.decode_pause()
        turn.eager_end()
        turn.resume()
    assert turn.final() == tokens.text(tokens.ids(published + then))
