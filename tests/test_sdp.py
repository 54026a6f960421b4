"""Offers and answers as text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcstt.errors import CallerError
from rtcstt.media.rtp import Codec
from rtcstt.webrtc.sdp import (
    Description,
    Offer,
    candidates,
    opus_preference,
    restarts_ice,
    with_public_address,
)

TRANSPORT = """a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=fingerprint:sha-256 AA:BB
a=setup:actpass
a=rtcp-mux
"""

AUDIO = (
    """m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 110 126 13
c=IN IP4 0.0.0.0
a=mid:0
a=extmap:14 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:4/recvonly urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=candidate:1 1 udp 2122260223 10.0.0.1 5000 typ host generation 0 network-id 1
a=candidate:2 1 tcp 1518280447 10.0.0.1 9 typ host tcptype active
a=candidate:3 1 udp 2122260223 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 5001 typ host
a=candidate:4 2 udp 2122260223 10.0.0.1 5002 typ host
a=candidate:nonsense
a=end-of-candidates
"""
    + TRANSPORT
)

VIDEO = (
    """m=video 9 UDP/TLS/RTP/SAVPF 45
a=mid:1
a=sendrecv
a=rtpmap:45 AV1/90000
"""
    + TRANSPORT
)

DATA = (
    """m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=mid:2
a=sctp-port:5000
"""
    + TRANSPORT
)

SESSION = """v=0
o=- 1 2 IN IP4 127.0.0.1
s=-
t=0 0
"""


def offer(*sections: str, group: str = "a=group:BUNDLE 0 1 2\n") -> Offer:
    return Offer.parse(SESSION + group + "".join(sections), max_tracks=4)


def test_only_audio_and_data_reach_aiortc() -> None:
    taken = offer(AUDIO, VIDEO, DATA).taken
    assert [section.kind for section in taken.sections] == ["audio", "application"]
    assert "a=group:BUNDLE 0 2" in taken.session


def test_usable_candidates_are_kept_and_names_are_left_for_later() -> None:
    taken = offer(AUDIO)
    assert taken.taken.sections[0].values("candidate") == ["1 1 udp 2122260223 10.0.0.1 5000 typ host"]
    assert [mid for mid, _ in taken.trickled] == ["0"]
    assert taken.trickled[0][1].split()[4].endswith(".local")
    assert not taken.taken.sections[0].values("end-of-candidates")


def test_payload_types_include_static_and_non_speech_ones() -> None:
    section = offer(AUDIO).whole.sections[0]
    assert section.codecs() == {
        111: Codec("opus", 48000, 2),
        9: Codec("G722", 8000),
        0: Codec("PCMU", 8000),
        110: Codec("telephone-event", 48000),
        126: Codec("telephone-event", 8000),
        13: Codec("CN", 8000),
    }
    assert section.mid_extension == 4


def test_the_callers_order_of_codecs_is_kept() -> None:
    section = offer(AUDIO).taken.sections[0]
    assert section.formats == ["111", "9", "0", "110", "126", "13"]
    assert list(section.codecs()) == [111, 9, 0, 110, 126, 13]


def test_video_is_answered_inactive_in_its_place() -> None:
    answered = SESSION + "a=group:BUNDLE 0 2\n" + AUDIO.replace("audio 9", "audio 4242") + DATA
    text = offer(VIDEO, AUDIO, DATA, group="a=group:BUNDLE 1 0 2\n").answer(answered, opus="")
    parsed = Description.parse(text)
    assert [section.kind for section in parsed.sections] == ["video", "audio", "application"]
    video = parsed.sections[0]
    assert video.lines[0] == "m=video 4242 UDP/TLS/RTP/SAVPF 45"
    assert (video.mid, video.direction) == ("1", "inactive")
    assert video.value("ice-ufrag") == "abcd"  # it stands for the bundle
    assert "a=group:BUNDLE 1 0 2" in parsed.session


def test_what_cannot_share_our_transport_is_refused() -> None:
    text = "m=text 9 UDP/TLS/RTP/SAVPF 98\na=mid:1\n"
    answered = SESSION + "a=group:BUNDLE 0 2\n" + AUDIO + DATA
    for section in (text, VIDEO):
        group = "a=group:BUNDLE 0 1 2\n" if section is text else "a=group:BUNDLE 0 2\n"
        parsed = Description.parse(offer(AUDIO, section, DATA, group=group).answer(answered, opus=""))
        assert (parsed.sections[1].port, parsed.sections[1].direction) == ("0", "inactive")
        assert "a=group:BUNDLE 0 2" in parsed.session


def test_the_answer_asks_for_in_band_fec() -> None:
    answered = SESSION + "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:0\na=rtpmap:111 opus/48000/2\n"
    plain = offer(AUDIO).answer(answered, opus=opus_preference())
    assert "a=fmtp:111 minptime=10;useinbandfec=1\r\n" in plain
    more = offer(AUDIO).answer(answered, opus=opus_preference(dtx=True, stereo=True))
    assert "a=fmtp:111 minptime=10;useinbandfec=1;usedtx=1;stereo=1\r\n" in more


def test_a_missing_mid_is_made_up_for_aiortc_and_left_out_of_the_answer() -> None:
    made = offer(AUDIO.replace("a=mid:0\n", ""), group="")
    assert made.taken.sections[0].mid == "0"
    answered = SESSION + "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:0\n"
    assert "a=mid" not in made.answer(answered, opus="")


def test_bundled_sections_may_leave_the_transport_to_the_first() -> None:
    bare = AUDIO.replace(TRANSPORT, "").replace("a=mid:0", "a=mid:1").replace("audio 9", "audio 0")
    taken = offer(AUDIO, bare + "a=bundle-only\n", group="a=group:BUNDLE 0 1\n").taken
    assert [section.value("ice-ufrag") for section in taken.sections] == ["abcd", "abcd"]
    assert [section.port for section in taken.sections] == ["9", "9"]


def test_more_tracks_than_allowed_are_refused() -> None:
    tracks = [AUDIO.replace("a=mid:0", f"a=mid:{index}") for index in range(6)]
    parsed = offer(*tracks, group="")
    assert [section.mid for section in parsed.taken.sections] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_sdp"),
        ("hello", "bad_sdp"),
        ("v=0\nm=\n", "bad_sdp"),
        (SESSION, "no_audio"),
        (SESSION + VIDEO, "no_audio"),
        (SESSION + AUDIO.replace("sendrecv", "recvonly"), "no_audio"),
        (SESSION + AUDIO.replace("audio 9", "audio 0"), "no_audio"),
        (SESSION + AUDIO.replace("opus", "speex").replace(" 9 0 110 126 13", ""), "no_audio_codec"),
        (SESSION + AUDIO.replace("a=ice-ufrag:abcd\n", ""), "bad_sdp"),
        (SESSION + AUDIO.replace("a=fingerprint:sha-256 AA:BB\n", ""), "bad_sdp"),
        (SESSION + AUDIO + AUDIO, "bad_sdp"),
    ],
)
def test_refusals(text: str, code: str) -> None:
    with pytest.raises(CallerError) as refusal:
        Offer.parse(text, max_tracks=4)
    assert (refusal.value.status, refusal.value.code) == (400, code)


lines = st.sampled_from((SESSION + AUDIO + VIDEO + DATA).splitlines()) | st.text(max_size=30)


@given(st.lists(lines, max_size=40).map("\n".join))
@example("v=0\nm=audio x y z\na=mid")
def test_any_text_is_an_offer_or_a_refusal(text: str) -> None:
    try:
        parsed = Offer.parse("v=0\n" + text, max_tracks=2)
    except CallerError as refusal:
        assert refusal.status == 400
    else:
        assert Description.parse(str(parsed.taken)) == parsed.taken
        assert len(Description.parse(parsed.answer(str(parsed.taken), opus="")).sections) == len(
            parsed.whole.sections
        )


def test_trickled_fragment() -> None:
    fragment = """a=ice-ufrag:abcd
