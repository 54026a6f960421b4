"""Where a server can be reached: a range of UDP ports, and its address outside a NAT."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import aioice
import pytest
from ports import free_range
from test_coturn import SECRET, coturn
from test_server import TONE, calling, serving

from rtcstt.errors import ConfigError
from rtcstt.server.assembly import turn_login
from rtcstt.server.settings import Settings
from rtcstt.webrtc.aiortc_private import shape_gathering
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import IceServer, PeerSettings, UdpPort
from rtcstt.webrtc.playback import opus_packets
from rtcstt.webrtc.sdp import Description

pytestmark = pytest.mark.real

HOSTS = ("127.0.0.1",)


def candidates(answer: str) -> dict[str, set[int]]:
    """The ports of an answer, by the candidates' type."""
    found: dict[str, set[int]] = {}
    for candidate in Description.parse(answer).sections[0].values("candidate"):
        fields = candidate.split()
        found.setdefault(fields[7], set()).add(int(fields[5]))
    return found


async def answered(settings: PeerSettings) -> str:
    """What a server with these settings answers; the call has been received."""
    async with serving(peers=settings) as (client, calls):
        caller, answers = Caller(opus_packets(TONE[:24000]), loopback=True), []

        class Answering:
            async def answer(self, text: str) -> str:
                async with client.post("/offer", json={"type": "offer", "sdp": text}) as response:
                    assert response.status == 200, await response.text()
                    answers.append((await response.json())["sdp"])
                    return str(answers[0])

        try:
            await caller.dial(Answering())
            await caller.played()
            await caller.hang_up()
        finally:
            await caller.close()
        (call,) = calls.all()
        assert call.ledgers()["0"]["received"] > 300
        return str(answers[0])


async def test_calls_keep_to_their_ports_and_give_them_back() -> None:
    ports = free_range(2)
    settings = PeerSettings(hosts=HOSTS, ports=ports)
    async with serving(peers=settings) as (client, calls):
        async with calling(client) as first, calling(client) as second:
            with pytest.raises(OSError, match="in use"):
                for port in ports:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                        one.bind(("127.0.0.1", port))
            third = Caller(opus_packets(TONE[:48000]), loopback=True)
            try:
                with pytest.raises(Exception, match="no address"):
                    await third.dial(str(client.make_url("/offer")))
            finally:
                await third.close()
            for caller in (first, second):
                await caller.hang_up()
        await asyncio.gather(*(entry.life for entry in calls.entries.values() if entry.life))
        async with calling(client) as again:
            await again.hang_up()


