"""SIP calls through Debian's Janus, Kamailio and baresip, as docs/sip.md explains.

Everything runs on this machine, from the configurations of deploy/sip and with the example that the page has.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webvtt
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from interop import telephony
from processes import Server, check_events, ended, running, until

from rtcstt.commands.demo import bundled_recording, transcript, word_errors

pytestmark = pytest.mark.real

WISDOM = (
    "It was the best of times, it was the worst of times, "
    "it was the age of wisdom, it was the age of foolishness,"
)
HOPE = (
    "it was the spring of hope, it was the winter of despair, "
    "we had everything before us, we had nothing before us,"
)
SPOKEN_S = 2.5  # until "times" is over
LEAD_S = 0.5  # of silence, while the WebRTC side connects


@dataclass(frozen=True, slots=True)
class Gateway:
    """A SIP account whose calls rtcstt receives; two at a time."""

    account: str
    server: Server
    bridge: Path
    folder: Path

    def calls(self, caller: str) -> list[str]:
        calls = self.server.get("/calls")["calls"]
        return [call["call"] for call in calls if call["label"] == f"sip:{caller}@127.0.0.1"]


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    telephony.need("janus")
    with telephony.janus(tmp_path_factory.mktemp("janus")) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(janus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    telephony.need("kamailio", "baresip")
    folder = tmp_path_factory.mktemp("sip")
    with running("serve", folder, "--max-calls", "2") as server, telephony.kamailio(folder) as port:
        account, proxy = f"sip:captions@127.0.0.1:{port}", f"sip:127.0.0.1:{port}"
        options = ("--proxy", proxy, "--janus", janus, "--rtcstt", server.url)
        with telephony.bridge(folder, account, *options) as bridge:
            yield Gateway(account, server, bridge, folder)


def recording(start_s: float, end_s: float) -> np.ndarray:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    lead = np.zeros(int(LEAD_S * rate), np.float32)
    return np.concatenate([lead, samples[int(start_s * rate) : int(end_s * rate)]])


async def captions(gateway: Gateway, call: str) -> str:
    """What a call that is over says as WebVTT."""
    events = await ended(gateway.server, call)
    check_events(events)
    (ledger,) = events[-1]["ledger"].values()
    # A packet may come too late through three processes on a machine with other work; hardly more than one.
    assert ledger["concealed"] + ledger["recovered"] <= 0.02 * ledger["received"], ledger
    cues = webvtt.from_buffer(io.StringIO(gateway.server.get(f"/calls/{call}/captions.vtt")))
    return " ".join(cue.text for cue in cues)


async def test_two_telephones_at_once_and_none_beyond(gateway: Gateway) -> None:
    folder, account = gateway.folder, gateway.account
    with (
        telephony.baresip(folder, "alice", "PCMU/8000/1", recording(0.0, 8.7), account),
        telephony.baresip(folder, "bob", "PCMA/8000/1", recording(17.1, 24.3), account),
        telephony.baresip(folder, "carol", "PCMU/8000/1", recording(0.0, 1.0), account, outcome="486"),
    ):
        (alice,), (bob,) = gateway.calls("alice"), gateway.calls("bob")
        # baresip hangs up at the end of its recording, and rtcstt does not wait for the caller to come back.
        said = await captions(gateway, alice), await captions(gateway, bob)
    # A beginning may be misheard on a telephone line ("With the string of hope"); what is lost is more.
    assert word_errors(WISDOM, said[0]).rate <= 0.2, said
    assert word_errors(HOPE, said[1]).rate <= 0.2, said
    assert "declined sip:carol@127.0.0.1" in gateway.bridge.read_text() and not gateway.calls("carol")


@pytest.mark.parametrize(("name", "codec"), [("dave", "G722/16000/1"), ("erin", "opus/48000/2")])
async def test_ending_the_call_hangs_up_the_telephone(gateway: Gateway, name: str, codec: str) -> None:
    with telephony.baresip(gateway.folder, name, codec, recording(0.9, 40.0), gateway.account) as log:
        (call,) = gateway.calls(name)
        await until(lambda: gateway.server.get(f"/calls/{call}")["time"] > SPOKEN_S)
        gateway.server.hang_up(call)
        await until(lambda: "terminated" in log.read_text())
        assert "best of times" in (await captions(gateway, call)).replace("\n", " ")
    await until(lambda: f"{call} ended" in gateway.bridge.read_text())


async def test_janus_forwards_a_room_as_plain_rtp(janus: str, tmp_path: Path) -> None:
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, recording(0.9, 4.9), 48000)
    pc = RTCPeerConnection(RTCConfiguration([]))
    async with (
        telephony.attached(janus, "janus.plugin.videoroom") as ask,
        contextlib.AsyncExitStack() as stack,
    ):
        stack.push_async_callback(pc.close)
        log, port = stack.enter_context(telephony.rtp_command(tmp_path, "--codec", "opus", "--idle-s", "1.5"))
        await ask("create", room=1, audiocodec="opus")
        publisher = (await ask("join", ptype="publisher", room=1))["id"]
        audio = MediaPlayer(str(voice)).audio
        assert audio is not None
        pc.addTrack(audio)
        await pc.setLocalDescription(await pc.createOffer())
        answer = (await ask("publish", offer=pc.localDescription.sdp))["answer"]
        stream = {"mid": "0", "port": port, "pt": 96}
        await ask("rtp_forward", room=1, publisher_id=publisher, host="127.0.0.1", streams=[stream])
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await until(lambda: "session.end" in log.read_text())
    events = telephony.written_events(log)
    check_events(events)
    assert word_errors("It was the best of times, it was the worst of times,", transcript(events)).rate <= 0.1
