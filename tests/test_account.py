"""The cores of the account: what is sent, kept, lost and said of one track."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.events import SttBehind, SttCaughtUp
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples
from rtcstt.stt.account import Account, AccountedAudio
from rtcstt.stt.activity import SpeechActivity
from rtcstt.stt.floor import Floor, Progress, Reference, Turn
from rtcstt.stt.replay_buffer import Piece, ReplayBuffer
from rtcstt.stt.sending import LagWatch
from rtcstt.testing import silence, speech

SECOND = SAMPLE_RATE


def said(account: Account, position: float, *, everything: bool = False) -> list[tuple[float, float, str]]:
    losses = account.due(round(position * SECOND), everything=everything)
    return [(loss.start / SECOND, loss.end / SECOND, loss.reason) for loss in losses]


def lose(account: Account, start: float, end: float, reason: str = "stt") -> None:
    account.lose(round(start * SECOND), round(end * SECOND), reason, taken=False)


def test_a_gap_that_grows_is_said_once_it_is_over() -> None:
    account = Account()
    for tenth in range(20):
        lose(account, tenth / 10, (tenth + 1) / 10)
        assert said(account, 5 + tenth / 10) == []
    assert said(account, 8.0) == []
    assert said(account, 8.9) == [(0.0, 2.0, "stt")]
    assert said(account, 99.0, everything=True) == []


def test_a_long_gap_is_said_in_parts() -> None:
    account = Account()
    news = []
    for second in range(25):
        lose(account, second, second + 1)
        news += said(account, second)
    news += said(account, 25, everything=True)
    assert news == [(0, 10, "stt"), (10, 20, "stt"), (20, 25, "stt")]


def test_gaps_apart_or_for_another_reason_are_apart() -> None:
    account = Account()
    lose(account, 0, 1)
    lose(account, 2, 3)
    lose(account, 3, 4, "drain_timeout")
    lose(account, 5, 5)
    assert said(account, 4, everything=True) == [(0, 1, "stt"), (2, 3, "stt"), (3, 4, "drain_timeout")]
    assert account.missing == 3 * SECOND == account.take_missing()
    assert account.take_missing() == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3000)), max_size=40), st.integers(0, 60_000))
def test_every_sample_is_taken_or_discarded_once(pieces: list[tuple[bool, int]], floor: int) -> None:
    account = Account()
    activity = SpeechActivity()
    buffer = ReplayBuffer(activity, capacity_s=2.0)
    floors = Floor()
    audio = AccountedAudio(buffer, floors, account, activity)
    start = 0
    for is_sent, size in pieces:
        samples = np.zeros(size, np.int16)
        activity.push(samples, start)
        audio.append(Chunk(samples, start), 0)
        piece = buffer.next(start)
        if is_sent and piece is not None:
            audio.take(piece)
            audio.take(piece)  # again, after a reconnect
        start += size
    floors.finish(min(floor, start))
    audio.release()
    assert buffer.begin >= min(floor, start)
    audio.end("stt")
    assert account.taken + sum(account.discarded.values()) == start


def test_what_was_sent_may_still_be_answered_after_it_left_the_ring() -> None:
    account, activity, floor = Account(), SpeechActivity(), Floor()
    buffer = ReplayBuffer(activity, capacity_s=1.0)
    audio = AccountedAudio(buffer, floor, account, activity)
    loud = speech("a b c d e f g h i j k l")  # 3 s
    for start in range(0, len(loud), 1600):
        samples = loud[start : start + 1600]
        activity.push(samples, start)
        assert not audio.append(Chunk(samples, start), sent=start)
        piece = buffer.next(start)
        assert piece is not None
        audio.take(piece)
    assert account.missing == 0
    floor.finish(SECOND)  # a second of it was answered
    audio.lose_evicted()
    (loss,) = account.due(len(loud), everything=True)
    assert loss.start == SECOND and loss.end == buffer.begin
    assert account.unanswered == account.missing == loss.end - loss.start


def test_of_what_left_the_ring_no_audio_is_kept_however_long_the_answer_takes() -> None:
    """Manual mode has no answer before `finalize`, which may come after an hour."""
    account, activity, floor = Account(), SpeechActivity(), Floor()
    buffer = ReplayBuffer(activity, capacity_s=1.0)
    audio = AccountedAudio(buffer, floor, account, activity)
    loud = speech("a b c d e f g h i j k l")[: 29 * 1600]
    kept: list[weakref.ref[Samples]] = []
    for number in range(600):
        samples = loud[number % 29 * 1600 :][:1600].copy()
        kept.append(weakref.ref(samples))
        activity.push(samples, number * 1600)
        audio.append(Chunk(samples, number * 1600), sent=number * 1600)
        del samples
        piece = buffer.next(number * 1600)
        assert piece is not None
        audio.take(piece)
        del piece
    assert sum(samples() is not None for samples in kept) < 30
    audio.end("stt")
    assert account.unanswered == account.missing == 60 * SECOND


def test_pieces_are_cut_at_the_floor() -> None:
    buffer = ReplayBuffer(SpeechActivity(), capacity_s=5.0)
    buffer.append(Chunk(np.arange(1600, dtype=np.int16), 0))
    (gone,) = buffer.release(600)
    assert (gone.end, buffer.begin, buffer.held) == (600, 600, 1000)
    piece = buffer.next(600)
    assert isinstance(piece, Piece) and piece.samples[0] == 600


def test_progress_goes_through_json() -> None:
    progress = Progress(
        floor=Floor(5, Reference("a b", [(1, 10), (3, 20)], optional=1)),
        turn=Turn(2, 6, 9, "b", eager_ended=True, known=20, resumed=3),
        turns=3,
        last_text="a",
        last_end=5,
        flushes=[7],
    )
    assert Progress.from_dict(json.loads(json.dumps(progress.as_dict()))) == progress
    assert Progress.from_dict(json.loads(json.dumps(Progress().as_dict()))) == Progress()


@pytest.mark.parametrize(
    ("lags", "news"),
    [
        ([0, 1.9, 2.0], []),
        ([2.1, 2.2, 4.1, 4.3, 8.7], [2.1, 4.3, 8.7]),
        ([3.0, 1.5, 0.9, 0.5], [3.0, "over"]),
        ([3.0, 0.0, 2.5], [3.0, "over", 2.5]),
    ],
)
def test_how_far_behind_is_said_when_it_has_doubled(lags: list[float], news: list[float | str]) -> None:
    watch = LagWatch("0")
    said: list[float | str] = []
    for lag in lags:
        match watch.note(lag):
            case SttBehind(lag=behind):
                said.append(behind)
            case SttCaughtUp():
                said.append("over")
    assert said == news


def test_a_pause_is_silence_only_deep_inside() -> None:
    activity = SpeechActivity()
    buffer = ReplayBuffer(activity, capacity_s=60.0)
    samples = np.concatenate([speech("one"), silence(3.0), speech("two"), silence(1.0)])
    for start in range(0, len(samples), 1600):
        activity.push(samples[start : start + 1600], start)
        buffer.append(Chunk(samples[start : start + 1600], start))
    quiet = []
    cursor = 0
    while (piece := buffer.next(cursor)) is not None:
        if buffer.is_quiet(piece):
            quiet.append(piece.start / SECOND)
        cursor = piece.end
    assert 0.9 <= quiet[0] <= 1.1 and 2.7 <= max(q for q in quiet if q < 3.3) <= 3.1
