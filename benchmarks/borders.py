"""`python -m benchmarks.borders`: what the largest accepted inputs cost the event loop, in CPU, and how it
grows with size; for whole answers also the longest stretch in which nothing else runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.table import markdown
from rtcstt.call import Call, CallSettings
from rtcstt.errors import CallerError
from rtcstt.http.access import MAX_CREDENTIAL, Authenticator, Grant
from rtcstt.http.bodies import MAX_METADATA, checked_metadata, parse_object
from rtcstt.server.signaling_routes import MAX_FRAGMENT, MAX_OFFER, about
from rtcstt.testing import ScriptedUpstream, run_virtual
from rtcstt.webrtc import candidates
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.webrtc.negotiation import MAX_TRANSPORTS, Offer
from rtcstt.webrtc.peer import Peer
from rtcstt.webrtc.sdp import MAX_ATTRIBUTES

MAX_COMMAND = 16_384
SHARES = (0.25, 0.5, 1.0)  # of what is accepted
HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
TRANSPORT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\na=rtcp-mux\r\n"
    f"a=fingerprint:sha-256 {':'.join(['AA'] * 32)}\r\n"
)
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:{0}\r\na=rtpmap:111 opus/48000/2\r\n" + TRANSPORT


def filled(head: str, line: Callable[[int], str], size: int) -> str:
    lines, length = [head], len(head)
    for index in range(size):
        text = line(index)
        if length + len(text) > size:
            break
        lines.append(text)
        length += len(text)
    return "".join(lines)


def offers(size: int) -> Iterator[tuple[str, str]]:
    """Offers of every shape, of about ``size`` characters."""
    one = HEAD + AUDIO.format(0)
    shapes: dict[str, Callable[[int], str]] = {
        "sections": lambda i: f"m=audio 9 U {i}\r\n",
        "whole sections": lambda i: AUDIO.format(i + 1),
        "bare lines": lambda i: "a\r\n" if i % 2 else "a=\r\n",
        "candidates": lambda i: f"a=candidate:{i} 1 udp {i} 192.0.2.{i % 256} {i % 65536} typ host\r\n",
        "attributes": lambda i: f"a=rtpmap:{i % 128} opus/48000/2\r\n",
        "one attribute": lambda i: "a=x:" if i == 0 else "y",
    }
    for name, line in shapes.items():
        yield f"offer, {name}", filled(one, line, size)
    yield "offer, formats", HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF" + " 111" * (size // 4) + "\r\n"
    yield "offer, bundle", HEAD + "a=group:BUNDLE" + " 0" * (size // 2) + "\r\n" + AUDIO.format(0)


def cases(share: float) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, size and work of each input, of ``share`` of the largest size that is accepted."""
    for name, sdp in offers(int(MAX_OFFER * share)):
        body = json.dumps({"type": "offer", "sdp": sdp})
        yield name, len(sdp), partial(_offer, body)
    fragment = filled(
        "", lambda i: f"a=candidate:{i} 1 udp {i} 192.0.2.1 {i} typ host\r\n", int(MAX_FRAGMENT * share)
    )
    yield "fragment", len(fragment), lambda: candidates.in_fragment(fragment)
    metadata = json.dumps({"x": [0] * int(MAX_METADATA * share / 3)})
    yield "metadata", len(metadata), lambda: checked_metadata(parse_object(metadata))
    terms = json.dumps({"keyterms": ["x" * 12] * int(100 * share)})
    yield "key terms", len(terms), lambda: about(parse_object(terms), Grant())
    token = "a" * int(MAX_CREDENTIAL * share)
    authenticator = Authenticator(("a static token",) * 100, "a secret of at least thirty-two characters")
    yield "token", len(token), lambda: authenticator.admit(token)
    call = Call("c", stt=ScriptedUpstream(), settings=CallSettings())
    command = json.dumps(
        {"type": "config", "turn": {"end_timeout_ms": 900}, "x": [0] * int(MAX_COMMAND * share / 4)}
    )
    yield "command", len(command), lambda: call.command(command)


def _offer(body: str) -> Offer:
    return Offer.parse(str(parse_object(body)["sdp"]), max_tracks=8)


