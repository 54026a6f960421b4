"""Captions and transcripts, read back by parsers that nobody here wrote."""

from __future__ import annotations

import html
import io
import re
import time
from itertools import pairwise

import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from rtcstt import captions
from rtcstt.events import AnyEvent, from_dict
from rtcstt.feed import Feed

WORDS = st.text(
    st.characters(categories=("L", "N", "P", "S"), exclude_characters="\ufeff"), min_size=1, max_size=12
)
TEXTS = st.lists(WORDS, min_size=1, max_size=60).map(" ".join)


def publish(feed: Feed, type_: str, *, time: float, **fields: object) -> AnyEvent:
    return feed.publish(from_dict({"type": type_, **fields}), time=time)


def end(feed: Feed, turn: int, text: str, start: float, stop: float, *, track: str = "0") -> AnyEvent:
    return publish(
        feed, "turn.end", time=stop, track=track, turn=turn, start=start, end=stop, transcript=text
    )


def call(*texts: str) -> tuple[AnyEvent, ...]:
    feed = Feed("c")
    for turn, text in enumerate(texts):
        end(feed, turn, text, 10.0 * turn, 10.0 * turn + 8)
    return feed.history


def plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<v [^>]*>", "", text)).split())


def test_the_transcript_is_verbatim() -> None:
    assert captions.text(call("One.", " Two", " thr", "ee. ")) == "One. Two three. "


def test_a_turn_of_15_000_updates_costs_no_more_than_it_adds() -> None:
    """25 minutes without an end: it took 89 s of CPU. The bound leaves room for a machine that is busy."""
    feed, text = Feed("c"), ""
    for index in range(15_000):
        text += f" word{index % 97}"
        publish(
            feed, "turn.update", time=index / 10, track="0", turn=0, start=0, end=index / 10, transcript=text
        )
    history = feed.history
    for render in captions.RENDERERS.values():
        began = time.process_time()
        render(history)
        assert time.process_time() - began < 5


def test_updates_and_eager_ends_are_not_repeated() -> None:
    feed = Feed("c")
    for type_, text in (("turn.update", "One"), ("turn.eager_end", "One two"), ("turn.end", "One two.")):
        publish(feed, type_, time=1, track="0", turn=0, start=0, end=1, transcript=text)
    assert captions.text(feed.history) == "One two."
    assert [turn.text for turn in captions.turns(feed.history)] == ["One two."]


def test_only_final_transcripts_of_manual_mode_count() -> None:
    feed = Feed("c")
    for turn, (text, final) in enumerate((("One", True), (" tw", False), (" two", True))):
        fields = {"text": text, "is_final": final}
        index = 0 if turn == 0 else 1
        publish(feed, "transcript", time=turn, track="0", turn=index, start=turn, end=turn + 1, **fields)
    assert captions.text(feed.history) == "One two"


def test_several_speakers_have_a_line_for_each_turn() -> None:
    feed = Feed("c")
    for track in ("audio", "1"):
        publish(feed, "track.start", time=0, track=track)
    end(feed, 0, "Hi!", 2, 3, track="1")
    end(feed, 0, "Hello.", 0, 1, track="audio")
    end(feed, 1, " How are you?", 4, 5, track="audio")
    assert captions.text(feed.history) == "Speaker 1: Hello.\nSpeaker 2: Hi!\nSpeaker 1: How are you?\n"
    assert captions.vtt(feed.history).count("<v Speaker 2>") == 1
    assert captions.transcript(feed.history)["tracks"] == {"audio": "Hello. How are you?", "1": "Hi!"}


def test_an_open_turn_is_a_growing_caption() -> None:
    feed = Feed("c")
    publish(feed, "turn.update", time=2, track="0", turn=0, start=0.5, end=2, transcript="So far")
    assert "So far" in captions.vtt(feed.history)
    assert captions.text(feed.history) == ""
    assert captions.transcript(feed.history)["turns"][0]["final"] is False


