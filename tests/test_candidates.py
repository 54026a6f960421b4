"""ICE candidates, and where a caller may have us send."""

from __future__ import annotations

import pytest

from rtcstt.errors import CallerError, ConfigError
from rtcstt.webrtc.candidates import (
    MAX_CANDIDATES,
    MAX_CHECKS,
    RESERVED_CHECKS,
    CheckLimit,
    DeniedPeers,
    address_of,
    has_credentials,
    in_fragment,
    is_mdns,
    restarts_ice,
    usable,
    with_public_address,
)
from rtcstt.webrtc.sdp import Description
from tests.descriptions import AUDIO, SESSION


def test_trickled_fragment() -> None:
    fragment = """a=ice-ufrag:abcd
m=audio 9 UDP/TLS/RTP/SAVPF 0
a=mid:0
a=candidate:1 1 UDP 2122 192.0.2.1 61764 typ host
a=candidate:1 1 UDP 2122 example.com 61764 typ host
a=end-of-candidates
"""
    assert in_fragment(fragment) == [("0", "1 1 UDP 2122 192.0.2.1 61764 typ host")]
    with pytest.raises(CallerError) as refusal:
        in_fragment("hello")
    assert refusal.value.status == 400
    assert in_fragment("") == []


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


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "224.0.0.251", "ff02::fb"]
    + ["255.255.255.255", "0.0.0.0", "::", "100.100.100.200", "fd00:ec2::254", "168.63.129.16"]
    + ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "localhost", "x.local", ""],
)
def test_addresses_to_which_nothing_is_sent(address: str) -> None:
    assert address in DeniedPeers()


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.7", "2001:db8::1", "::ffff:10.0.0.1", "100.64.0.1"])
def test_addresses_of_callers(address: str) -> None:
    assert address not in DeniedPeers()


def test_a_kind_that_is_served_is_not_denied() -> None:
    served = DeniedPeers(served=["127.0.0.1"])
    assert "127.0.0.2" not in served
    assert "::1" not in served
    assert "169.254.169.254" in served


def test_networks_of_ones_own_replace_the_default() -> None:
    denied = DeniedPeers(["10.0.0.0/8", "metadata"])
    assert "10.1.2.3" in denied
    assert "169.254.169.254" in denied
    assert "127.0.0.1" not in denied
    with pytest.raises(ConfigError, match="deny_peer"):
        DeniedPeers(["nonsense"])


def test_checks_run_out_and_some_are_kept_for_who_comes_late() -> None:
    limit = CheckLimit(DeniedPeers())
    sent = [limit.take(("192.0.2.1", port), answered=False) for port in range(200)]
    assert sum(sent) == MAX_CHECKS - RESERVED_CHECKS
    assert limit.exceeded == 200 - sum(sent)
    late = ("192.0.2.9", 5000)
    assert not limit.take(late, answered=False)
    limit.note_check(late)
    assert sum(limit.take(late, answered=False) for _ in range(100)) == RESERVED_CHECKS
    assert limit.take(late, answered=True), "who has answered is the caller"


@pytest.mark.parametrize(
    ("ufrag", "pwd", "good"),
    [
        ("abcd", "a" * 22, True),
        ("a+/9" * 64, "a" * 256, True),
        ("abc", "a" * 22, False),
        ("a" * 257, "a" * 22, False),
        ("abcd", "a" * 21, False),
        ("abcd", "a" * 257, False),
        ("ab d", "a" * 22, False),
        ("EVIL:payload|", "a" * 22, False),
        ("abcd\n", "a" * 22, False),
    ],
)
def test_credentials_are_of_ice_characters(ufrag: str, pwd: str, good: bool) -> None:
    assert has_credentials(ufrag, pwd) is good


def test_candidates_are_bounded() -> None:
    one = "1 1 udp 1 192.0.2.1 9 typ host"
    assert len(usable([one] * 1000)) == MAX_CANDIDATES
    assert len(in_fragment(f"a=candidate:{one}\n" * 1000)) == MAX_CANDIDATES
    for number in ("9" * 5000, "65536", "0", "x"):
        assert usable([f"1 1 udp 1 192.0.2.1 {number} typ host"]) == []
    assert usable([f"1 1 udp {'9' * 5000} 192.0.2.1 9 typ host"]) == []


def test_what_is_no_candidate_for_udp_is_left_out() -> None:
    host = "1 1 udp 2122 192.0.2.1 61764 typ host"
    name = "2 1 UDP 2122 0f3c.local 61764 typ host"
    others = ["", "1 1 udp", host.replace("udp", "tcp"), host.replace(" 1 ", " 2 "), host.replace("typ", "x")]
    others += [host.replace("61764", "0"), host.replace("2122", "-1"), host.replace("192.0.2.1", "a.example")]
    others += [f"{'1' * 33}{host[1:]}", name.replace("0f3c", "x" * 255)]
    assert usable([*others, host, name]) == [host, name]
    assert [is_mdns(one) for one in (host, name)] == [False, True]
    assert [address_of(one) for one in (host, name)] == ["192.0.2.1", "0f3c.local"]


def test_checks_are_counted_and_who_asked_first_has_some_of_their_own() -> None:
    limit = CheckLimit(DeniedPeers([]))
    asked, others = ("192.0.2.1", 1), ("192.0.2.2", 1)
    limit.note_check(asked)
    assert limit.asked_by == 1 and limit.sent == 0
    assert all(limit.take(others, answered=False) for _ in range(MAX_CHECKS - RESERVED_CHECKS))
    assert not limit.take(others, answered=False) and limit.exceeded == 1
    assert limit.take(others, answered=True), "one that has answered may be asked on"
    assert all(limit.take(asked, answered=False) for _ in range(RESERVED_CHECKS))
    assert not limit.take(asked, answered=False) and limit.sent == MAX_CHECKS
    taken = [limit.note_check(("192.0.2.3", port)) for port in range(2 * MAX_CHECKS)]
    assert limit.asked_by == MAX_CHECKS and sum(taken) == MAX_CHECKS - 1
    assert limit.ignored == MAX_CHECKS + 1
    assert limit.note_check(asked), "who is known goes on"