def cost_s(work: Callable[[], object], times: int) -> float:
    """CPU of the best of several."""
    best = 1e9
    for _ in range(times):
        begin = time.process_time()
        try:
            work()
        except CallerError:
            pass
        best = min(best, time.process_time() - begin)
    return best


class Stretches(selectors.DefaultSelector):
    """CPU between one look at the sockets and the next: what everybody else waits for."""

    longest_s = 0.0
    _since: float | None = None

    def begin(self) -> None:
        self.longest_s, self._since = 0.0, None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._since is not None:
            self.longest_s = max(self.longest_s, time.process_time() - self._since)
        found = super().select(timeout)
        self._since = time.process_time()
        return found


def whole_offers(share: float) -> Iterator[tuple[str, str]]:
    """Offers with ``share`` of all that is accepted: tracks, candidates, and lines that mean nothing here."""
    tracks = max(1, int(PeerSettings().max_tracks * share))
    for name, count, group in (
        ("one track", 1, "0"),
        ("tracks, bundled", tracks, " ".join(map(str, range(tracks)))),
        ("tracks, not bundled", max(1, int(MAX_TRANSPORTS * share)), ""),
    ):
        head = HEAD + (f"a=group:BUNDLE {group}\r\n" if group else "")
        yield f"answer, {name}", head + "".join(AUDIO.format(mid) for mid in range(count))
        sections = [
            AUDIO.format(mid) + "".join(_candidate(i) for i in range(int(candidates.MAX_CANDIDATES * share)))
            for mid in range(count)
        ]
        text = head + "".join(sections)
        lines = max(1, int(MAX_ATTRIBUTES * share) - text.count("\n") - 1)
        filler = "y" * (int(MAX_OFFER * share - len(text)) // lines - 12)
        yield f"answer, {name}, full", text + "".join(f"a=x{i}:{filler}\r\n" for i in range(lines))


def _candidate(index: int) -> str:
    return f"a=candidate:{index} 1 udp {index + 1} 192.0.2.{index + 1} 2000 typ host\r\n"


async def answered(sdp: str, selector: Stretches) -> tuple[float, float]:
    """CPU of an answer, until the candidates are there too, and its longest stretch."""
    call = Call("c", stt=ScriptedUpstream(), settings=CallSettings())
    peer = Peer(call, settings=PeerSettings(loopback=True))
    await asyncio.sleep(0.01)
    selector.begin()
    await asyncio.sleep(0)
    begin = time.process_time()
    await peer.answer(Offer.parse(sdp, max_tracks=PeerSettings().max_tracks))
    cost = time.process_time() - begin
    await asyncio.sleep(0.05)
    longest = selector.longest_s
    await peer.close()
    await call.close()
    return cost, longest


def answers(times: int) -> list[list[str]]:
    """Rows of whole answers: CPU of the best of several for each share, and the longest stretch."""
    selector = Stretches()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:

        def best(sdp: str) -> tuple[float, float]:
            found = [runner.run(answered(sdp, selector)) for _ in range(times)]
            return min(cost for cost, _ in found), min(longest for _, longest in found)

        costs = [[(name, sdp, *best(sdp)) for name, sdp in whole_offers(share)] for share in SHARES]
    rows = []
    for quarter, half, whole in zip(*costs, strict=True):
        times_ms = [f"{1000 * one[2]:.2f}" for one in (quarter, half, whole)]
        rows.append([whole[0], f"{len(whole[1])}", *times_ms, f"{1000 * whole[3]:.2f}"])
    return rows


async def measured(times: int) -> list[list[str]]:
    costs = {
        share: [(name, size, cost_s(work, times)) for name, size, work in cases(share)] for share in SHARES
    }
    rows = []
    for quarter, half, whole in zip(*costs.values(), strict=True):
        times_ms = [f"{1000 * cost:.2f}" for _, _, cost in (quarter, half, whole)]
        rows.append([whole[0], f"{whole[1]}", *times_ms, times_ms[-1]])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="the best of so many (default: %(default)s)")
    options = parser.parse_args(arguments)
    header = [
        "input",
        "largest, characters",
        "a quarter, ms",
        "half, ms",
        "the largest, ms",
        "in one piece, ms",
    ]
    print(markdown(header, [*run_virtual(measured(options.times)), *answers(options.times)]))


if __name__ == "__main__":
    main()