def test_json_says_whether_the_call_is_over() -> None:
    feed = Feed("c")
    assert captions.transcript(feed.history)["complete"] is False
    end(feed, 0, "One.", 0.1234, 1.5)
    publish(feed, "session.end", time=2, reason="", tracks=[], ledger={}, complete=True, missing=[])
    found = captions.transcript(feed.history)
    assert found["ended"] is found["complete"] is True and found["text"] == "One."
    assert found["turns"][0] | {"start": 0.123, "end": 1.5, "transcript": "One."} == found["turns"][0]


def lose(feed: Feed, start: float, stop: float, *, track: str = "0", reason: str = "stt") -> None:
    publish(feed, "transcript.gap", time=stop, track=track, start=start, end=stop, reason=reason)


def test_what_is_missing_is_marked() -> None:
    feed = Feed("c")
    end(feed, 0, "One.", 0, 1)
    lose(feed, 1.5, 2.0)
    lose(feed, 2.0, 2.7)  # goes on from there
    lose(feed, 2.8, 3.2)  # too short to be shown
    end(feed, 1, "Two.", 4, 5)
    assert captions.text(feed.history) == "One. [1.2 s not heard] Two."
    found = captions.transcript(feed.history)
    assert found["text"] == "One.Two." and found["complete"] is False
    assert [(gap["start"], gap["end"]) for gap in found["missing"]] == [(1.5, 2.7), (2.8, 3.2)]
    text = captions.vtt(feed.history)
    assert "NOTE No text from 00:00:01.500 to 00:00:02.700 (stt)\n\n00:00:01.500 --> 00:00:02.700\n" in text
    assert "<c.gap>[1.2 s not heard]</c>" in text
    assert [cue.text for cue in webvtt.from_string(text)] == ["One.", "[1.2 s not heard]", "Two."]
    assert captions.srt(feed.history).count("not heard") == 1


def test_what_is_missing_of_several_speakers_is_marked_with_theirs() -> None:
    feed = Feed("c")
    for track in ("a", "b", "c"):
        publish(feed, "track.start", time=0, track=track)
    end(feed, 0, "One.", 0, 1, track="a")
    lose(feed, 2, 4, track="c")
    end(feed, 0, "Two.", 5, 6, track="b")
    assert captions.text(feed.history) == "Speaker 1: One.\nSpeaker 3: [2.0 s not heard]\nSpeaker 2: Two.\n"


@given(st.lists(TEXTS, max_size=4))
def test_webvtt_is_read_back_word_for_word(texts: list[str]) -> None:
    parsed = webvtt.from_string(captions.vtt(call(*texts)))
    assert plain(" ".join(cue.raw_text for cue in parsed)) == plain(
        " ".join(html.escape(t, quote=False) for t in texts)
    )
    check_layout([(cue.start_in_seconds, cue.end_in_seconds) for cue in parsed])
    for cue in parsed:
        assert len(cue.raw_text.splitlines()) <= captions.LINES


# SubRip has no way to write its own arrow in a text; the recogniser says no such thing.
@given(st.lists(TEXTS.filter(lambda text: "-->" not in text), max_size=4))
@example(["< >"])
def test_srt_is_read_back_word_for_word(texts: list[str]) -> None:
    written = captions.srt(call(*texts))
    parsed = webvtt.from_buffer(io.StringIO(written), format="srt") if texts else []
    assert " ".join(" ".join(cue.raw_text for cue in parsed).split()) == " ".join(" ".join(texts).split())
    check_layout([(cue.start_in_seconds, cue.end_in_seconds) for cue in parsed])
    for cue in parsed:
        lines = cue.raw_text.splitlines()
        assert len(lines) <= captions.LINES and all(len(line) <= captions.LINE for line in lines)


