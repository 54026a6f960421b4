"""Callers that nobody here wrote: libdatachannel, libwebrtc, FFmpeg by WHIP; PJSIP and SIPp through Janus.

Each says the words, connects soon, and loses nothing; a digit that is pressed is one `dtmf` event.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import npm
import numpy as np
import pytest
import soundfile
import soxr
from conformance import install
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from interop import telephony
from ports import free_port
from processes import Server, check_events, running

from rtcstt.commands.demo import bundled_recording, transcript, word_errors
from rtcstt.media.files import read
from rtcstt.webrtc.playback import opus_packets

pytestmark = [pytest.mark.real, pytest.mark.conformance, pytest.mark.heavy]

CLIENTS = Path(__file__).parent / "clients"
FIRST = "It was the best of times, it was the worst of times,"
WORDS = f"{FIRST} it was the age of wisdom, it was the age of foolishness,"
FIRST_S, WORDS_S = 4.9, 8.7  # where the recording has said them
SOON_S = 0.3  # to connect; measured by `test_connecting_takes_no_time`, which wants a machine with time
PATIENCE_S = 180


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("serve", tmp_path_factory.mktemp("serve")) as server:
        yield server


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording from its beginning, as a file."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, recording(WORDS_S), 48000)
    return path


def recording(until_s: float, *, lead_s: float = 0.5) -> np.ndarray:
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    assert rate == 48000
    silence = np.zeros(int(lead_s * rate), np.int16)
    return np.concatenate([silence, samples[: int(until_s * rate)], silence])


def node(script: str, packages: str, *args: str | Path) -> list[dict[str, Any]]:
    """What a client for Node printed, line by line."""
    folder = npm.modules(packages)
    command = ["node", str(CLIENTS / script), *map(str, args)]
    environment = {**os.environ, "NODE_PATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packets") / "packets.json"
    opus = opus_packets(read(bundled_recording())[: int(FIRST_S * 48000)])
    path.write_text(json.dumps([base64.b64encode(payload).decode() for payload in opus]))
    return path


def test_libdatachannel(server: Server, packets: Path) -> None:
    connected, *events = node("libdatachannel.cjs", "callers", f"{server.url}/offer", packets)
    check_events(events)
    assert word_errors(FIRST, transcript(events)).errors <= 1, transcript(events)
    assert events[-1]["complete"] and events[-1]["ledger"]["0"]["concealed"] == 0
    assert "a=setup:passive" in connected["sdp"], "the caller says hello when they are ready"


def test_libwebrtc_whose_track_goes_and_comes_back(server: Server, tmp_path: Path) -> None:
    """This version says BYE at `replaceTrack(null)`: the words after it are received all the same."""
    (tmp_path / "voice.pcm").write_bytes(recording(WORDS_S).astype("<i2").tobytes())
    _, *events = node(
        "wrtc.cjs", "callers", f"{server.url}/offer", tmp_path / "voice.pcm", str(FIRST_S + 0.5)
    )
    check_events(events)
    assert word_errors(WORDS, transcript(events)).errors <= 2, transcript(events)
    types = [event["type"] for event in events]
    assert types.count("track.muted") == types.count("track.unmuted") == 1
    assert events[-1]["complete"] and "transcript.gap" not in types


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """On P-256; the one that FFmpeg makes for itself with GnuTLS is on a curve that TLS libraries refuse."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "caller")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return paths


def ffmpeg(server: Server, voice: Path, certificate: tuple[Path, Path]) -> float:
    """A session of FFmpeg's WHIP muxer; how long it took to connect, in s."""
    import av

    if "whip" not in av.formats_available:
        pytest.skip("this PyAV has no WHIP muxer (FFmpeg 8)")
    seconds = str(FIRST_S + 0.4)
    command = [sys.executable, CLIENTS / "ffmpeg_whip.py", f"{server.url}/whip", voice, seconds, *certificate]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["opened_s"])


def test_ffmpegs_whip_muxer(server: Server, voice: Path, certificate: tuple[Path, Path]) -> None:
    ffmpeg(server, voice, certificate)
    call = server.get("/calls")["calls"][-1]["call"]
    events = closed(server, call)
    assert word_errors(FIRST, transcript(events)).errors <= 1, transcript(events)
    assert events[-1]["reason"] == "hung up" and events[-1]["complete"]


