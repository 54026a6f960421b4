"""A WebRTC caller made of GStreamer's webrtcbin: plays a WAV file to an `/offer` URL, then leaves.

usage: gstreamer_caller.py FILE.wav OFFER_URL SECONDS

It runs under Debian's own interpreter, which has `gi`, and needs nothing else. Writes the call's id to
stdout, and the states of its connection to stderr; exit code 0 when it was connected. It leaves without a
goodbye: webrtcbin sends neither BYE nor a DTLS alert when it is stopped.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

CONNECT_S = 20
PIPELINE = (
    "webrtcbin name=rtc bundle-policy=max-bundle "
    "filesrc location={file} ! wavparse ! audioconvert ! audioresample ! audio/x-raw,rate=48000,channels=1 ! "
    "opusenc inband-fec=true ! rtpopuspay ! "
    "application/x-rtp,media=audio,encoding-name=OPUS,payload=96 ! rtc."
)


class Call:
    """webrtcbin calls back from its own threads; all that decides here runs in the main loop's."""

    def __init__(self, file: str, url: str, seconds: float) -> None:
        self.url = url
        self.seconds = seconds
        self.status = 1
        self.posted = False
        self.described: list[Any] = []
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.parse_launch(PIPELINE.format(file=file))
        self.rtc = self.pipeline.get_by_name("rtc")
        self.rtc.connect("on-negotiation-needed", lambda rtc: GLib.idle_add(self.create_offer))
        self.rtc.connect("notify::ice-gathering-state", lambda rtc, name: GLib.idle_add(self.post))
        self.rtc.connect("notify::connection-state", lambda rtc, name: GLib.idle_add(self.on_connection))

    def run(self) -> int:
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(CONNECT_S, self.give_up)
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        return self.status

    def create_offer(self) -> bool:
        promise = Gst.Promise.new_with_change_func(lambda promise: GLib.idle_add(self.on_offer, promise))
        self.rtc.emit("create-offer", None, promise)
        return False

    def on_offer(self, promise: Any) -> bool:
        # What PyGObject hands out here does not keep its owner alive: without a name of its own the reply,
        # or the description in it, is freed before its text is read, and the process ends with SIGSEGV.
        reply = promise.get_reply()
        offer = reply.get_value("offer")
        self.describe("set-local-description", GstWebRTC.WebRTCSDPType.OFFER, offer.sdp.as_text())
        return False

    def post(self) -> bool:
        gathered = self.rtc.get_property("ice-gathering-state")
        if self.posted or gathered != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return False
        self.posted = True
        offer = self.rtc.get_property("local-description")
        body = json.dumps({"type": "offer", "sdp": offer.sdp.as_text()}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except OSError as error:
            sys.stderr.write(f"{self.url}: {error}\n")
            self.loop.quit()
            return False
        sys.stdout.write(f"{answer['call']}\n")
        sys.stdout.flush()
        self.describe("set-remote-description", GstWebRTC.WebRTCSDPType.ANSWER, answer["sdp"])
        return False

    def describe(self, signal: str, kind: Any, text: str) -> None:
        """Set a description made again from its text (webrtcbin 1.22 takes no other), and keep it alive."""
        _, message = GstSdp.SDPMessage.new_from_text(text)
        self.described += [message, GstWebRTC.WebRTCSessionDescription.new(kind, message)]
        self.rtc.emit(signal, self.described[-1], None)

    def on_connection(self) -> bool:
        state = self.rtc.get_property("connection-state")
        sys.stderr.write(f"{state.value_nick}\n")
        if state == GstWebRTC.WebRTCPeerConnectionState.CONNECTED and self.status:
            self.status = 0
            GLib.timeout_add(int(1000 * self.seconds), self.loop.quit)
        elif state == GstWebRTC.WebRTCPeerConnectionState.FAILED:
            self.loop.quit()
        return False

    def give_up(self) -> bool:
        if self.status:
            self.loop.quit()
        return False


if __name__ == "__main__":
    Gst.init(None)
    sys.exit(Call(sys.argv[1], sys.argv[2], float(sys.argv[3])).run())