@given(st.lists(TEXTS.filter(lambda text: "-->" not in text), min_size=2, max_size=4))
def test_srt_of_several_speakers_says_who_speaks_in_each_cue(texts: list[str]) -> None:
    feed = Feed("c")
    for turn, text in enumerate(texts):
        end(feed, turn, text, 10.0 * turn, 10.0 * turn + 8, track=str(turn % 2 + 1))
    said: dict[str, list[str]] = {}
    for cue in webvtt.from_buffer(io.StringIO(captions.srt(feed.history)), format="srt"):
        lines = cue.raw_text.splitlines()
        assert len(lines) <= captions.LINES and all(len(line) <= captions.LINE for line in lines)
        name, text = cue.raw_text.split(":", 1)
        said.setdefault(name, []).extend(text.split())
    expected = {f"Speaker {n + 1}": " ".join(texts[n::2]).split() for n in (0, 1)}
    assert {name: "".join(words) for name, words in said.items()} == {
        name: "".join(words) for name, words in expected.items()
    }


SENTENCE = "It was the best of times, it was the worst of times, it was the age of wisdom. "


def test_a_long_turn_is_split_between_sentences_where_they_end() -> None:
    found = captions.cues(captions.turns(call(SENTENCE * 3)))
    assert all(cue.lines[-1].endswith("wisdom.") for cue in found)
    assert [round(cue.start, 1) for cue in found] == [0.0, 2.7, 5.3]


def test_what_does_not_fit_is_cut_behind_a_comma() -> None:
    text = "ask not what your country can do for you, ask what you can do for your country."
    words = tuple((3.3 + 0.44 * n, 3.7 + 0.44 * n) for n in range(17))  # of more than seven seconds
    turn = captions.Turn("0", "", 0, text, 3.3, words[-1][1], True, words=words)
    first, second = captions.cues([turn])
    assert " ".join(first.lines).endswith("for you,") and " ".join(second.lines).startswith("ask what")
    assert second.start == words[9][0]


def test_slow_speech_is_split_by_its_time() -> None:
    feed = Feed("c")
    end(feed, 0, SENTENCE, 0, 60)
    found = captions.cues(captions.turns(feed.history))
    assert len(found) > 8
    assert all(cue.end - cue.start <= captions.LONGEST_S for cue in found)


def test_a_cue_stays_until_it_can_be_read_but_not_over_the_next() -> None:
    feed = Feed("c")
    end(feed, 0, "One two three four five six seven.", 0, 0.5)
    end(feed, 1, " Eight.", 1, 1.1)
    end(feed, 0, "Somebody else says this at the same time.", 0.2, 0.9, track="1")
    first, other, second = captions.cues(captions.turns(feed.history))
    assert (first.start, first.end) == (0, 1)
    assert second.end == 1 + captions.SHORTEST_S
    assert other.end > 2, "another speaker's captions do not end it"


def test_words_keep_their_times_through_pauses_and_a_late_recogniser() -> None:
    words = SENTENCE.split()  # seven seconds of speech, three times, with pauses of three and six seconds
    spoken = [(word, begin + 0.4 * n) for begin in (1.0, 11.2, 24.4) for n, word in enumerate(words)]
    late = 0.9
    feed = Feed("c")
    for count, (_, at) in enumerate(spoken, 1):
        text, known = " ".join(word for word, _ in spoken[:count]), at + 0.4 + late
        fields = {"transcript": text}
        publish(feed, "turn.update", time=known, track="0", turn=0, start=1.0, end=known, **fields)
    whole = " ".join(word for word, _ in spoken)
    end(feed, 0, whole, 1.0, spoken[-1][1] + 0.4)
    said = 0
    for cue in captions.cues(captions.turns(feed.history)):
        begin = spoken[said][1]
        assert abs(cue.start - begin) <= 0.3
        said += len(" ".join(cue.lines).split())
    assert said == len(spoken)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["turn.update", "turn.eager_end", "turn.end"]),
            st.text(max_size=60),
            st.floats(0, 9),
        ),
        max_size=12,
    )
)
def test_captions_never_go_back_in_time_whatever_the_events(said: list[tuple[str, str, float]]) -> None:
    feed = Feed("c")
    for type_, text, at in said:
        publish(feed, type_, time=at, track="0", turn=0, start=1.0, end=at, transcript=text)
    check_layout([(cue.start, cue.end) for cue in captions.cues(captions.turns(feed.history))])


