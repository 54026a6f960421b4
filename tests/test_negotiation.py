"""Offers and their answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from descriptions import AUDIO, DATA, FINGERPRINT, SESSION, TRANSPORT, VIDEO
from hypothesis import example, given
from hypothesis import strategies as st

from rtcstt.errors import CallerError
from rtcstt.webrtc.candidates import AT_ONCE, MAX_CANDIDATES
from rtcstt.webrtc.negotiation import MAX_TRANSPORTS, Offer, opus_preference
from rtcstt.webrtc.sdp import Description

CASES = Path(__file__).parent / "fixtures" / "media"


def offer(*sections: str, group: str = "a=group:BUNDLE 0 1 2\n") -> Offer:
    return Offer.parse(SESSION + group + "".join(sections), max_tracks=4)


def answered(made: Offer, opus: str = "") -> Description:
    """The answer, with what aiortc was given in the place of what it would answer."""
    return Description.parse(made.answer(str(made.taken), opus=opus))


def case(name: str) -> str:
    """An offer of the cases, with credentials and a fingerprint in it."""
    text = (CASES / f"{name}.sdp").read_bytes().decode()
    text = text.replace("ice-ufrag:x", "ice-ufrag:abcd").replace("ice-pwd:x", "ice-pwd:" + "a" * 22)
    return text.replace("sha-256 X", f"sha-256 {FINGERPRINT}").replace("sha-1 X", "sha-1 " + FINGERPRINT[:59])


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


def test_the_callers_order_of_codecs_is_kept() -> None:
    assert answered(offer(AUDIO)).sections[0].formats == ["111", "9", "0", "110", "126"]


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
        (SESSION + AUDIO.replace(f"a=fingerprint:sha-256 {FINGERPRINT}\n", ""), "bad_sdp"),
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


# -- RFC 3264 section by section -------------------------------------------------------------------


def test_one_section_that_cannot_be_taken_is_refused_alone() -> None:
    made = Offer.parse(case("one_bad_section_takes_no_other"), max_tracks=8)
    assert made.refused == {"1": "payload type 98 is PCMU/16000, but PCMU is registered as PCMU/8000"}
    sections = answered(made).sections
    assert [(section.port != "0", section.direction) for section in sections] == [
        (True, "recvonly"),
        (False, "inactive"),
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_rtcp_mux", "section 0: it lacks a=rtcp-mux"),
        ("g722_16000_offer", "section 0: payload type 9 is G722/16000, but G722 is registered as G722/8000"),
        ("fingerprint_sha1", "section 0: none of its a=fingerprint lines is of sha-256, sha-384, sha-512"),
    ],
)
def test_an_offer_of_which_nothing_can_be_taken_is_refused_in_words(name: str, why: str) -> None:
    with pytest.raises(CallerError) as refusal:
        Offer.parse(case(name), max_tracks=8)
    assert refusal.value.status == 400
    assert why in refusal.value.message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("a=rtcp-mux\n", ""), "rtcp-mux"),
        (("a=setup:actpass\n", ""), "a=setup"),
        (("a=setup:actpass", "a=setup:holdconn"), "a=setup"),
        (("a=ice-pwd:0123456789012345678901\n", ""), "a=ice-pwd"),
        (("a=ice-ufrag:abcd", "a=ice-ufrag:" + "x" * 300), "a=ice-ufrag"),
        (("a=ice-ufrag:abcd", "a=ice-ufrag:EVIL:payload"), "a=ice-ufrag"),
        (("UDP/TLS/RTP/SAVPF", "RTP/XXX"), "protocol"),
        (("sha-256", "md5"), "a=fingerprint"),
        ((":AA:AA", ":AA:G"), "a=fingerprint"),
        ((":AA:AA", ":AA"), "a=fingerprint"),
        (("sha-256", "sha-512"), "a=fingerprint"),
        (("111 63 9 0 110 126 13\n", "72\na=rtpmap:72 opus/48000/2\n"), "payload type 72 could be RTCP"),
    ],
)
def test_each_reason_names_its_field_and_the_other_sections_are_taken(
    change: tuple[str, str], why: str
) -> None:
    bad = AUDIO.replace("a=mid:0", "a=mid:7").replace(*change)
    made = offer(AUDIO, bad, group="")
    assert list(made.refused) == ["7"]
    assert why in made.refused["7"]
    assert [section.port == "0" for section in answered(made).sections] == [False, True]
    with pytest.raises(CallerError, match=why):
        offer(bad, group="")


@pytest.mark.parametrize(
    ("text", "why"),
    [("\ufeff" + SESSION + AUDIO, "begin with v=0"), (SESSION + AUDIO + "hello\n", "a line 'hello'")],
)
def test_what_is_no_description_is_told_by_its_line(text: str, why: str) -> None:
    with pytest.raises(CallerError, match=why):
        Description.parse(text)


def test_the_caller_is_the_dtls_client_where_they_leave_the_choice() -> None:
    for offered, told in (("actpass", "active"), ("active", "active"), ("passive", "passive")):
        taken = offer(AUDIO.replace("setup:actpass", f"setup:{offered}"), group="").taken
        assert taken.sections[0].value("setup") == told


@pytest.mark.parametrize("protocol", ["RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/AVP", "TCP/DTLS/RTP/SAVPF"])
def test_the_answer_repeats_the_protocol(protocol: str) -> None:
    made = offer(AUDIO.replace("UDP/TLS/RTP/SAVPF", protocol), DATA, group="")
    assert [section.protocol for section in answered(made).sections] == [protocol, "UDP/DTLS/SCTP"]


def test_payload_types_are_those_of_the_offer() -> None:
    text = "m=audio 9 UDP/TLS/RTP/SAVPF 98 35 101 96\na=rtpmap:98 PCMU/8000\na=rtpmap:35 opus/48000/2\n"
    text += "a=rtpmap:101 telephone-event/8000\na=rtpmap:96 telephone-event/16000\na=mid:0\na=sendonly\n"
    section = answered(offer(text + TRANSPORT, group=""), opus="minptime=10").sections[0]
    assert section.formats == ["98", "35", "101"], "digits only on the clock of some speech"
    assert section.values("rtpmap") == ["98 PCMU/8000", "35 opus/48000/2", "101 telephone-event/8000"]
    assert section.values("fmtp") == ["35 minptime=10", "101 0-15"]
    assert section.direction == "recvonly"


def test_a_direction_of_the_session_holds_for_its_sections() -> None:
    with pytest.raises(CallerError) as refusal:
        Offer.parse(SESSION + "a=recvonly\n" + AUDIO.replace("a=sendrecv\n", ""), max_tracks=4)
    assert refusal.value.code == "no_audio"


def test_mids_that_are_not_there_are_left_out_of_the_answers_bundle() -> None:
    text = str(answered(Offer.parse(case("bundle_names_absent_mids"), max_tracks=8)))
    assert "a=group:BUNDLE 0\r\n" in text


def test_a_session_name_may_hold_any_character() -> None:
    made = Offer.parse(case("u2028_in_session_name"), max_tracks=8)
    assert "\u2028" in str(made.whole)
    assert "\u2028" not in str(made.taken), "aiortc would take it for the end of a line"


def test_a_section_that_was_taken_is_kept_while_on_hold() -> None:
    held = SESSION + AUDIO.replace("sendrecv", "inactive")
    with pytest.raises(CallerError):
        Offer.parse(held, max_tracks=4)
    made = Offer.parse(held, max_tracks=4, held=["0"])
    assert answered(made).sections[0].direction == "inactive"
    assert answered(made).sections[0].port != "0"


def test_offers_of_one_connection_are_known_by_credentials_and_certificate() -> None:
    first = offer(AUDIO, group="")
    assert first.same_session(offer(AUDIO.replace("sendrecv", "sendonly"), group=""))
    assert not first.same_session(offer(AUDIO.replace("ufrag:abcd", "ufrag:efgh"), group=""))


def candidates(*numbers: int) -> str:
    return "".join(f"a=candidate:{n} 1 udp {n + 1} 192.0.2.{n} 9 typ host\n" for n in numbers)


def test_candidates_of_a_bundle_are_its_first_sections() -> None:
    """Browsers name them in the first section alone, which may be one that is refused."""
    video, audio = VIDEO + candidates(1, 2), AUDIO.partition("a=candidate")[0] + TRANSPORT
    made = offer(video, audio + candidates(2, 3), DATA + candidates(4), group="a=group:BUNDLE 1 0 2\n")
    first, data = made.taken.sections
    assert [value.split()[0] for value in first.values("candidate")] == ["2", "3", "1", "4"]
    assert data.values("candidate") == [] and made.trickled == ()
    other = video.replace("ufrag:abcd", "ufrag:efgh")
    made = offer(other, audio, DATA, group="a=group:BUNDLE 1 0 2\n")
    assert made.taken.sections[0].values("candidate") == [], "they are another connection's"


def test_candidates_beyond_the_first_few_follow_the_answer() -> None:
    made = offer(AUDIO.partition("a=candidate")[0] + TRANSPORT + candidates(*range(100)), group="")
    given = made.taken.sections[0].values("candidate")
    assert len(given) == AT_ONCE and len(given) + len(made.trickled) == MAX_CANDIDATES
    assert {mid for mid, _ in made.trickled} == {"0"}


def test_there_are_so_many_transports() -> None:
    sections = [AUDIO.replace("a=mid:0", f"a=mid:{mid}") for mid in range(8)]
    apart = Offer.parse(SESSION + "".join(sections), max_tracks=8)
    assert len(apart.tracks) == MAX_TRANSPORTS
    assert "not bundled" in apart.refused["4"] and list(apart.refused) == ["4", "5", "6", "7"]
    text = SESSION + "a=group:BUNDLE 0 2 3 4 5 6 7\n" + "".join(sections)
    assert len(Offer.parse(text, max_tracks=8).tracks) == 8, "two transports"


def test_whose_transport_a_candidate_is_for() -> None:
    taken = offer(AUDIO, AUDIO.replace("a=mid:0", "a=mid:7"), DATA).taken
    assert [taken.transport_of(mid) for mid in ("0", "2", "7", "absent", "")] == ["0", "0", "7", "0", "0"]


# -- what an offer may cost ------------------------------------------------------------------------


def filled(head: str, line: str, tail: str = "") -> str:
    """An offer of the largest size that is taken, of one line again and again."""
    return head + line * ((63 * 1024 - len(head) - len(tail)) // len(line)) + tail


LARGEST = {
    "sections": filled(SESSION + AUDIO, "m=a 0 x 0\n"),
    "sections and bundle": SESSION
    + TRANSPORT
    + "a=group:BUNDLE "
    + " ".join(map(str, range(5000)))
    + "\n"
    + "m=audio 9 RTP/SAVPF 0\n" * 32,  # fmt: skip
    "attributes": filled(SESSION + AUDIO, "a=x\n"),
    "rtpmaps": filled(SESSION + AUDIO, "a=rtpmap:1 x/1\n"),
    "formats": filled(SESSION + "m=audio 9 RTP/SAVPF ", "111 ", "0\na=rtpmap:111 opus/48000/2\n" + TRANSPORT),
    "candidates": filled(SESSION + AUDIO, "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\n"),
    "fingerprints": filled(SESSION + AUDIO, f"a=fingerprint:sha-256 {FINGERPRINT}\n"),
    "sources": filled(SESSION + AUDIO, "a=ssrc:1 x\n"),
    "mids": filled(SESSION + AUDIO, "a=mid:0\n"),
    "spaces": filled(SESSION + AUDIO, "a=group:" + " " * 500 + "\n"),
    "one line": SESSION + AUDIO + "a=candidate:" + "1 " * 30_000 + "\n",
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_offers_cost_little(name: str) -> None:
    """In linear time it is a few milliseconds each; the bound leaves room for a machine that is busy."""
    began = time.process_time()
    try:
        made = Offer.parse(LARGEST[name], max_tracks=8)
        made.answer(str(made.taken), opus="")
    except CallerError as refusal:
        assert refusal.status == 400
    assert time.process_time() - began < 0.25
