"""What gateways state, vendor by vendor; and audio that is not what was stated."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.errors import CallerError
from rtcstt.media import files
from rtcstt.media.g711 import ALAW, MULAW
from rtcstt.media.suspicion import Suspicion
from rtcstt.server import stated_formats
from rtcstt.server.media_formats import (
    ChunkOrder,
    Key,
    Media,
    Other,
    Start,
    Stop,
    Unreadable,
    media_message,
    pcm_message,
    track_name,
)
from rtcstt.server.stated_formats import Form, Stated

FIXTURE = Path(__file__).parent / "fixtures" / "media" / "pcmu_ts_320_per_20ms.rtp.jsonl.gz"

TWILIO = {
    "event": "start",
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "callSid": "CA1",
        "accountSid": "AC1",
        "tracks": ["inbound", "outbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"label": "desk", "access_token": "secret"},
    },
}
TELNYX = {
    "event": "start",
    "stream_id": "s1",
    "start": {
        "call_control_id": "v2:T",
        "client_state": "aGk=",
        "media_format": {"encoding": "PCMA", "sample_rate": 8000, "channels": 1},
    },
}
EXOTEL = {
    "event": "start",
    "stream_sid": "E1",
    "start": {
        "call_sid": "c9",
        "from": "+91",
        "to": "+92",
        "custom_parameters": {"a": "b"},
        "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"},
    },
}
PLIVO = {
    "event": "start",
    "start": {
        "callId": "p1",
        "streamId": "q1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000},
    },
}


def started(value: dict[str, Any]) -> Start:
    message = media_message(json.dumps(value))
    assert isinstance(message, Start)
    return message


@pytest.mark.parametrize(
    ("value", "form", "label", "tracks"),
    [
        (TWILIO, Form("pcm_mulaw", 8000), "desk", 2),
        (TELNYX, Form("pcm_alaw", 8000), "v2:T", 1),
        (EXOTEL, Form("pcm_s16le", 8000), "c9", 1),
        (PLIVO, Form("pcm_s16le", 16000), "p1", 1),
        ({"event": "start", "start": {"callSid": "CA3"}}, Form(), "CA3", 1),
    ],
)
def test_starts_of_media_streams(value: dict[str, Any], form: Form, label: str, tracks: int) -> None:
    start = started(value)
    assert (start.stated.form(), start.about.label, start.tracks) == (form, label, tracks)
    assert "secret" not in json.dumps(start.about.metadata)


def test_ids_of_the_stream_are_metadata() -> None:
    assert started(TELNYX).about.metadata == {
        "call_control_id": "v2:T",
        "stream_id": "s1",
        "client_state": "aGk=",
    }
    assert started(EXOTEL).about.metadata["from"] == "+91"
    assert started(EXOTEL).about.metadata["custom_parameters"] == {"a": "b"}


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        ("AUDIO/X-MULAW", Form("pcm_mulaw", 8000)),
        ("audio/x-alaw;rate=8000", Form("pcm_alaw", 8000)),
        ('audio/L16; channels=2 ; rate="16000"', Form("pcm_s16le", 16000, 2)),
        ("pcmu", Form("pcm_mulaw", 8000)),
        ("raw/slin", Form("pcm_s16le", 8000)),
        ("slin16", Form("pcm_s16le", 16000)),
    ],
)
def test_media_types_without_case_and_with_parameters(encoding: str, form: Form) -> None:
    assert Stated.of_media_format({"encoding": encoding}, "start.mediaFormat").form() == form


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"encoding": "OPUS"}, "start.mediaFormat.encoding"),
        ({"encoding": "audio/x-mulaw", "sampleRate": 4000}, "start.mediaFormat.sampleRate"),
        ({"encoding": "audio/x-mulaw", "sampleRate": True}, "start.mediaFormat.sampleRate"),
        ({"encoding": "audio/x-mulaw", "channels": 3}, "start.mediaFormat.channels"),
        ({"encoding": "audio/l16;rate=8000", "sampleRate": 16000}, "sample_rate"),
        ({"encoding": "audio/l16;rate=" + "9" * 5000}, "rate"),
        ({"encoding": None}, "start.mediaFormat.encoding"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(stated: dict[str, Any], named: str) -> None:
    value = {"event": "start", "start": {"mediaFormat": stated}}
    with pytest.raises(CallerError, match=named):
        media_message(json.dumps(value))


def test_the_url_and_the_start_must_agree() -> None:
    url = Stated.of_query({"sample_rate": "8000"})
    with pytest.raises(CallerError, match="sample_rate is 16000 in start, but was 8000"):
        url.agreeing(Stated(sample_rate=16000), "start")
    assert url.agreeing(Stated("pcm_alaw"), "start").form() == Form("pcm_alaw", 8000)


@pytest.mark.parametrize(
    ("text", "form", "label"),
    [
        ('{"event": "x", "content-type": "audio/l16;rate=16000"}', Form(sample_rate=16000), None),
        ('{"callSid": "j1", "sampleRate": 16000, "mixType": "stereo"}', Form("pcm_s16le", 16000, 2), "j1"),
        ('{"anything": 1}', Form(), None),
        ("MEDIA_START connection_id:a channel:b format:ulaw ptime:20", Form("pcm_mulaw", 8000), None),
        ("MEDIA_START format:slin16 channel_variables:{}", Form("pcm_s16le", 16000), None),
        ('{"event": "MEDIA_START", "format": "alaw", "optimal_frame_size": 160}', Form("pcm_alaw"), None),
    ],
)  # fmt: skip
def test_texts_before_binary_audio(text: str, form: Form, label: str | None) -> None:
    message = pcm_message(text)
    assert isinstance(message, Start)
    assert (message.stated.form(), message.about.label) == (form, label)


@pytest.mark.parametrize(
    "text",
    [
        "MEDIA_START format:g722",
        '{"content-type": "audio/opus"}',
        '{"sampleRate": "x"}',
        '{"sampleRate": 16000, "mixType": "both"}',
        '{"event": "start", "start": {"mediaFormat": {"encoding": "audio/x-mulaw"}}}',
        '{"event": "media", "media": {"payload": "AAE="}}',
    ],
)
def test_texts_that_state_what_is_not_taken(text: str) -> None:
    with pytest.raises(CallerError, match=r"format|content-type|sampleRate|mixType|event"):
        pcm_message(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "5"}}',
        '{"event": "dtmf", "dtmf": {"digit": "5", "duration": "0"}, "stream_id": "s1"}',
        '{"event": "websocket:dtmf", "digit": "5", "duration": 0}',
        '{"event": "dtmf", "dtmf": "5", "duration": "0"}',
        '{"event": "DTMF_END", "digit": "5", "duration_ms": 0}',
    ],
)
def test_keys(text: str) -> None:
    for read in (media_message, pcm_message):
        key = read(text)
        assert isinstance(key, Key)
        assert (key.digit, key.duration_ms) == ("5", 0)


def test_asterisks_keys_and_commands_of_ours() -> None:
    assert pcm_message("DTMF_END digit:# duration_ms:120") == Key("#", 120)
    assert pcm_message('{"type": "close"}') == Other({"type": "close"})
    assert media_message('{"event": "mark", "mark": {}}') == Other({"event": "mark", "mark": {}})
    assert media_message('{"event": "stop"}') == Stop()


@pytest.mark.parametrize("payload", ["+/8=", "+/8", "+/8===", "-_8", "-_8=", "+/\r\n8=\n"])
def test_base64_of_either_alphabet_with_and_without_padding(payload: str) -> None:
    text = json.dumps(
        {"event": "media", "media": {"payload": payload, "track": "outbound_track", "chunk": "7"}}
    )
    assert media_message(text) == Media(b"\xfb\xff", "outbound", 7)


@pytest.mark.parametrize(
    ("query", "form"),
    [
        ({"sampleRate": "16000"}, Form("pcm_s16le", 16000)),
        ({"rate": "16000", "codec": "L16"}, Form("pcm_s16le", 16000)),
        ({"format": "slin48"}, Form("pcm_s16le", 48000)),
        ({"encoding": "audio/l16;rate=16000", "Channels": "2"}, Form("pcm_s16le", 16000, 2)),
        ({"content-type": "audio/PCMA", "label": "rate"}, Form("pcm_alaw", 8000)),
    ],
)
def test_a_url_states_it_by_any_of_the_usual_names(query: dict[str, str], form: Form) -> None:
    assert Form.parse(query) == form


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"rate": "16000", "sample_rate": "8000"}, "sample_rate is 8000 in sample_rate"),
        ({"codec": "opus"}, "codec"),
        ({"sampleRate": "16k"}, "sampleRate"),
    ],
)
def test_what_a_url_states_otherwise_is_refused_by_name(query: dict[str, str], named: str) -> None:
    with pytest.raises(CallerError, match=named):
        Form.parse(query)


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        ({"content-type": "audio/opus"}, "start.content-type"),
        ({"sampleRate": 16000, "content-type": "audio/l16;rate=8000"}, "start.sample_rate is "),
        ({"mixType": "quad"}, "start.mixType"),
    ],
)
def test_whatever_a_start_states_wrongly_is_refused_at_once(inside: dict[str, Any], named: str) -> None:
    with pytest.raises(CallerError, match=f"^{named}"):
        media_message(json.dumps({"event": "start", "start": inside}))


@pytest.mark.parametrize("payload", ["?", 7, None, [], "é"])
def test_a_payload_that_is_none(payload: object) -> None:
    message = media_message(json.dumps({"event": "media", "media": {"payload": payload, "track": "a_track"}}))
    assert isinstance(message, Unreadable)
    assert message.problem.startswith("media.payload") and message.track == "a"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ('{"media": {"payload": "AAAAAAAA"}}', 6),
        ('{"event": "media", "media": {"payload": "AAAA', 3),
        ('"payload"', 0),
    ],
)
def test_a_broken_message_with_audio(text: str, size: int) -> None:
    message = media_message(text)
    assert isinstance(message, Unreadable) and message.size == size


@given(st.text(max_size=200) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
           ["event", "start", "media", "dtmf", "mediaFormat", "encoding", "payload", "tracks", "format"]
       ) | st.text(max_size=5), inner, max_size=4), max_leaves=12).map(json.dumps))  # fmt: skip
def test_any_text_is_understood_or_refused(text: str) -> None:
    for read in (media_message, pcm_message):
        try:
            read(text)
        except CallerError as refusal:
            assert refusal.status == 400


def media(number: int | None) -> Media:
    return Media(b"" if number is None else bytes([number]), "inbound", number)


@pytest.mark.parametrize(
    ("came", "due"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([1, 3, 2, 4, 5], [1, 2, 3, 4, 5]),
        ([1, 2, 5, 4, 3, 6], [1, 2, 3, 4, 5, 6]),
        ([7, 8, 10, 11, 12, 13, 14, 15], [7, 8, 10, 11, 12, 13, 14, 15]),  # one never comes
        ([1, 3, 5, 7, 9, 11, 13], [1, 3, 5, 7, 9, 11, 13]),  # numbered by two tracks together
        ([1, 3, 4, 5, 7, 8, 6, 9], [1, 3, 4, 5, 6, 7, 8, 9]),  # while others wait two are swapped
        ([1, 2, 2, 3], [1, 2, 3]),  # sent again
        ([1, 3, 3, 2, 4, 4, 1, 5], [1, 2, 3, 4, 5]),
        (
            [1, 3, 4, 5, 6, 7, 9, 8, 10],
            [1, 3, 4, 5, 6, 7, 8, 9, 10],
        ),  # one never comes; two are swapped later
    ],
)
def test_messages_are_taken_in_the_order_of_their_numbers(came: list[int], due: list[int]) -> None:
    order = ChunkOrder()
    got = [data for number in came for data in order.push(media(number))]
    got += order.flush()
    assert [data[0] for data in got] == due


# -- audio that cannot be what was stated ------------------------------------------------------------


def spoken() -> np.ndarray:
    """Real speech at 8 kHz, three times the same sentence."""
    with gzip.open(FIXTURE, "rt") as file:
        payloads = [bytes.fromhex(json.loads(line)[1])[12:] for line in file]
    return np.tile(MULAW[np.frombuffer(b"".join(payloads), np.uint8)], 3)


def codes(table: np.ndarray, samples: np.ndarray) -> bytes:
    order = np.argsort(table, kind="stable")
    found = np.clip(np.searchsorted(table[order], samples), 0, 255)  # near enough
    return bytes(order[found].astype(np.uint8))


SPOKEN = spoken()
RANDOM = np.random.default_rng(3).integers(0, 65536, len(SPOKEN))
ENCODED = {
    "pcm_s16le": SPOKEN.astype("<i2").tobytes(),
    "pcm_s16be": SPOKEN.astype(">i2").tobytes(),
    "pcm_mulaw": codes(MULAW, SPOKEN),
    "pcm_alaw": codes(ALAW, SPOKEN),
    "pcm_u8": ((SPOKEN.astype(int) >> 8) + 128).astype(np.uint8).tobytes(),
}


def suspect(stated: str, data: bytes, *, rate: int = 8000, pace: float = 1.0) -> list[str]:
    suspicion = Suspicion(stated, rate)
    size = rate // 50 * (2 if stated.startswith("pcm_s16") else 1)
    found = []
    for number, at in enumerate(range(0, len(data), size)):
        found += suspicion.push(data[at : at + size], 100 + 0.02 * number / pace)
    return found


@pytest.mark.parametrize(
    ("stated", "real"),
    [  # A-law and unsigned samples are too alike for a sentence that is so short
        *((stated, real) for stated in ("pcm_s16le", "pcm_mulaw") for real in ENCODED),
        *(("pcm_alaw", real) for real in ENCODED if real != "pcm_u8"),
    ],
)
def test_speech_that_is_read_in_another_encoding(stated: str, real: str) -> None:
    found = suspect(stated, ENCODED[real])
    wanted = [] if real == stated else [f"{real}, not {stated}"]
    assert [guess for guess in found if "pace" not in guess] == wanted


@pytest.mark.parametrize(
    ("real", "data"),
    [
        ("pcm_f32le", (SPOKEN / 32768).astype("<f4").tobytes()),
        ("pcm_s32le", (SPOKEN.astype(np.int64) * 65536 + RANDOM % 65536).astype("<i4").tobytes()),
        (
            "pcm_s24le",
            (SPOKEN.astype(int) * 256 + RANDOM % 256)
            .astype("<i4")
            .view(np.uint8)
            .reshape(-1, 4)[:, :3]
            .tobytes(),
        ),
        ("pcm_s32le", (SPOKEN.astype(np.int64) * 65536).astype("<i4").tobytes()),
    ],
)
def test_speech_in_wider_samples(real: str, data: bytes) -> None:
    found = suspect("pcm_s16le", data)
    assert [guess for guess in found if "pace" not in guess] == [f"{real}, not pcm_s16le"]


@pytest.mark.parametrize("pace", [0.5, 2.0])
def test_audio_at_another_pace(pace: float) -> None:
    (guess,) = suspect("pcm_s16le", ENCODED["pcm_s16le"] * 3, pace=pace)
    assert guess == f"sample_rate {round(8000 * pace)}, not 8000: it comes at that pace"


def test_real_speech_as_mu_law_and_a_law(shared_data: Path) -> None:
    """Half of the recordings: read rightly none is suspected, and read as the other law nearly all."""
    found = long = 0
    recordings = [path for path in sorted(shared_data.iterdir()) if path.suffix in (".wav", ".flac", ".ogg")]
    for path in recordings[::2]:
        samples = np.asarray(files.read(path, rate=8000))[: 8000 * 8]
        mu_law, a_law = codes(MULAW, samples), codes(ALAW, samples)
        assert suspect("pcm_mulaw", mu_law) == suspect("pcm_alaw", a_law) == [], path.name
        assert suspect("pcm_s16le", samples.astype("<i2").tobytes()) == [], path.name
        found += suspect("pcm_mulaw", a_law) == ["pcm_alaw, not pcm_mulaw"]
        found += suspect("pcm_alaw", mu_law) == ["pcm_mulaw, not pcm_alaw"]
        long += len(samples) > 8000 * 4
    assert long > 15 and found > 1.5 * long


def test_noise_and_silence_raise_no_suspicion() -> None:
    noise = np.random.default_rng(1).normal(0, 3000, 80_000).astype("<i2").tobytes()
    for data in (noise, bytes(160_000), b"\xff" * 80_000, b"\xd5" * 80_000):
        for stated in ("pcm_s16le", "pcm_mulaw", "pcm_alaw"):
            assert suspect(stated, data) == []


@pytest.mark.parametrize("level", [300, 3000, 10_000])
def test_high_tones_raise_no_suspicion(level: int) -> None:
    """Of which every second sample, or every third byte, may look smooth."""
    time = np.arange(80_000)
    for share in (0.34, 0.45, 0.49, 0.5):  # of the sample rate
        tone = level * np.sin(2 * np.pi * share * time + 1)
        noise = np.random.default_rng(1).normal(0, level / 30, len(time))
        for samples in (tone, tone + noise):
            assert suspect("pcm_s16le", samples.astype("<i2").tobytes()) == []
            assert suspect("pcm_s16be", samples.astype(">i2").tobytes()) == []


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ('{"encoding": "pcm_mulaw", "sample_rate": 8000}', Stated("pcm_mulaw", 8000)),
        ('{"sample_rate": 16000.0, "channels": 2}', Stated(None, 16000, 2)),
        ('{"codec": "PCMA"}', Stated("pcm_alaw")),
        ('{"codec": "of conduct", "rate": 3, "format": "short"}', Stated()),  # somebody's own
        ('{"content-type": "audio/L16@24000h"}', Stated("pcm_s16le", 24000)),
    ],
)
def test_what_a_first_text_of_ones_own_states(text: str, stated: Stated) -> None:
    message = pcm_message(text)
    assert isinstance(message, Start) and message.stated == stated


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"codec": "opus"}', "codec"),
        ('{"sample_rate": 16000, "encoding": "flac"}', "encoding"),
        ('{"sample_rate": 16000, "sampleRate": 8000}', "sample_rate"),
        ('{"channels": 6}', "channels"),
    ],
)
def test_what_a_first_text_of_ones_own_states_wrongly(text: str, named: str) -> None:
    with pytest.raises(CallerError, match=named):
        pcm_message(text)


def test_media_formats_by_other_names() -> None:
    start = {"mediaFormat": {"codec": "PCMA", "rate": "16000", "channels": 1}}
    message = media_message(json.dumps({"event": "start", "start": start}))
    assert isinstance(message, Start) and message.stated == Stated("pcm_alaw", 16000, 1)


@pytest.mark.parametrize("begin", ["DTMF_BEGIN digit:1", '{"event": "dtmf_start", "digit": "1"}'])
def test_a_key_that_begins_is_told_at_its_end(begin: str) -> None:
    assert pcm_message(begin) == Other()


@pytest.mark.parametrize("numbers", [[1] * 6, [3, 2, 3, 3, 2, 9]])
def test_numbers_that_mean_something_else_lose_nothing(numbers: list[int]) -> None:
    order, came = ChunkOrder(), [Media(bytes([at]), "inbound", each) for at, each in enumerate(numbers)]
    due = [data for one in came for data in order.push(one)] + list(order.flush())
    assert sorted(due) == [one.data for one in came] and order.repeated == 0


def test_what_waits_is_not_left_behind_by_a_number_that_is_none() -> None:
    order = ChunkOrder()
    came = [Media(data, "inbound", number) for number, data in [(1, b"a"), (3, b"b"), (1, b"c"), (4, b"d")]]
    assert [data for one in came for data in order.push(one)] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("lost", [{3}, {3, 6}, set(range(3, 90, 7)), set(range(3, 90, 2))])
def test_what_is_sent_twice_counts_once_whatever_is_lost(lost: set[int]) -> None:
    order, numbers = ChunkOrder(), [number for number in range(100) if number not in lost]
    swapped = [number + 1 - 2 * (number % 2) for number in numbers]
    came = [media(number) for number in swapped for _ in range(2)]
    due = [data for one in came for data in order.push(one)] + list(order.flush())
    assert sorted(due) == sorted(media(number).data for number in swapped)


def test_a_later_stream_begins_to_count_again() -> None:
    order = ChunkOrder()
    came = [Media(bytes([stream, each]), "inbound", each) for stream in (1, 2) for each in range(1, 9)]
    assert [data for one in came for data in order.push(one)] == [one.data for one in came]


@pytest.mark.parametrize(
    ("value", "stated"),
    [
        ({"start": {"media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"}}},
         Stated("pcm_s16le", 8000)),  # Exotel
        ({"call_id": "w1", "stream_id": "s", "stream_type": "twoway", "channel": "both"}, Stated()),  # Wavix
        ({"start": {"mediaFormat": {"encoding": "PCM16", "sampleRate": 16000}}}, Stated("pcm_s16le", 16000)),
        ({"callSid": "c", "mediaFormat": {"encoding": "audio/x-alaw"}}, Stated("pcm_alaw")),
        ({"start": {"callSid": "c"}, "media_format": {"encoding": "PCMA", "sample_rate": 8000}},
         Stated("pcm_alaw", 8000)),
        ({"start": {"MediaFormat": {"Encoding": "PCMA", "SampleRate": 16000}}}, Stated("pcm_alaw", 16000)),
        ({"start": {"media-format": {"encoding": "PCMA/8000/1"}}}, Stated("pcm_alaw", 8000, 1)),
        ({"start": {"mediaFormat": "audio/x-alaw;rate=8000"}}, Stated("pcm_alaw", 8000)),
        ({"start": {"codec": "PCMA", "sample_rate": 16000}}, Stated("pcm_alaw", 16000)),
        ({"start": {"media": [{"type": "audio", "format": "PCMA", "rate": 8000}]}}, Stated("pcm_alaw", 8000)),
        ({"start": {"tracks": [{"name": "in", "mediaFormat": {"encoding": "PCMA", "sampleRate": 8000}}]}},
         Stated("pcm_alaw", 8000)),
        ({"start": {"mediaFormat": {"encoding": "G.711 A-law", "channelCount": 2.0}}},
         Stated("pcm_alaw", None, 2)),
        ({"start": {"mediaFormat": {"encoding": "audio/basic"}}}, Stated("pcm_mulaw", 8000, 1)),
        ({"start": {"mediaFormat": {"encoding": "LINEAR_16", "sampleRateHertz": 16000, "bitDepth": 16}}},
         Stated("pcm_s16le", 16000)),
        ({"start": {"mediaFormat": {"sampleRate": 16000, "bitsPerSample": 16}}}, Stated("pcm_s16le", 16000)),
        ({"start": {"mediaFormat": {"sampleRate": 8000, "byteOrder": "little"}}}, Stated("pcm_s16le", 8000)),
        ({"start": {"mediaFormat": {"encoding": "ulaw_8000", "channels": "mono"}}},
         Stated("pcm_mulaw", 8000, 1)),
    ],
)  # fmt: skip
def test_starts_as_others_word_them(value: dict[str, Any], stated: Stated) -> None:
    assert started({"event": "start", **value}).stated == stated


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"encoding": "pcm", "bitsPerSample": 8}, "start.mediaFormat.bitsPerSample is '8'"),
        ({"encoding": "l16", "sample_width": 4}, "start.mediaFormat.sample_width is '4'"),
        ({"sampleRate": 8000, "bitDepth": 8}, "bitDepth is '8'; without an encoding samples have 16 bits"),
        ({"encoding": "pcm", "endianness": "big"}, "start.mediaFormat.endianness is 'big'"),
        ({"encoding": "audio/l16;endian=big"}, "endian is 'big'"),
        ({"encoding": "pcm_s16be"}, "start.mediaFormat.encoding is 'pcm_s16be'"),
        ({"encoding": "PCMA/8000", "sampleRate": 16000}, "sample_rate is 16000"),
        ({"channelCount": 6}, "start.mediaFormat.channelCount must be 1 or 2"),
        ([], "start.mediaFormat"),
        (None, "start.mediaFormat"),
    ],
)
def test_samples_of_another_width_or_order_are_refused(stated: object, named: str) -> None:
    with pytest.raises(CallerError, match=named):
        started({"event": "start", "start": {"callSid": "c", "mediaFormat": stated}})


@pytest.mark.parametrize(
    ("beside", "inside"),
    [
        ({"extra_headers": '{"X-PH-label": "desk", "access_token": "secret"}'}, {}),
        ({"extra_headers": "label=desk;access_token=secret"}, {}),
        ({}, {"extraHeaders": "label=desk,access_token=secret"}),
        ({"customParameters": {"label": "desk", "access_token": "secret"}}, {}),
    ],
)
def test_the_callers_own_parameters_in_any_form(beside: dict[str, Any], inside: dict[str, Any]) -> None:
    start = started({"event": "start", "start": {"callId": "p1", **inside}, **beside})
    assert start.about.label == "desk" and start.parameters["access_token"] == "secret"
    assert "secret" not in json.dumps(start.about.metadata)


def test_bandwidths_messages() -> None:
    tracks = [
        {"name": name, "mediaFormat": {"encoding": "PCMU", "sampleRate": 8000}}
        for name in ("inbound", "outbound")
    ]
    metadata = {"accountId": "a", "callId": "b1", "streamId": "s", "streamName": "n", "tracks": tracks}
    start = started({"eventType": "start", "metadata": metadata, "streamParams": {"label": "desk"}})
    assert (start.stated, start.tracks, start.about.label) == (Stated("pcm_mulaw", 8000), 2, "desk")
    assert start.id == "b1 inbound outbound"
    text = json.dumps({"eventType": "media", "track": "inbound", "payload": "+/8="})
    assert media_message(text) == Media(b"\xfb\xff", "inbound")
    assert media_message('{"eventType": "stop", "metadata": {"callId": "b1"}}') == Stop()


def test_streams_of_one_connection_have_tags() -> None:
    """Voximplant's."""
    assert started({"event": "start", "start": {"tag": "a", "mediaFormat": {"encoding": "ULAW"}}}).tag == "a"
    assert media_message('{"event": "media", "media": {"tag": "a", "chunk": 1, "payload": "+/8="}}') == Media(
        b"\xfb\xff", "a", 1
    )
    assert media_message('{"event": "stop", "stop": {"tag": "a"}}') == Stop("a")