@given(st.lists(st.text(max_size=200), max_size=5))
def test_whatever_is_said_makes_captions_that_can_be_read(texts: list[str]) -> None:
    events = call(*texts)
    for cue in captions.cues(captions.turns(events)):
        assert 1 <= len(cue.lines) <= captions.LINES
        assert all(0 < len(line) <= captions.LINE for line in cue.lines)
    parsed = webvtt.from_string(captions.vtt(events))
    check_layout([(cue.start_in_seconds, cue.end_in_seconds) for cue in parsed])
    assert captions.text(events) == "".join(texts)


def check_layout(times: list[tuple[float, float]]) -> None:
    """In order, none backwards, all within their turns."""
    assert times == sorted(times)
    assert all(start <= stop for start, stop in times)
    assert all(end <= start + 0.001 for (_, end), (start, _) in pairwise(times))
    assert all(0 <= start and stop <= 10 * len(times) + 38 for start, stop in times)


def test_markup_in_speech_stays_speech() -> None:
    feed = Feed("c")
    end(feed, 0, "<i>a</i> & b --> c", 0, 2)
    text = captions.vtt(feed.history)
    assert "&lt;i&gt;a&lt;/i&gt; &amp; b --&gt; c" in text


def test_an_empty_call_has_valid_empty_captions() -> None:
    assert captions.vtt(()) == "WEBVTT\n"
    assert captions.srt(()) == ""


def test_a_layout_says_how_wide_how_high_and_how_many_words() -> None:
    text = "One two three four five six seven eight nine ten. " * 3
    turn = captions.Turn("0", "", 0, text, 0.0, 20.0, True)
    narrow = captions.cues([turn], captions.Layout(width=12, lines=1))
    assert all(len(cue.lines) == 1 and len(cue.lines[0]) <= 12 for cue in narrow)
    few = captions.cues([turn], captions.Layout(words=3))
    assert all(len(" ".join(cue.lines).split()) <= 3 for cue in few)
    for cues in (narrow, few):
        assert " ".join(word for cue in cues for word in " ".join(cue.lines).split()) == text.strip()


def test_a_double_width_character_takes_two_columns_and_a_combining_one_none() -> None:
    assert [captions.columns(text) for text in ("abc", "\u65e5\u672c", "e\u0301", "\uff21")] == [3, 4, 1, 2]
    turn = captions.Turn("0", "", 0, "\u65e5\u672c\u8a9e" * 20, 0.0, 10.0, True)
    lines = [line for cue in captions.cues([turn], captions.Layout(width=10)) for line in cue.lines]
    assert all(captions.columns(line) <= 10 for line in lines) and "".join(lines) == turn.text


def test_known_times_of_words_are_those_of_cues_and_of_words_in_them() -> None:
    times = ((1.0, 1.5), (1.5, 2.0), (5.25, 5.5), (5.5, 6.0))
    turn = captions.Turn("0", "A & B", 0, "So <b> we go.", 1.0, 6.0, True, words=times)
    (first, second) = captions.cues([turn], captions.Layout(words=2))
    assert (first.start, second.start, second.times) == (1.0, 5.25, (5.25, 5.5))
    text = captions.webvtt([turn], word_times=True)
    assert "<v A &amp; B>So <00:00:01.500>&lt;b&gt; <00:00:05.250>we <00:00:05.500>go." in text
    (cue,) = webvtt.from_string(text)
    assert html.unescape(cue.text) == "So <b> we go."