def closed(server: Server, call: str) -> list[dict[str, Any]]:
    """The events of a call, once it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while server.get(f"/calls/{call}")["state"] != "closed":
        assert time.monotonic() < deadline
        time.sleep(0.1)  # a process of its own has no event to wait for
    events = server.events(call)
    check_events(events)
    return events


@pytest.mark.heavy
def test_connecting_takes_no_time(
    server: Server,
    packets: Path,
    voice: Path,
    certificate: tuple[Path, Path],
) -> None:
    """The fastest of five, for other programs may be running: a wait of ours would show in all of them."""
    offer = f"{server.url}/offer"
    by_libdatachannel = [
        node("libdatachannel.cjs", "callers", offer, packets)[0]["connected_s"] for _ in range(5)
    ]
    by_ffmpeg = [ffmpeg(server, voice, certificate) for _ in range(5)]
    measured = {"libdatachannel": by_libdatachannel, "FFmpeg": by_ffmpeg}
    assert all(min(times) < SOON_S for times in measured.values()), measured


# -- SIP, through Janus ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gateway:
    account: str
    server: Server

    def call_of(self, caller: str) -> str:
        """The id of the last call that came from an address."""
        calls = self.server.get("/calls")["calls"]
        call = [call["call"] for call in calls if (call["label"] or "").startswith(f"sip:{caller}@")][-1]
        return str(call)


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    telephony.need("janus", "kamailio")
    folder = tmp_path_factory.mktemp("sip")
    with telephony.janus(folder) as janus, telephony.kamailio(folder) as port:
        account, proxy = f"sip:captions@127.0.0.1:{port}", f"sip:127.0.0.1:{port}"
        options = ("--proxy", proxy, "--janus", janus, "--rtcstt", server.url)
        with telephony.bridge(folder, account, *options):
            yield Gateway(account, server)


def digits(events: list[dict[str, Any]]) -> str:
    return "".join(event["digit"] for event in events if event["type"] == "dtmf")


def test_pjsua2_speaks_and_presses_keys(gateway: Gateway, tmp_path: Path) -> None:
    try:
        install.install_python("pjsua2", install.PYTHON["pjsua2"])
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"pjsua2 cannot be installed: {error}")
    samples = soxr.resample(recording(FIRST_S).astype(np.float32) / 32768, 48000, 8000)
    soundfile.write(tmp_path / "voice.wav", samples, 8000, subtype="PCM_16")
    script = [
        install.python("pjsua2"),
        CLIENTS / "pjsua2_call.py",
        gateway.account,
        tmp_path / "voice.wav",
        "6",
    ]
    done = subprocess.run([*map(str, script), "1592#"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert "CONFIRMED" in done.stdout, done.stdout + done.stderr
    events = closed(gateway.server, gateway.call_of("pjsua2"))
    assert digits(events) == "1592#"
    # A telephone line, and a beginning that is spoken before Janus has connected: a third may be misheard.
    assert word_errors(FIRST, transcript(events)).rate <= 0.34, transcript(events)
    assert events[-1]["complete"]


SIPP = Path("/usr/share/sip-tester")  # where Debian has its recordings of telephones
SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<!DOCTYPE scenario SYSTEM "sipp.dtd">
<scenario name="keys">
  <send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=- 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8 101
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="183" optional="true"/>
  <recv response="200" rrs="true"/>
  <send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
[routes]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
  <nop><action><exec play_pcap_audio="{folder}/g711a.pcap"/></action></nop>
  <pause milliseconds="3000"/>
{keys}
  <send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
[routes]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="200"/>
</scenario>
"""


def test_sipp_presses_keys(gateway: Gateway, tmp_path: Path) -> None:
    """Recorded telephones: each key is a recording, with packets of its own source."""
    telephony.need("sipp")
    if not (SIPP / "dtmf_2833_1.pcap").exists():
        pytest.skip(f"no recordings of keys in {SIPP} (Debian: sip-tester)")
    names = {"*": "star", "#": "pound"}
    pressed = "1259*"  # in the order of their recordings, whose packets are numbered on
    play = '<nop><action><exec play_pcap_audio="{}/dtmf_2833_{}.pcap"/></action></nop>'
    key = f'{play}<pause milliseconds="1200"/>'
    keys = "\n".join(key.format(SIPP, names.get(digit, digit)) for digit in pressed)
    (tmp_path / "keys.xml").write_text(SCENARIO.replace("{folder}", str(SIPP)).replace("{keys}", keys))
    service, _, proxy = gateway.account.removeprefix("sip:").partition("@")
    options = ["-sf", "keys.xml", "-s", service, "-m", "1", "-i", "127.0.0.1", "-p", str(free_port())]
    media = ["-mi", "127.0.0.1", "-mp", str(free_port()), "-nostdin", "-timeout", "60", "-trace_err"]
    sipp = shutil.which("sipp")
    assert sipp is not None
    command = [sipp, proxy, *options, *media]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    events = closed(gateway.server, gateway.call_of("sipp"))
    assert digits(events) == pressed
