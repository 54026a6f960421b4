"""Session descriptions as text: what is read, within which bounds."""

from __future__ import annotations

import pytest

from rtcstt.errors import CallerError
from rtcstt.media.rtp import Codec
from rtcstt.webrtc.sdp import MAX_CHARACTERS, MAX_SECTIONS, Description, whole
from tests.descriptions import AUDIO, DATA, SESSION, VIDEO


def parsed(text: str) -> Description:
    return Description.parse(text)


def test_payload_types_include_static_and_non_speech_ones() -> None:
    section = parsed(SESSION + AUDIO).sections[0]
    assert section.codecs() == {
        111: Codec("opus", 48000, 2),
        9: Codec("G722", 8000),
        0: Codec("PCMU", 8000),
        110: Codec("telephone-event", 48000),
        126: Codec("telephone-event", 8000),
        13: Codec("CN", 8000),
    }
    assert list(section.codecs()) == [111, 9, 0, 110, 126, 13], "in the caller's order"
    assert section.mid_extension == 4


@pytest.mark.parametrize(
    "encoding",
    ["opus/1/2", "opus/100/2", "opus/48000", "opus/16000/2", "PCMU/16000", "PCMU/8000/2", "G722/16000"]
    + ["opus/" + "9" * 5000 + "/2", "opus/48000/" + "9" * 5000, "opus/٤٨٠٠٠/2", "opus/0/2", "opus", "/8000"],
)
def test_only_registered_clock_rates_and_channels_mean_something(encoding: str) -> None:
    text = f"v=0\nm=audio 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 {encoding}\n"
    assert parsed(text).sections[0].codecs() == {}


@pytest.mark.parametrize("number", ["9" * 5000, "128", "-1", "²", "١١١", "", "72"])
def test_payload_types_are_numbers_of_rtp_beside_rtcp(number: str) -> None:
    text = f"v=0\nm=audio 9 UDP/TLS/RTP/SAVPF {number} 0\na=rtpmap:{number} opus/48000/2\n"
    assert set(parsed(text).sections[0].codecs()) == {0}


def test_numbers_from_outside_have_few_digits() -> None:
    assert (whole("0"), whole("65535", 65535), whole("65536", 65535)) == (0, 65535, None)
    assert whole("9" * 4301) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("v=0\n" + "m=a 0 x 0\n" * (MAX_SECTIONS + 1), "media sections"),
        ("v=0\nm=audio 9 U 0\n" + "a=x\n" * 5000, "lines"),
        ("v=0\ns=" + "x" * MAX_CHARACTERS + "\n", "64 kB"),
        ("v=0\nm=audio 9 U 0\na=mid:" + "x" * 65 + "\n", "token"),
        ("v=0\nm=audio 9 U 0\na=mid:\u2028\n", "token"),
    ],
)
def test_descriptions_are_bounded(text: str, why: str) -> None:
    with pytest.raises(CallerError, match=why):
        parsed(text)


def test_lines_end_with_carriage_return_and_line_feed_alone() -> None:
    described = parsed(SESSION.replace("s=-", "s=Call\u2028one\x0b\x85two") + AUDIO)
    assert described.session[2] == "s=Call\u2028one\x0b\x85two"
    assert parsed(SESSION.replace("\n", "\r") + DATA).sections[0].kind == "application"


def test_a_direction_of_the_session_is_that_of_sections_without() -> None:
    text = SESSION + "a=sendonly\n" + AUDIO.replace("a=sendrecv\n", "") + VIDEO
    described = parsed(text)
    assert [described.direction_of(section) for section in described.sections] == ["sendonly", "sendrecv"]


def test_a_group_names_sections_that_are_there() -> None:
    assert parsed(SESSION + "a=group:BUNDLE 0 1 data 0\n" + AUDIO).bundle == ["0"]


def test_sources_that_a_section_names() -> None:
    text = SESSION + AUDIO + "a=ssrc:1111 cname:c\na=ssrc:1111 msid:s t\na=ssrc:x\na=ssrc:4294967296 y\n"
    assert parsed(text).sections[0].ssrcs == [1111]