m=audio 9 UDP/TLS/RTP/SAVPF 0
a=mid:0
a=candidate:1 1 UDP 2122 192.0.2.1 61764 typ host
a=candidate:1 1 UDP 2122 example.com 61764 typ host
a=end-of-candidates
"""
    assert candidates(fragment) == [("0", "1 1 UDP 2122 192.0.2.1 61764 typ host")]
    with pytest.raises(CallerError) as refusal:
        candidates("hello")
    assert refusal.value.status == 400
    assert candidates("") == []


@pytest.mark.parametrize(
    ("fragment", "restarts"),
    [
        ("", False),
        ("a=ice-ufrag:abcd\na=ice-pwd:0123456789012345678901\n", False),
        ("a=ice-ufrag:abcd\na=ice-pwd:9999999999999999999999\n", True),
        (
            "m=audio 9 UDP/TLS/RTP/SAVPF 0\na=mid:0\na=ice-ufrag:efgh\na=ice-pwd:0123456789012345678901\n",
            True,
        ),
    ],
)
def test_other_credentials_are_a_restart(fragment: str, restarts: bool) -> None:
    assert restarts_ice(fragment, Description.parse(SESSION + AUDIO)) is restarts


HOSTS = """v=0
m=audio 5000 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=candidate:f00d 1 udp 2130706431 10.0.0.5 5000 typ host
a=candidate:beef 1 udp 2130706431 2001:db8::5 5001 typ host
a=candidate:d00d 1 udp 2130706431 127.0.0.1 5002 typ host
a=candidate:cafe 1 udp 1694498815 198.51.100.9 5000 typ srflx raddr 10.0.0.5 rport 5000
a=end-of-candidates
"""


def test_a_public_address_is_told_beside_the_private_one() -> None:
    section = Description.parse(with_public_address(HOSTS, "203.0.113.7")).sections[0]
    assert section.lines[:4] == (
        *Description.parse(HOSTS).sections[0].lines[:3],
        "a=candidate:f00p 1 udp 1694498815 203.0.113.7 5000 typ srflx raddr 10.0.0.5 rport 5000",
    )
    assert len(section.values("candidate")) == 5, "loopback and the other kind of address are left alone"
    assert "203.0.113.7" not in with_public_address(HOSTS, "2001:db8::7")
    assert "2001:db8::7 5001 typ srflx raddr 2001:db8::5" in with_public_address(HOSTS, "2001:db8::7")


@pytest.mark.parametrize("known", ["198.51.100.9", "10.0.0.5"])
def test_a_public_address_that_is_there_is_not_told_twice(known: str) -> None:
    assert with_public_address(HOSTS, known) == str(Description.parse(HOSTS))