def test_two_tracks_stay_two_whatever_their_names() -> None:
    names = ["caller leg", "callee leg", "Алиса", "Павел", 1, 2, "a" * 40, "a" * 41, "x/y_track"]
    read = [track_name(name) for name in names]
    assert None not in read and len(set(read)) == len(names)
    assert all(track_name(name) == name for name in read)
    assert track_name("inbound_track") == "inbound" and track_name(None) is None is track_name({})


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ('{"type": "start", "format": "raw", "encoding": "LINEAR16", "sampleRateHz": 16000, "options": {}}',
         Stated("pcm_s16le", 16000)),  # jambonz' speech protocol
        ('{"event": "websocket:connected", "Content-Type": "audio/l16; rate=24000"}',
         Stated("pcm_s16le", 24000)),
        ('{"event": "websocket:connected", "content-type": "audio/l16;rate=16000", "channels": "sms", '
         '"sampleRate": "x", "codec": "opus", "type": "phone"}', Stated("pcm_s16le", 16000)),
        ('{"callSid": "j", "sample_rate": 16000, "mix_type": "stereo"}', Stated(None, 16000, 2)),
        ('{"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000}}', Stated("pcm_mulaw", 8000)),
        ('{"format": {"encoding": "mulaw", "rate": 8000}}', Stated("pcm_mulaw", 8000)),
        ('{"format": "ulaw"}', Stated("pcm_mulaw")),
        ('{"audio": {"encoding": "mulaw"}, "type": "hello"}', Stated("pcm_mulaw")),
        ('{"audio": {"encoding": "of a sort", "format": "short"}, "config": {"rate": 3}}', Stated()),
    ],
)  # fmt: skip
def test_first_texts_as_others_word_them(text: str, stated: Stated) -> None:
    message = pcm_message(text)
    assert isinstance(message, Start) and message.stated == stated


def test_objects_of_many_fields_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one message of 256 kB, all of whose fields could be a format's, stops the server for minutes."""
    looked_at = 0

    def counted(given: object) -> bool:
        nonlocal looked_at
        looked_at += 1
        return False

    monkeypatch.setattr(stated_formats, "_is_codec", counted)
    names = ["".join(each) for each in itertools.product("-_ .", repeat=5)]
    value = {"rate": 1, **{f"co{name}dec": 0 for name in names}, **{f"ra{name}te": 0 for name in names}}
    assert Stated.beside(value) == Stated() and looked_at < 3 * len(value)


def test_objects_that_are_deep_in_others_are_nobodys_format() -> None:
    value: dict[str, object] = {"codec": "PCMU", "rate": 8000}
    assert Stated.beside({"start": 1, "media": {"format": value}}) == Stated("pcm_mulaw", 8000)
    for _ in range(5000):
        value = {"media": value}
    assert Stated.beside(value) == Stated()


def test_jambonz_stop_closes() -> None:
    assert pcm_message('{"type": "stop"}') == Other({"type": "close"})
    assert pcm_message('{"type": "finalize"}') == Other({"type": "finalize"})
