"""Whose address counts, with and without proxies before the server."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_server import refusal, serving

from rtcstt.errors import ConfigError
from rtcstt.server.addresses import Networks, caller, parse
from rtcstt.server.assembly import application
from rtcstt.server.settings import Settings

PROXIES = Networks(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ('"[2001:db8::1]:4711"', "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "None"),
        ("_hidden:80", "None"),
        ("", "None"),
        ("[]", "None"),
        ("[]:80", "None"),
    ],
)
def test_addresses_are_read_as_headers_have_them(text: str, address: str) -> None:
    assert str(parse(text)) == address


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "forwarded", "found"),
    [
        pytest.param("192.0.2.9", ["198.51.100.1"], [], "192.0.2.9", id="a stranger is not believed"),
        pytest.param("127.0.0.1", [], [], "127.0.0.1", id="the proxy itself"),
        pytest.param("127.0.0.1", ["192.0.2.1"], [], "192.0.2.1", id="one proxy"),
        pytest.param("::ffff:127.0.0.1", ["192.0.2.1"], [], "192.0.2.1", id="one proxy, dual stack"),
        pytest.param("127.0.0.1", ["192.0.2.1, 10.1.1.1"], [], "192.0.2.1", id="two proxies"),
        pytest.param("127.0.0.1", ["192.0.2.1", "10.1.1.1"], [], "192.0.2.1", id="two lines"),
        pytest.param("127.0.0.1", ["203.0.113.5, 192.0.2.1"], [], "192.0.2.1", id="a forged beginning"),
        pytest.param("127.0.0.1", ["10.1.1.2, 10.1.1.1"], [], "10.1.1.2", id="a caller from inside"),
        pytest.param("127.0.0.1", ["192.0.2.1, unknown, 10.1.1.1"], [], "10.1.1.1", id="hidden"),
        pytest.param("127.0.0.1", [""], [], "127.0.0.1", id="empty"),
        pytest.param("127.0.0.1", [], ['for="[2001:DB9::1]:47";proto=https'], "2001:db9::1", id="RFC 7239"),
        pytest.param("127.0.0.1", [], ["for=192.0.2.1, For=10.1.1.1;by=x"], "192.0.2.1", id="RFC 7239, two"),
        pytest.param("127.0.0.1", [], ["by=10.1.1.1"], "127.0.0.1", id="RFC 7239, says nothing"),
        pytest.param("127.0.0.1", ["192.0.2.1"], ["for=192.0.2.1"], "192.0.2.1", id="both agree"),
        pytest.param("127.0.0.1", ["192.0.2.1"], ["for=1.2.3.4"], "127.0.0.1", id="one is forged"),
        pytest.param("/run/socket", ["192.0.2.1"], [], "/run/socket", id="no address"),
    ],
)
def test_only_trusted_proxies_say_who_asked(
    peer: str, forwarded_for: list[str], forwarded: list[str], found: str
) -> None:
    assert caller(peer, forwarded_for, forwarded, PROXIES) == found


@given(st.lists(st.text()), st.lists(st.text()))
def test_whatever_a_header_says_there_is_an_address(forwarded_for: list[str], forwarded: list[str]) -> None:
    assert parse(caller("127.0.0.1", forwarded_for, forwarded, PROXIES)) is not None


async def test_each_caller_behind_a_trusted_proxy_has_their_own_limit() -> None:
    async with serving(per_minute=2, trusted=PROXIES) as (client, _):
        for number in range(4):
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            await refusal(await client.post("/offer", data=b"{}", headers=headers), 400)
        same = {"X-Forwarded-For": "203.0.113.1, 192.0.2.1"}
        await refusal(await client.post("/offer", data=b"{}", headers=same), 400)
        await refusal(await client.post("/offer", data=b"{}", headers=same), 429)
    async with serving(per_minute=2) as (client, _):
        for number, status in enumerate((400, 400, 429)):
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            await refusal(await client.post("/offer", data=b"{}", headers=headers), status)


async def test_the_log_names_who_placed_a_call(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(trusted=PROXIES) as (client, calls):
        with caplog.at_level(logging.INFO, "rtcstt.server"):
            headers = {"X-Forwarded-For": "192.0.2.1"}
            async with client.ws_connect("/pcm", headers=headers) as socket:
                await socket.receive(timeout=60)
            (call,) = calls.all()
    assert f"call {call.id}: from 192.0.2.1" in caplog.messages


async def test_a_proxy_that_is_no_address_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="trusted_proxy.*proxy.example"):
        async with application(Settings(stt=("ws://127.0.0.1:1",), trusted_proxy=("proxy.example",)), {}):
            pass
