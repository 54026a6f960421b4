"""`rtcstt rtp`: a real process, real datagrams; every word, and no stranger's."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encode, sample_rate, voice
from processes import RTCSTT

from rtcstt.commands.rtp import USUAL, Options, _from_options, _from_sdp
from rtcstt.errors import ConfigError
from rtcstt.media.rtp import Codec, Packet
from rtcstt.server.options import host_and_port
from rtcstt.testing import Network, ScriptedCaller, ScriptedUpstream, silence, speech

pytestmark = pytest.mark.real

WORDS = "it was the best of times"
AUDIO = np.concatenate([speech(WORDS), silence(0.8)])
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP "


@asynccontextmanager
async def receiving(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The command with a scripted STT, and its port."""
    async with ScriptedUpstream() as upstream, upstream.listening() as url:
        words = ("rtp", "--listen", "127.0.0.1:0", "--stt", url, *options)
        process = await asyncio.create_subprocess_exec(RTCSTT, *words, stdout=PIPE, stderr=PIPE)
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                line = (await process.stderr.readline()).decode()
            found = re.search(r"port (\d+)", line)
            assert found, line
            yield process, int(found[1])
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def send(packets: list[tuple[float, bytes]], port: int, source: str = "127.0.0.1") -> None:
    """Each datagram at its time."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind((source, 0))
        for at, data in packets:
            await asyncio.sleep(begin + at - loop.time())
            out.sendto(data, ("127.0.0.1", port))


def linear(**network: Any) -> list[tuple[float, bytes]]:
    packets = ScriptedCaller(payload_type=97).say(AUDIO).packets(Network(**network))
    return [(at, bytes(packet)) for at, packet in packets]


async def events_of(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["transcript"] for event in events if event["type"] == "turn.end")


async def test_linear_audio_described_by_sdp_ends_when_no_more_comes(tmp_path: Path) -> None:
    (tmp_path / "a.sdp").write_text(SDP + "97\r\na=rtpmap:97 L16/16000\r\n")
    async with receiving("--sdp", str(tmp_path / "a.sdp"), "--idle-s", "0.8") as (process, port):
        await send(linear(jitter_s=0.03, duplicate=0.1, seed=3), port)
        events = await events_of(process)
    assert text(events) == WORDS
    assert events[-1]["type"] == "session.end" and events[-1]["reason"] == "no more packets"
    assert events[-1]["ledger"]["0"]["received"] == len(AUDIO) / 16


async def test_an_interrupt_drains() -> None:
    async with receiving("--codec", "L16", "--payload-type", "97") as (process, port):
        await send(linear()[:80], port)  # up to the last word
        process.send_signal(2)
        events = await events_of(process)
    assert text(events) == WORDS and events[-1]["reason"] == "stopped"


async def test_strangers_and_nonsense_are_not_received() -> None:
    async with receiving("--codec", "L16", "--payload-type", "97", "--idle-s", "0.8") as (process, port):
        await send([(0.0, bytes(size)) for size in range(40)], port, "127.0.0.3")
        mine = asyncio.create_task(send(linear(), port))
        await asyncio.sleep(0.2)
        stranger = bytes(Packet(7, 1, 1, 97, bytes(640)))
        await send([(0.01 * i, stranger) for i in range(50)], port, "127.0.0.2")
        await send([(0.01 * i, b"\x80\xc8" + bytes(26)) for i in range(5)], port)  # RTCP on the same port
        await mine
        events = await events_of(process)
    assert text(events) == WORDS
    assert events[-1]["ledger"]["0"]["received"] == len(AUDIO) / 16
    assert [event["reason"] for event in events if event["type"] == "audio.ignored"] == [
        "datagrams arrive that are no RTP",
        "packets of 127.0.0.2 arrive, but 127.0.0.1 spoke first",
    ]


@pytest.mark.parametrize("name", ["PCMU", "PCMA", "G722", "opus"])
async def test_every_codec_is_decoded(name: str) -> None:
    payload_type, codec = USUAL[name]
    mono = Codec(name, codec.clock_rate)
    payloads = encode(mono, voice(0.6, sample_rate(mono)))
    tick = codec.clock_rate // 50
    packets = [
        (0.02 * n, bytes(Packet(1, n, n * tick, payload_type, payload))) for n, payload in enumerate(payloads)
    ]
    async with receiving("--codec", name, "--idle-s", "0.6") as (process, port):
        await send(packets, port)
        ledger = (await events_of(process))[-1]["ledger"]["0"]
    assert ledger["received"] == pytest.approx(20 * len(payloads), abs=20) and ledger["concealed"] < 25


def options(**given: Any) -> Options:
    return Options(**{"listen": "127.0.0.1:4000", "codec": "PCMU", **given})


def test_the_options_say_the_codec() -> None:
    assert _from_options(options()) == {0: Codec("PCMU", 8000)}
    assert _from_options(options(codec="L16", payload_type=100, clock_rate=8000)) == {100: Codec("L16", 8000)}
    for wrong in ({"payload_type": 128}, {"clock_rate": 16000}, {"codec": "L16", "clock_rate": 1}):
        with pytest.raises(ConfigError):
            _from_options(options(**wrong))
    assert host_and_port("[::1]:4000", "--listen") == ("::1", 4000)
    for wrong_address in ("4000", ":1", "a:b", "a:70000"):
        with pytest.raises(ConfigError):
            host_and_port(wrong_address, "--listen")


def test_a_description_says_the_codecs(tmp_path: Path) -> None:
    file = tmp_path / "a.sdp"
    file.write_text(SDP + "0 101 98\r\na=rtpmap:101 telephone-event/8000\r\na=rtpmap:98 L16/44100/2\r\n")
    assert _from_sdp(file) == {
        0: Codec("PCMU", 8000),
        101: Codec("telephone-event", 8000),
        98: Codec("L16", 44100, 2),
    }
    for wrong in (
        "",
        "hello",
        SDP + "18\r\n",
        SDP.replace("audio", "video") + "0\r\n",
        SDP + "98\r\na=rtpmap:98 L16/1\r\n",
    ):
        file.write_text(wrong)
        with pytest.raises(ConfigError):
            _from_sdp(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        _from_sdp(tmp_path / "missing.sdp")


CASES = Path(__file__).parent / "fixtures" / "media"


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("rtp_pcmu_16000_sdp", {98: Codec("PCMU", 16000)}),
        ("rtp_pcmu_stereo_sdp", {98: Codec("PCMU", 8000, 2)}),
        ("rtp_first_section_rejected", {0: Codec("PCMU", 8000)}),
    ],
)
def test_what_a_description_states_is_taken(name: str, codecs: dict[int, Codec]) -> None:
    assert _from_sdp(CASES / f"{name}.sdp") == codecs


@pytest.mark.parametrize(
    ("formats", "codecs"),
    [
        ("0", {0: Codec("PCMU", 8000)}),
        ("8 9 10 11", {8: Codec("PCMA", 8000), 9: Codec("G722", 8000), 10: Codec("L16", 44100, 2),
                       11: Codec("L16", 44100)}),
        ("121 0\r\na=rtpmap:121 red/8000\r\na=fmtp:121 0/0",
         {121: Codec("red", 8000), 0: Codec("PCMU", 8000)}),
        ("96 97\r\na=rtpmap:96 AMR/8000\r\na=rtpmap:97 opus/48000/2", {97: Codec("opus", 48000, 2)}),
    ],
)  # fmt: skip
def test_static_types_and_redundancy(tmp_path: Path, formats: str, codecs: dict[int, Codec]) -> None:
    (tmp_path / "a.sdp").write_text(SDP + formats + "\r\n")
    assert _from_sdp(tmp_path / "a.sdp") == codecs


@pytest.mark.parametrize(
    ("formats", "named"),
    [
        ("98\r\na=rtpmap:98 PCMU/192000", "a=rtpmap:98 PCMU/192000"),
        ("98\r\na=rtpmap:98 opus/16000/2", "a=rtpmap:98 opus/16000/2"),
        ("98\r\na=rtpmap:98 L16/16000/6", "a=rtpmap:98 L16/16000/6"),
        ("98\r\na=rtpmap:98 AMR/8000", "m=audio"),
        ("0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", "m=audio .*only unencrypted RTP"),
        ("98\r\na=rtpmap:98 L16/16000\r\na=rtpmap:98 PCMU/8000", "a=rtpmap:98 PCMU/8000: it is L16/16000"),
    ],
)
def test_a_line_that_cannot_be_taken_is_named(tmp_path: Path, formats: str, named: str) -> None:
    (tmp_path / "a.sdp").write_text(SDP + formats + "\r\n")
    with pytest.raises(ConfigError, match=named):
        _from_sdp(tmp_path / "a.sdp")


@pytest.mark.parametrize("protocol", ["RTP/SAVP", "UDP/TLS/RTP/SAVPF"])
def test_encrypted_packets_are_refused(tmp_path: Path, protocol: str) -> None:
    """They would be taken for noise."""
    (tmp_path / "a.sdp").write_text(SDP.replace("RTP/AVP", protocol) + "0\r\n")
    with pytest.raises(ConfigError, match=f"{protocol} 0: only unencrypted"):
        _from_sdp(tmp_path / "a.sdp")


async def test_the_idle_time_counts_where_nothing_that_comes_was_agreed() -> None:
    async with receiving("--codec", "opus", "--idle-s", "0.6") as (process, port):
        packets = [(0.02 * n, bytes(Packet(1, n, 960 * n, 111, b"\x78" + bytes(20)))) for n in range(50)]
        sending = asyncio.create_task(send(packets, port))
        events = await events_of(process)
        await sending
    (ignored,) = [event for event in events if event["type"] == "audio.ignored"]
    assert ignored["reason"] == "packets of payload type 111 arrive, 96 was agreed"
    assert events[-1]["reason"] == "no more packets"
