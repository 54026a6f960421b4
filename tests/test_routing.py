"""Whose packets are whose: RFC 8843 section 9.2."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rtcstt.webrtc.routing import MAX_SOURCES, Router
from rtcstt.webrtc.sdp import Description

CASE = Path(__file__).parent / "fixtures" / "media" / "two_sections_by_ssrc.sdp"


def found(router: Router[str], ssrc: int, payload_type: int = 111, mid: str | None = None) -> str | None:
    """As a transport asks: by what is known, else by what the packet carries, which is then known."""
    target = router.known(ssrc) or router.find(ssrc, payload_type, mid)
    if target is not None and router.known(ssrc) is None:
        router.learn(ssrc, target)
    return target


def of_the_case() -> Router[str]:
    router = Router[str](exclusive=True)
    for section in Description.parse(CASE.read_bytes().decode()).sections:
        router.add(f"track {section.mid}", section.mid, section.codecs(), section.ssrcs)
    return router


def test_packets_without_a_mid_go_where_the_offer_named_their_source() -> None:
    router = of_the_case()
    assert found(router, 2222) == "track 1", "whichever speaks first"
    assert found(router, 1111) == "track 0"
    assert found(router, 2222, 0) == "track 1"


def test_the_mid_that_a_packet_carries_counts_more() -> None:
    router = of_the_case()
    assert found(router, 1111, mid="1") == "track 1"
    assert found(router, 7, mid="0") == "track 0"
    assert found(router, 8, mid="elsewhere") is None
    assert found(router, 7) == "track 0", "known from then on"


def test_a_payload_type_of_one_section_alone_tells() -> None:
    router = Router[str]()
    router.add("opus", "0", {111})
    router.add("pcmu", "1", {0})
    assert (found(router, 1, 0), found(router, 2, 111)) == ("pcmu", "opus")
    assert found(router, 3, 8) is None
    assert not router.concerns(8)
    assert router.concerns(0)


def test_who_cannot_be_told_goes_where_nobody_speaks_and_is_named() -> None:
    router = Router[str]()
    router.add("named", "0", {111}, [5])
    router.add("free", "1", {111})
    assert found(router, 9) == "free"
    assert found(router, 5) == "named"
    assert found(router, 10) is None, "all have a source"


def test_a_lone_section_gets_everything_of_its_transport() -> None:
    for exclusive, target in ((True, "only"), (False, None)):
        router = Router[str](exclusive=exclusive)
        router.add("only", "0", {111})
        assert found(router, 1, 96) == target


def test_a_section_that_is_gone_gets_nothing() -> None:
    router = of_the_case()
    assert found(router, 2222) == "track 1"
    router.remove("1")
    assert router.known(2222) is None
    assert found(router, 2222, mid="1") is None


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from([0, 111, 9]), st.sampled_from([None, "0", "1", "x"]))
    )
)
def test_sources_are_bounded(packets: list[tuple[int, int, str | None]]) -> None:
    router = of_the_case()
    for ssrc, payload_type, mid in packets:
        found(router, ssrc, payload_type, mid)
    assert len(router._by_ssrc) <= 2 * MAX_SOURCES


def test_what_is_new_about_a_section_replaces_what_was_known_of_it() -> None:
    router = Router[str]()
    router.add("first", "0", {111}, [5])
    router.add("other", "1", {0})
    assert found(router, 5) == "first"
    router.add("second", "0", {8}, [6])
    assert (found(router, 6, 0), found(router, 7, 8)) == ("second", "second")
    assert not router.concerns(111)


def test_a_section_with_too_many_sources_forgets_its_oldest() -> None:
    router = Router[str](exclusive=True)
    router.add("track", "0", {111})
    forgotten = []
    for ssrc in range(MAX_SOURCES + 2):
        assert router.find(ssrc, 111, None) == "track"
        forgotten.append(router.learn(ssrc, "track"))
    assert forgotten == [None] * MAX_SOURCES + [0, 1]
    assert router.known(0) is None and router.known(MAX_SOURCES + 1) == "track"