async def test_one_port_that_another_program_has_is_refused_for_either_family() -> None:
    """Half of the callers would not be reached."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            try:
                other.bind((address, 0))
            except OSError:
                continue  # no IPv6 here
            port = UdpPort(other.getsockname()[1])
            try:
                with pytest.raises(ConfigError, match="in use"):
                    await port.open(("127.0.0.1", "::1"))
            finally:
                port.close()


async def test_ports_and_ice_servers_go_together(tmp_path: Path) -> None:
    ports = free_range(4)
    with coturn(tmp_path, "--use-auth-secret", f"--static-auth-secret={SECRET}") as port:
        turn = turn_login(IceServer(f"turn:127.0.0.1:{port}"), SECRET, time.time() + 60)
        servers = (IceServer(f"stun:127.0.0.1:{port}"), turn)
        found = candidates(await answered(PeerSettings(hosts=HOSTS, ports=ports, ice_servers=servers)))
    assert set(found) == {"host", "srflx", "relay"}
    assert found["host"] | found["srflx"] <= set(ports)


async def test_a_dead_stun_server_delays_no_answer_by_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 60.0)  # of aioice itself, which then asks again
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        stun = IceServer(f"stun:127.0.0.1:{deaf.getsockname()[1]}")
        settings = PeerSettings(hosts=HOSTS, ports=free_range(2), ice_servers=(stun,), gather_timeout_s=0.2)
        async with asyncio.timeout(50):
            assert set(candidates(await answered(settings))) == {"host"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"udp_ports": "50000"}, "FIRST-LAST"),
        ({"udp_ports": "50100-50000"}, "FIRST-LAST"),
        ({"udp_ports": "80-1000"}, "1024"),
        ({"udp_ports": "50000-50009"}, "too few for max_calls"),
        ({"public_ip": "my.host"}, "public_ip"),
        ({"public_ip": "0.0.0.0"}, "public_ip"),
        ({"public_ip": "fe80::1%eth0"}, "public_ip"),
    ],
)
def test_wrong_ports_and_addresses_are_refused_by_name(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**options)  # type: ignore[arg-type]
    assert Settings(udp_ports="50000-50099").ports == range(50000, 50100)


# -- one port for all calls -----------------------------------------------------------------------------


async def test_many_calls_share_one_udp_port_and_leave_nothing_behind() -> None:
    port = UdpPort(free_range(1)[0])
    await port.open(HOSTS)
    settings = PeerSettings(hosts=HOSTS, udp_port=port)
    try:
        async with serving(peers=settings) as (client, calls):
            callers = [Caller(opus_packets(TONE[:48000]), loopback=True) for _ in range(8)]
            try:
                await asyncio.gather(*(one.dial(str(client.make_url("/offer"))) for one in callers))
                assert port.connections == 8
                await asyncio.gather(*(one.played() for one in callers))
                await asyncio.gather(*(one.hang_up() for one in callers))
            finally:
                await asyncio.gather(*(one.close() for one in callers))
            await asyncio.gather(*(entry.life for entry in calls.entries.values() if entry.life))
            for call in calls.all():
                assert call.ledgers()["0"]["received"] > 800
        assert port.connections == 0
        for shared in (place for one in port._sockets.values() for place in one.places.values()):
            assert shared.demultiplexer.addresses == 0
    finally:
        port.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_port_answers_from_the_address_that_was_asked(host: str) -> None:
    """IPv4 and IPv6 side by side: ICE takes an answer from no other address."""
    port = UdpPort(0)
    await port.open(("127.0.0.1", "::1"))
    callee, caller = aioice.Connection(ice_controlling=False), aioice.Connection(ice_controlling=True)
    try:
        shape(callee, "127.0.0.1", "::1", ports=port)
        shape(caller, host)
        await asyncio.gather(callee.gather_candidates(), caller.gather_candidates())
        assert {one.host for one in callee.local_candidates} == {"127.0.0.1", "::1"}
        for one, other in ((callee, caller), (caller, callee)):
            one.remote_username, one.remote_password = other.local_username, other.local_password
            for candidate in other.local_candidates:
                await one.add_remote_candidate(candidate)
            await one.add_remote_candidate(None)
        async with asyncio.timeout(50):
            await asyncio.gather(callee.connect(), caller.connect())
            await caller.send(b"\x80 there")
            assert await callee.recv() == b"\x80 there"
            await callee.send(b"\x80 back")
            assert await caller.recv() == b"\x80 back"
    finally:
        await asyncio.gather(callee.close(), caller.close())
        port.close()


def shape(connection: aioice.Connection, *hosts: str, ports: UdpPort | None = None) -> None:
    transport = SimpleNamespace(transport=SimpleNamespace(_connection=connection))
    shape_gathering(transport, timeout_s=1.0, hosts=hosts, loopback=False, ports=ports)  # type: ignore[arg-type]


async def test_one_port_and_ice_servers_go_together(tmp_path: Path) -> None:
    port = UdpPort(0)
    await port.open(HOSTS)
    try:
        with coturn(tmp_path, "--use-auth-secret", f"--static-auth-secret={SECRET}") as turn_port:
            turn = turn_login(IceServer(f"turn:127.0.0.1:{turn_port}"), SECRET, time.time() + 60)
            servers = (IceServer(f"stun:127.0.0.1:{turn_port}"), turn)
            settings = PeerSettings(hosts=HOSTS, udp_port=port, ice_servers=servers, public_ip="203.0.113.7")
            found = candidates(await answered(settings))
        assert set(found) == {"host", "srflx", "relay"}
        assert found["host"] | found["srflx"] == {port.port}
    finally:
        port.close()


async def test_a_port_that_is_taken_is_told_at_the_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="UDP port"):
            await UdpPort(one.getsockname()[1]).open(HOSTS)


def test_each_worker_has_a_port_of_its_own() -> None:
    settings = Settings(udp_port=50000)
    assert [settings.of_worker(index, 3).udp_port for index in range(3)] == [50000, 50001, 50002]
    with pytest.raises(ConfigError, match="exclude"):
        Settings(udp_port=50000, udp_ports="50000-50999")
