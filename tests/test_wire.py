"""The wire protocol: messages, order and handshake, by tables and properties."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.embedded.audio import AudioDecoder
from rtcstt.errors import CallerError, LocalProtocolError, RemoteProtocolError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3)
)
EXTRA = st.dictionaries(TEXT.map("x_".__add__), JSON, max_size=3)
IDS = st.none() | TEXT
MESSAGES = st.one_of(
    st.builds(wire.Connected, IDS, EXTRA),
    st.builds(wire.TurnStart, IDS, EXTRA),
    st.builds(wire.TurnUpdate, TEXT, IDS, EXTRA),
    st.builds(wire.TurnEagerEnd, TEXT, IDS, EXTRA),
    st.builds(wire.TurnResume, IDS, EXTRA),
    st.builds(wire.TurnEnd, TEXT, IDS, EXTRA),
    st.builds(wire.Transcript, TEXT, st.booleans(), IDS, st.none() | st.floats(0, 1e6), st.none() | TEXT),
    st.builds(wire.FlushDone, IDS, EXTRA),
    st.builds(wire.Done, IDS, EXTRA),
    st.builds(
        wire.Error,
        title=TEXT,
        message=TEXT,
        status_code=st.integers(400, 599),
        error_code=st.none() | TEXT,
        doc_url=st.none() | TEXT,
        request_id=IDS,
        extra=EXTRA,
    ),
    st.builds(wire.Unknown, TEXT.map("new.".__add__), IDS, EXTRA),
)


@given(MESSAGES)
def test_a_server_message_survives_the_wire(message: wire.ServerMessage) -> None:
    assert wire.decode_server(wire.encode(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "1",
        '"turn.start"',
        "{",
        '{"type": 1}',
        '{"transcript": "a"}',
        "[" * 100_000,
        '{"type": "turn.update"}',
        '{"type": "turn.update", "transcript": 1}',
        '{"type": "transcript", "text": "a"}',
        '{"type": "transcript", "text": "a", "is_final": "yes"}',
        '{"type": "error", "title": "t", "message": NaN}',
        '{"type": "turn.start", "level": 1e999}',
        '{"type": "turn.update", "transcript": "\\ud800"}',
        '{"type": "error", "title": "t", "message": "m", "status_code": true}',
        '{"type": "transcript", "text": "a", "is_final": 1}',
        b'{"type": "turn.start"}',
    ],
)
def test_an_unreadable_message_is_the_peers_fault(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_server(text)


STEPS = ["turn.start", "turn.update", "turn.eager_end", "turn.resume", "turn.end"]
LEGAL = {  # the grammar of the protocol, written a second time
    "idle": {"turn.start": "speaking"},
    "speaking": {"turn.update": "speaking", "turn.eager_end": "eager", "turn.end": "idle"},
    "eager": {"turn.resume": "speaking", "turn.end": "idle"},
}


@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_the_turn_grammar_allows_just_what_the_protocol_says(steps: list[str]) -> None:
    client, server, state = wire.TurnsClient(), wire.TurnsServer(), "idle"
    for step in steps:
        message = wire.decode_server(json.dumps({"type": step, "transcript": "same"}))
        if step in LEGAL[state]:
            state = LEGAL[state][step]
            assert client.receive_text(server.send(message)) == message
        else:
            with pytest.raises(LocalProtocolError):
                server.send(message)
            with pytest.raises(RemoteProtocolError):
                client.receive_text(wire.encode(message))


@given(st.lists(TEXT, min_size=2, max_size=6))
def test_text_of_a_turn_only_grows(texts: list[str]) -> None:
    client = wire.TurnsClient()
    client.receive_text('{"type": "turn.start"}')
    shown = ""
    for text in texts:
        message = wire.encode(wire.TurnUpdate(text))
        if text.startswith(shown):
            client.receive_text(message)
            shown = text
        else:
            with pytest.raises(RemoteProtocolError, match="takes back"):
                client.receive_text(message)


def test_the_next_turn_begins_with_no_text() -> None:
    client = wire.TurnsClient()
    for message in (wire.TurnStart(), wire.TurnEnd("one"), wire.TurnStart(), wire.TurnUpdate(" two")):
        client.receive_text(wire.encode(message))


def test_errors_and_unknown_messages_may_come_at_any_time() -> None:
    client = wire.TurnsClient()
    assert client.receive_text('{"type": "turn.hint", "level": 3}') == wire.Unknown(
        "turn.hint", None, {"level": 3}
    )
    error = client.receive_text('{"type": "error", "title": "t", "message": "m", "status_code": 500}')
    assert isinstance(error, wire.Error) and error.status_code == 500


def test_an_error_counts_without_its_words() -> None:
    error = wire.TurnsClient().receive_text('{"type": "error", "error": "no such key", "status_code": 401}')
    assert isinstance(error, wire.Error) and not wire.retryable(error.status_code)
    assert wire.as_fields(error)["error"] == "no such key"


def test_escaped_characters_arrive() -> None:
    message = wire.decode_server('{"type": "turn.update", "transcript": "\\ud83d\\ude00 \\u00e9"}')
    assert message == wire.TurnUpdate("\U0001f600 \u00e9")


def test_only_the_turns_endpoint_says_connected() -> None:
    assert wire.TurnsServer().send(wire.Connected("a"))
    with pytest.raises(LocalProtocolError):
        wire.ManualServer().send(wire.Connected("a"))
    wire.ManualClient().receive_text(wire.encode(wire.Connected("a")))  # from others it is taken


@pytest.mark.parametrize(
    "message", [wire.Transcript("a", is_final=True), wire.FlushDone(), wire.Done()], ids=lambda one: one.type
)
def test_each_endpoint_has_its_own_messages(message: wire.ServerMessage) -> None:
    with pytest.raises(LocalProtocolError, match="on the turns endpoint"):
        wire.TurnsServer().send(message)
    with pytest.raises(RemoteProtocolError, match="on the turns endpoint"):
        wire.TurnsClient().receive_text(wire.encode(message))


def test_turns_are_no_part_of_the_manual_endpoint_and_nothing_follows_its_end() -> None:
    with pytest.raises(LocalProtocolError, match="finalize on the turns endpoint"):
        wire.TurnsClient().send(wire.Finalize())
    with pytest.raises(LocalProtocolError, match="config on the manual endpoint"):
        wire.ManualClient().send(wire.Config(wire.TurnSettings()))
    client, server = wire.ManualClient(), wire.ManualServer()
    with pytest.raises(RemoteProtocolError, match="on the manual endpoint"):
        client.receive_text('{"type": "turn.start"}')
    server.receive_text(client.send(wire.Close()))
    client.receive_text(server.send(wire.Done()))
    with pytest.raises(RemoteProtocolError, match="after done"):
        client.receive_text('{"type": "done"}')
    with pytest.raises(LocalProtocolError, match="after done"):
        server.send(wire.FlushDone())


def test_manual_endpoint_answers_each_finalize_once_and_ends_with_done() -> None:
    client, server = wire.ManualClient(), wire.ManualServer()
    assert server.receive_text(client.send(wire.Finalize())) == wire.Finalize()
    client.receive_text(server.send(wire.Transcript("a", True)))
    client.receive_text(server.send(wire.FlushDone()))
    with pytest.raises(LocalProtocolError):
        server.send(wire.FlushDone())
    with pytest.raises(LocalProtocolError):
        server.send(wire.Done())
    with pytest.raises(RemoteProtocolError):
        client.receive_text('{"type": "flush_done"}')
    assert server.receive_text(client.send(wire.Close())) == wire.Close()
    client.receive_text(server.send(wire.Done()))
    with pytest.raises(RemoteProtocolError):
        client.receive_text('{"type": "transcript", "text": "late", "is_final": true}')


@pytest.mark.parametrize(
    ("endpoint", "text", "message"),
    [
        ("manual", "finalize", wire.Finalize()),
        ("manual", "close", wire.Close()),
        ("manual", "done", wire.Close()),
        ("manual", " done\n", wire.Close()),
        ("manual", '{"type": "close"}', wire.Close()),
        ("turns", '{"type": "close"}', wire.Close()),
        ("turns", "close", wire.Close()),
        (
            "turns",
            '{"type": "config", "turn": {"end_timeout_ms": 900}}',
            wire.Config(wire.TurnSettings(end_timeout_ms=900)),
        ),
    ],
)
def test_client_messages(endpoint: wire.Endpoint, text: str, message: wire.ClientMessage) -> None:
    assert wire.decode_client(text, endpoint) == message


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [("turns", "finalize"), ("turns", "done"), ("manual", "hello"), ("turns", "{}"), ("turns", "nonsense")],
)
def test_unknown_client_messages(endpoint: wire.Endpoint, text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_client(text, endpoint)


@pytest.mark.parametrize(
    "turn",
    [
        [],
        {"speed": 1},
        {"start_threshold": 0.95},
        {"start_threshold": "0.8"},
        {"end_timeout_ms": True},
        {"end_threshold": 0.4},
        {"eager_end_threshold": 0.8},
        {"start_threshold": 0.5, "eager_end_threshold": 0.5},
        {"end_timeout_ms": 639},
        {"end_timeout_ms": 11201},
    ],
)
def test_wrong_turn_settings_are_refused(turn: object) -> None:
    with pytest.raises(CallerError) as refusal:
        wire.decode_client(json.dumps({"type": "config", "turn": turn}), "turns")
    assert refusal.value.status == 400


def test_settings_that_change_are_judged_with_those_that_stay() -> None:
    def change(server: wire.TurnsServer, **turn: float) -> None:
        server.receive_text(json.dumps({"type": "config", "turn": turn}))

    server = wire.TurnsServer(wire.TurnSettings(start_threshold=0.9, eager_end_threshold=0.8))
    change(server, end_threshold=0.5)  # would be too high for the eager end's default
    change(server, end_timeout_ms=900)
    assert server.turn.as_dict() == {
        "start_threshold": 0.9,
        "eager_end_threshold": 0.8,
        "end_threshold": 0.5,
        "end_timeout_ms": 900,
    }
    with pytest.raises(CallerError):
        change(server, start_threshold=0.7)  # good with the eager end's default alone
    with pytest.raises(CallerError):
        change(server, eager_end_threshold=0.45)


@given(
    st.builds(
        wire.Handshake,
        endpoint=st.just("turns"),
        model=st.sampled_from(["ink-2"]),
        encoding=st.sampled_from(list(wire.ENCODINGS)),
        sample_rate=st.integers(8000, 48000),
        keyterms=st.lists(TEXT, max_size=5).map(tuple),
        turn=st.builds(
            wire.TurnSettings,
            start_threshold=st.none() | st.floats(0.81, 0.9),
            end_threshold=st.none() | st.floats(0.05, 0.39),
            end_timeout_ms=st.none() | st.integers(640, 11200) | st.floats(640, 11200),
        ),
    )
)
def test_a_handshake_survives_its_query(handshake: wire.Handshake) -> None:
    assert wire.Handshake.parse("turns", handshake.query()) == handshake


def test_a_manual_handshake_survives_its_query() -> None:
    handshake = wire.Handshake(
        endpoint="manual", model="ink-whisper", language="en", min_volume=0.1, max_silence_duration_secs=2.5
    )
    assert wire.Handshake.parse("manual", handshake.query()) == handshake


def test_whole_numbers_stand_in_the_query_as_such() -> None:
    handshake = wire.Handshake(endpoint="turns", turn=wire.TurnSettings(end_timeout_ms=900.0))
    assert ("turn_end_timeout_ms", "900") in handshake.query()


def test_the_older_page_has_defaults() -> None:
    found = wire.Handshake.parse("manual", [("model", "ink-whisper")])
    assert (found.encoding, found.sample_rate) == ("pcm_s16le", 16000)


GOOD = {"model": "ink-2", "encoding": "pcm_s16le", "sample_rate": "16000"}


@pytest.mark.parametrize(
    ("endpoint", "change"),
    [
        ("turns", {"model": ""}),
        ("turns", {"encoding": "mp3"}),
        ("turns", {"sample_rate": "7999"}),
        ("turns", {"sample_rate": "48001"}),
        ("turns", {"sample_rate": "16e3"}),
        ("turns", {"sample_rate": "9" * 5000}),
        ("turns", {"keyterm": "x" * 1201}),
        ("turns", {"turn_start_threshold": "nan"}),
        ("turns", {"turn_start_threshold": "high"}),
        ("turns", {"turn_end_threshold": "0.45"}),
        ("manual", {"min_volume": "2"}),
        ("manual", {"max_silence_duration_secs": "-1"}),
    ],
)
def test_wrong_handshakes_are_refused(endpoint: wire.Endpoint, change: dict[str, str]) -> None:
    with pytest.raises(CallerError) as refusal:
        wire.Handshake.parse(endpoint, {**GOOD, **change}.items())
    assert refusal.value.status == 400


def test_too_many_keyterms_are_refused() -> None:
    with pytest.raises(CallerError):
        wire.Handshake.parse("turns", [*GOOD.items(), *([("keyterm", "a")] * 101)])


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (1000, False),
        (1001, True),
        (1006, True),
        (1008, False),
        (1011, True),
        (400, False),
        (401, False),
        (408, True),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_what_may_be_tried_again(code: int, again: bool) -> None:
    assert wire.retryable(code) is again


@pytest.mark.parametrize("encoding", wire.ENCODINGS)
@given(data=st.binary(max_size=64), cuts=st.lists(st.integers(0, 64), max_size=4))
def test_audio_is_the_same_however_it_is_cut(encoding: str, data: bytes, cuts: list[int]) -> None:
    whole = AudioDecoder(encoding).decode(data)
    decoder = AudioDecoder(encoding)
    edges = [0, *sorted(cuts), len(data)]
    parts = [decoder.decode(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(whole) == len(data) // wire.ENCODINGS[encoding]
    assert whole.dtype == np.float32 and np.all(np.abs(whole) <= 1)


def test_encodings_agree_on_a_tone() -> None:
    tone = np.sin(np.arange(800) / 10).astype(np.float32) * 0.5
    raw = {
        "pcm_s16le": (tone * 32768).astype("<i2").tobytes(),
        "pcm_s32le": (tone.astype(np.float64) * 2**31).astype("<i4").tobytes(),
        "pcm_f16le": tone.astype("<f2").tobytes(),
        "pcm_f32le": tone.astype("<f4").tobytes(),
    }
    for encoding, data in raw.items():
        assert np.allclose(AudioDecoder(encoding).decode(data), tone, atol=1e-3), encoding


@pytest.mark.parametrize("endpoint", ["turns", "manual"])
def test_our_servers_additions_are_in_the_query_and_bounded(endpoint: wire.Endpoint) -> None:
    asked = wire.Handshake(endpoint=endpoint, update_ms=250, keyterm_strength=1.5, keyterms=("Vosk",))
    parsed = wire.Handshake.parse(endpoint, asked.query())
    assert (parsed.update_ms, parsed.keyterm_strength, parsed.keyterms) == (250, 1.5, ("Vosk",))
    assert {"update_ms", "keyterm_strength"}.isdisjoint(dict(wire.Handshake(endpoint=endpoint).query()))
    for name, value in (("update_ms", "99"), ("update_ms", "nan"), ("keyterm_strength", "2.1")):
        with pytest.raises(CallerError, match=name):
            wire.Handshake.parse(endpoint, [*asked.query(), (name, value)])
