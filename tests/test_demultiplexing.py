"""Many connections on one UDP port: whose datagram is whose."""

from __future__ import annotations

import os
import random

from aioice import stun
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.webrtc.demultiplexing import (
    IN_USE_S,
    MAX_ADDRESSES,
    MAX_TRANSACTIONS,
    Demultiplexer,
    username_of,
)

A, B = ("192.0.2.1", 5000), ("192.0.2.2", 6000)
MEDIA = b"\x80" + bytes(30)


class Peer:
    """One connection."""


def request(username: str, *, transaction: bytes | None = None) -> bytes:
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.transaction_id = transaction or os.urandom(12)
    message.attributes["USERNAME"] = username
    message.attributes["PRIORITY"] = 1
    message.add_message_integrity(b"password")
    return bytes(message)


def response(to: bytes) -> bytes:
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.RESPONSE)
    message.transaction_id = to[8:20]
    return bytes(message)


def two() -> tuple[Demultiplexer[Peer], Peer, Peer]:
    both, first, second = Demultiplexer[Peer](), Peer(), Peer()
    both.add("aaaa", first)
    both.add("bbbb", second)
    return both, first, second


def test_requests_go_by_username_and_media_by_the_address_that_was_checked() -> None:
    both, first, second = two()
    assert both.target(request("aaaa:x"), A, 0) is first
    assert both.target(request("bbbb:x"), B, 0) is second
    assert both.target(request("cccc:x"), A, 0) is None
    assert both.target(MEDIA, A, 0) is None, "nothing is bound by a request alone"
    both.checked(A, first, 0)
    both.checked(B, second, 0)
    assert both.target(MEDIA, A, 1) is first
    assert both.target(MEDIA, B, 1) is second
    assert both.unknown == 2


def test_answers_go_to_who_asked_once_and_only_from_where_was_asked() -> None:
    both, first, _ = two()
    asked = request("theirs:aaaa")
    both.sent(asked, A, first)
    assert both.target(response(asked), B, 0) is None
    assert both.target(response(asked), A, 0) is first
    assert both.target(response(asked), A, 0) is None
    assert both.target(MEDIA, A, 0) is first, "who answers is the caller, as ICE-lite callers are known"


def test_a_caller_whose_address_changes_is_found_by_the_next_check() -> None:
    both, first, _ = two()
    both.checked(A, first, 0)
    both.checked(B, first, 5)
    assert both.target(MEDIA, A, 6) is both.target(MEDIA, B, 6) is first


def test_nobody_draws_anothers_packets_to_their_own() -> None:
    """A caller may forge the source address of a check for their own connection."""
    both, first, second = two()
    both.checked(A, first, 100)
    both.checked(A, second, 101)
    assert both.target(MEDIA, A, 102) is first
    both.checked(A, second, 100 + IN_USE_S)
    assert both.target(MEDIA, A, 200) is second, "once it is in use no more"


def test_what_ends_leaves_nothing() -> None:
    both, first, second = two()
    for connection, address in ((first, A), (second, B)):
        both.checked(address, connection, 0)
        both.sent(request("x:y"), address, connection)
        both.remove(connection)
        both.remove(connection)
        assert both.target(MEDIA, address, 1) is None
    assert (len(both), both.addresses, len(both._by_transaction), len(both._by_ufrag)) == (0, 0, 0, 0)
    both.checked(A, first, 1)
    both.sent(request("x:y"), A, first)
    assert both.addresses == 0


def test_transports_of_one_caller_that_share_our_credentials() -> None:
    both, first, second = Demultiplexer[Peer](), Peer(), Peer()
    both.add("aaaa", first)
    both.add("aaaa", second)
    assert both.target(request("aaaa:one"), A, 0) is first
    assert both.target(request("aaaa:two"), A, 0) is second
    assert both.target(request("aaaa:one"), B, 0) is first


def test_all_that_is_remembered_is_bounded() -> None:
    both, first, _ = two()
    for port in range(1000):
        both.checked(("192.0.2.1", port), first, port)
    assert both.addresses == MAX_ADDRESSES
    for _ in range(MAX_TRANSACTIONS + 100):
        both.sent(request("x:y"), A, first)
    assert len(both._by_transaction) == MAX_TRANSACTIONS


def test_a_hundred_thousand_hostile_datagrams_change_nothing() -> None:
    both, first, second = two()
    both.checked(A, first, 0)
    both.checked(B, second, 0)
    dice = random.Random(1)
    asked = request("theirs:aaaa")
    both.sent(asked, A, first)
    good = [request("aaaa:x"), response(asked), MEDIA, asked]
    before = (both.addresses, len(both))
    for number in range(100_000):
        data = bytearray(dice.choice(good))
        data[dice.randrange(len(data))] = dice.randrange(256)
        target = both.target(
            bytes(data[: dice.randrange(len(data) + 1)]), ("203.0.113.9", number % 60_000), 1
        )
        assert target in (None, first), "only by a username of theirs, and then the password is checked"
    assert (both.addresses, len(both)) == before
    assert both.target(MEDIA, A, 2) is first
    assert both.target(MEDIA, B, 2) is second


@given(st.binary(max_size=80))
def test_any_bytes_have_a_username_or_none(data: bytes) -> None:
    username_of(b"\0\x01" + data)
    assert username_of(request("ours:theirs")) == "ours:theirs"
