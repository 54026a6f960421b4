"""The HTTP face: signaling, refusals, calls, events, captions, tokens, limits; with real callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from descriptions import AUDIO, SESSION, VIDEO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtcstt.call import Call, CallSettings
from rtcstt.embedded import Embedded
from rtcstt.errors import CallerError
from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import Guard, Hosts
from rtcstt.limits import RateLimiter, Slots
from rtcstt.recordings import Recordings
from rtcstt.server.addresses import Networks
from rtcstt.server.admission import Limits
from rtcstt.server.app import Web
from rtcstt.server.calls import QUIET_S, Calls
from rtcstt.server.context import Context, caller_behind
from rtcstt.server.entries import Entry
from rtcstt.server.intake import Timing
from rtcstt.server.signaling_routes import MAX_BODY
from rtcstt.testing import ScriptedUpstream
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import IceServer, PeerSettings
from rtcstt.webrtc.playback import opus_packets

pytestmark = pytest.mark.real

SECRET = "a secret of at least thirty-two characters"
TONE = (np.sin(np.arange(48000 * 30) / 20) * 8000).astype(np.int16)
Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serving(
    *,
    authenticator: Authenticator | None = None,
    max_calls: int = 10,
    per_minute: int = 1000,
    grace_s: float = 0.0,
    limits: Limits | None = None,
    recordings: Recordings | None = None,
    peers: PeerSettings | None = None,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    trusted: Networks | None = None,
    ice_servers: Callable[[], Sequence[IceServer]] = tuple,
    streams: Slots | None = None,
    embedded: Embedded | None = None,
    timing: Timing | None = None,
) -> AsyncIterator[tuple[Client, Calls]]:
    calls = Calls(
        stt=ScriptedUpstream(),
        settings=CallSettings(),
        peers=lambda: peers or PeerSettings(loopback=True),
        limits=limits or Limits(max_calls=max_calls, resume_grace_s=grace_s),
        recordings=recordings,
        streams=streams,
    )
    guard = Guard(
        authenticator or Authenticator(),
        hosts=Hosts(hosts),
        origins=origins,
        caller=caller_behind(trusted or Networks()),
    )
    context = Context(calls, guard, offers_per_minute=per_minute, ice_servers=ice_servers)
    client: Client = TestClient(
        TestServer(Web(context, embedded=embedded, timing=timing or Timing(silent_s=60.0)).application())
    )
    async with client:
        yield client, calls


@asynccontextmanager
async def calling(client: Client, path: str = "/offer", **options: Any) -> AsyncIterator[Caller]:
    caller = Caller(opus_packets(TONE[: 48000 * 5]), loopback=True, **options)
    try:
        await caller.dial(str(client.make_url(path)))
        await anext(caller.events())  # now commands are received, too
        yield caller
    finally:
        await caller.close()


async def refusal(response: aiohttp.ClientResponse, status: int, code: str | None = None) -> dict[str, Any]:
    assert response.status == status, await response.text()
    body: dict[str, Any] = await response.json()
    assert body.keys() >= {"error_code", "title", "message", "request_id"}
    if code is not None:
        assert body["error_code"] == code
    return body


async def events_of(client: Client, call: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
    """(id, event) of a call's server-sent events, to their end."""
    found, number = [], ""
    async with client.get(f"/calls/{call}/events", headers=headers) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
    return found


async def test_a_call_from_offer_to_transcript() -> None:
    async with serving() as (client, _), calling(client) as caller:
        assert caller.call is not None
        listed = await (await client.get("/calls")).json()
        assert [call["call"] for call in listed["calls"]] == [caller.call]
        shown = await (await client.get(f"/calls/{caller.call}")).json()
        assert shown["state"] == "open" and shown["tracks"][0]["track"] == "0"
        assert shown["turns"] == [] and shown["turn_count"] == 0
        assert shown["connection"]["state"] == "connected"
        assert set(shown["connection"]["dropped_packets"].values()) == {0}
        await asyncio.sleep(0.5)
        ended = await (await client.delete(f"/calls/{caller.call}")).json()
        assert ended["state"] == "closed"
        ledger = ended["ledger"]["0"]
        assert 300 < ledger["received"] <= 1000 * ended["time"] + 20
        events = await events_of(client, caller.call)
        assert [int(number) for number, _ in events] == [event["seq"] for _, event in events]
        assert [event["seq"] for _, event in events] == list(range(len(events)))
        assert events[-1][1]["type"] == "session.end"
        assert events[-1][1]["ledger"]["0"] == ledger
        later = await events_of(client, caller.call, **{"Last-Event-ID": "1"})
        assert [event["seq"] for _, event in later] == list(range(2, len(events)))
        for name, kind in (
            ("captions.vtt", "text/vtt"),
            ("captions.srt", "application/x-subrip"),
            ("transcript.txt", "text/plain"),
            ("transcript.json", "application/json"),
        ):
            response = await client.get(f"/calls/{caller.call}/{name}")
            assert (response.status, response.content_type) == (200, kind)
        transcript = await (await client.get(f"/calls/{caller.call}/transcript.json")).json()
        assert transcript["ended"] and transcript["complete"] == (transcript["missing"] == [])
        assert all(gap["reason"] == "stt" for gap in transcript["missing"]), "the tone, which has no words"


async def test_an_answer_says_why_sections_are_refused() -> None:
    video = f"{VIDEO}a=ssrc:1 cname:x\n".replace("a=rtpmap:45", "a=rtpmap:46")
    sdp = f"{SESSION}{AUDIO}{video}"
    async with serving() as (client, _):
        answered = await (await client.post("/offer", json={"type": "offer", "sdp": sdp})).json()
        assert answered["refused"] == {"1": "video is not received"}
        plain = await (await client.post("/offer", json={"type": "offer", "sdp": SESSION + AUDIO})).json()
        assert "refused" not in plain
        for call in (answered["call"], plain["call"]):
            await client.delete(f"/calls/{call}")


async def test_a_listener_receives_a_call_live_and_to_its_end() -> None:
    async with serving() as (client, _), calling(client) as caller:
        listening = asyncio.create_task(events_of(client, str(caller.call)))
        await asyncio.sleep(0.3)
        await caller.hang_up()
        received = await asyncio.wait_for(listening, 60)
        assert [event for _, event in received] == [event for _, event in caller.received]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b"[" * 5000, 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b"{}", 400, "bad_offer"),
        (b'{"type": "answer", "sdp": "v=0"}', 400, "bad_offer"),
        (b'{"type": "offer", "sdp": 3}', 400, "bad_offer"),
        (b'{"type": "offer", "sdp": "v=0", "call": 5}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "resume": ["x"]}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "hello"}', 400, "bad_sdp"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n"}', 400, "no_audio"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n", "mode": "both"}', 400, "unknown_mode"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n", "label": 5}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n", "metadata": []}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n", "metadata": {"a": NaN}}', 400, "bad_json"),
        (b'{"type": "offer", "sdp": "v=0", "turn": {"end_threshold": 2}}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "keyterms": "one"}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "update_ms": 50}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "update_ms": true}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "keyterms": ["%s"]}' % (b"x" * 1300), 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0", "language": "en us"}', 400, "invalid_request"),
        (b'{"type": "offer", "sdp": "v=0\\r\\n", "call": "nope"}', 404, "call_not_found"),
        (b" " * (MAX_BODY + 1), 413, "offer_too_big"),
    ],
)
async def test_bad_offers_are_refused_and_leave_nothing(body: bytes, status: int, code: str) -> None:
    async with serving() as (client, calls):
        await refusal(await client.post("/offer", data=body), status, code)
        assert calls.all() == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/calls/nope", 404),
        ("DELETE", "/calls/nope", 404),
        ("GET", "/calls/nope/events", 404),
        ("GET", "/calls/nope/captions.vtt", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/whip/nope", 404),
        ("PUT", "/offer", 405),
        ("GET", "/calls/nope/passwords.txt", 404),
    ],
)
async def test_what_is_not_there_is_refused_as_json(method: str, path: str, status: int) -> None:
    async with serving() as (client, _):
        await refusal(await client.request(method, path), status)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
    path=st.sampled_from(
        [
            "/",
            "/offer",
            "/whip",
            "/ice-servers",
            "/calls",
            "/calls/x",
            "/whip/x",
            "/metrics",
            "/calls/x/events",
        ]
    ),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "If-Match", "Last-Event-ID", "Origin", "Authorization", "Accept"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    ),
    body=st.binary(max_size=200),
)
async def test_whatever_comes_in_gets_an_answer_and_no_server_error(
    method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    async with serving() as (client, calls):
        response = await client.request(method, path, headers=headers, data=body)
        assert response.status < 500
        await response.read()
        assert calls.all() == []
        assert (await client.get("/healthz")).status == 200


async def test_a_second_offer_for_a_call_that_works_is_refused_and_disturbs_nothing() -> None:
    async with serving(grace_s=5) as (client, _), calling(client) as caller:
        await asyncio.sleep(0.3)
        body = {"type": "offer", "sdp": "v=0\r\n", "call": caller.call}
        await refusal(await client.post("/offer", json=body), 409, "call_connected")
        await caller.hang_up()
        assert caller.received[-1][1]["type"] == "session.end"
        await refusal(await client.post("/offer", json=body), 409, "call_ended")


class Resuming:
    """A call that is there already."""

    def __init__(self, client: Client, call: str) -> None:
        self._client = client
        self._call = call

    async def answer(self, text: str) -> str:
        body = {"type": "offer", "sdp": text, "call": self._call}
        async with self._client.post("/offer", json=body) as response:
            if response.status != 200:
                raise CallerError(response.status, (await response.json())["error_code"], "", "")
            return str((await response.json())["sdp"])


async def test_a_caller_who_lost_the_network_takes_their_call_up_again() -> None:
    async with serving(grace_s=20) as (client, calls), calling(client) as lost:
        call = calls.find(str(lost.call))
        await asyncio.sleep(0.5)
        lost.vanish()
        await asyncio.sleep(QUIET_S + 0.3)
        again, late = (Caller(opus_packets(TONE[:48000]), loopback=True) for _ in range(2))
        try:
            dialled = asyncio.create_task(again.dial(Resuming(client, call.id)))
            with pytest.raises(CallerError) as refusal:
                await asyncio.gather(dialled, late.dial(Resuming(client, call.id)))
            assert refusal.value.status == 409, "only one connection at a time"
            await dialled
            await again.played()
            await again.hang_up()
        finally:
            await again.close()
            await late.close()
        types = [event["type"] for _, event in again.received]
        assert types[0] == "session.start" and types[-1] == "session.end", "the whole call is told again"
        assert types.count("track.start") == types.count("track.end") == 1
        ledger = call.ledgers()["0"]
        assert ledger["received"] > 1400 and ledger["silence"] > 1000 * QUIET_S


async def test_a_full_server_says_when_to_come_back() -> None:
    async with serving(max_calls=1) as (client, calls), calling(client) as caller:
        response = await client.post("/offer", json={"type": "offer", "sdp": "v=0\r\n"})
        await refusal(response, 503, "full")
        assert int(response.headers["Retry-After"]) > 0
        assert calls.refused == 1
        await caller.hang_up()
        await refusal(await client.post("/offer", json={"type": "offer", "sdp": "v=0\r\n"}), 400, "no_audio")


async def test_an_address_that_asks_too_often_has_to_wait() -> None:
    async with serving(per_minute=3) as (client, _):
        for _ in range(3):
            await refusal(await client.post("/offer", data=b"{}"), 400)
        response = await client.post("/offer", data=b"{}")
        await refusal(response, 429, "too_many_offers")
        assert 0 < int(response.headers["Retry-After"]) <= 61


def test_offers_are_forgotten_after_a_minute_and_addresses_are_bounded() -> None:
    rate_limiter = RateLimiter(2)
    for now in (0.0, 30.0, 60.5, 91.0):
        assert rate_limiter.take("a", now) == 0
    for number in range(10_000):
        rate_limiter.take(f"b{number}", 100.0)
    assert len(rate_limiter) <= 4096


def token(**claims: Any) -> dict[str, str]:
    signed = jwt.encode({"exp": time.time() + 86_400, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {signed}"}


async def test_tokens_say_who_may_call_and_who_may_listen() -> None:
    authenticator = Authenticator(("static-token",), SECRET)
    static = {"Authorization": "Bearer static-token"}
    async with serving(authenticator=authenticator) as (client, _):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic static-token"},
            token(exp=time.time() - 5),
        ):
            for method, path in (("POST", "/offer"), ("POST", "/whip"), ("GET", "/calls")):
                response = await client.request(method, path, headers=headers, data=b"{}")
                await refusal(response, 401)
                assert response.headers["WWW-Authenticate"] == "Bearer"
        await refusal(await client.post("/offer", data=b"{}", headers=static), 400)
        assert (await client.get("/calls", headers=static)).status == 200
        await refusal(await client.post("/offer", data=b"{}", headers=token(**{"may-publish": False})), 403)
        await refusal(await client.get("/calls", headers=token(**{"may-listen": False})), 403)
        assert (await client.get("/calls", headers=token(**{"may-publish": False}))).status == 200
        unsigned = jwt.encode({"exp": time.time() + 60}, "another secret of thirty-two characters", "HS256")
        await refusal(await client.get("/calls", headers={"Authorization": f"Bearer {unsigned}"}), 401)
        assert (await client.get("/calls", params={"access_token": "static-token"})).status == 200
        for open_path in ("/healthz", "/readyz", "/"):
            assert (await client.get(open_path)).status == 200


async def test_a_token_for_one_label_gets_to_know_of_no_other_call() -> None:
    async with serving(authenticator=Authenticator(("all",), SECRET)) as (client, calls):
        calls.entries |= {
            id: Entry(Call(id, stt=calls.stt, label=label), 0.0)
            for id, label in (("a", "desk"), ("b", "other"), ("c", None))
        }
        desk = token(label="desk")
        listed = await (await client.get("/calls", headers=desk)).json()
        assert [call["call"] for call in listed["calls"]] == ["a"]
        for path in ("/calls/b", "/calls/b/events", "/calls/c/captions.vtt"):
            await refusal(await client.get(path, headers=desk), 404, "call_not_found")
        assert (await client.get("/calls/a/captions.vtt", headers=desk)).status == 200
        for path in ("/calls/b", "/whip/c"):
            await refusal(await client.delete(path, headers=desk), 404, "call_not_found")
        resume = {"type": "offer", "sdp": "v=0\r\n", "call": "b"}
        await refusal(await client.post("/offer", json=resume, headers=desk), 404, "call_not_found")
        assert {call.state for call in calls.all()} == {"open"}
        everything = {"Authorization": "Bearer all"}
        assert len((await (await client.get("/calls", headers=everything)).json())["calls"]) == 3


async def test_pages_of_strangers_may_not_act() -> None:
    async with serving(origins=("https://my.page",)) as (client, _):
        host = f"http://{client.host}:{client.port}"
        for origin, status in (
            (host, 400),
            ("https://my.page", 400),
            ("https://evil.page", 403),
            ("null", 403),
            ("http://[", 403),
        ):
            headers = {"Origin": origin, "Content-Type": "text/plain"}
            await refusal(await client.post("/offer", data=b"{}", headers=headers), status)


@pytest.mark.parametrize(
    "authenticator",
    [Authenticator(("static-token",)), Authenticator(jwt_secret=SECRET)],
    ids=["static", "signed"],
)
def test_a_token_that_is_no_text_is_only_a_wrong_one(authenticator: Authenticator) -> None:
    headers = {"Authorization": b"Bearer \xff".decode("utf-8", "surrogateescape")}  # as aiohttp has it
    with pytest.raises(CallerError) as refused:
        authenticator.authenticate(headers, {})
    assert refused.value.status == 401


async def test_a_call_may_bring_its_own_settings() -> None:
    about = {
        "turn": {"end_timeout_ms": 900},
        "keyterms": ["Dickens"],
        "update_ms": 250,
        "mode": "auto",
        "label": "desk",
    }
    async with serving() as (client, calls):
        caller = Caller(opus_packets(TONE[:48000]), loopback=True)

        class Authenticator:
            async def answer(self, text: str) -> str:
                body = {"type": "offer", "sdp": text, **about}
                async with client.post("/offer", json=body) as response:
                    return str((await response.json())["sdp"])

        try:
            await caller.dial(Authenticator())
        finally:
            await caller.close()
        (call,) = calls.all()
        assert call.label == "desk" and call.settings.keyterms == ("Dickens",)
        assert call.settings.update_ms == 250
        assert call.turn.end_timeout_ms == 900


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_call_s=0.5), "longest call reached"),
        (Limits(idle_s=0.5), "idle"),
    ],
)
async def test_a_call_ends_at_its_limits(limits: Limits, reason: str) -> None:
    async with serving(limits=limits) as (client, calls):
        caller = Caller(opus_packets(TONE[:9600]), loopback=True, mute=(0.1, 1000.0))
        try:
            with contextlib.suppress(CallerError):  # it may have ended before it was connected
                await caller.dial(str(client.make_url("/offer")))
            (call,) = calls.all()
            async with asyncio.timeout(60):
                await call.wait_closed()
            assert call.feed.history[-1].fields["reason"] == reason
        finally:
            await caller.close()


async def test_an_ended_call_lets_go_of_its_connection_and_is_forgotten_in_time() -> None:
    async with serving(limits=Limits(keep_ended_s=0)) as (client, calls), calling(client) as caller:
        entry = calls.entries[str(caller.call)]
        assert entry.peer is not None
        await caller.hang_up()
        await asyncio.wait_for(entry.life, 60)  # type: ignore[arg-type]
        assert entry.peer is None
        await refusal(await client.get(f"/calls/{caller.call}"), 404, "call_not_found")


async def test_only_listed_origins_may_read_the_answers() -> None:
    async with serving(origins=("https://my.page",)) as (client, _):
        good = await client.options("/offer", headers={"Origin": "https://my.page"})
        assert good.headers["Access-Control-Allow-Origin"] == "https://my.page"
        assert "Location" in good.headers["Access-Control-Expose-Headers"]
        bad = await client.options("/offer", headers={"Origin": "https://evil.page"})
        assert "Access-Control-Allow-Origin" not in bad.headers
        refused = await client.post("/offer", data=b"{", headers={"Origin": "https://my.page"})
        assert refused.headers["Access-Control-Allow-Origin"] == "https://my.page"


async def test_stopping_drains_every_call() -> None:
    async with serving() as (client, calls), calling(client) as first, calling(client) as second:
        await asyncio.sleep(0.3)
        await calls.close("server stops")
        await asyncio.sleep(0.2)
        for caller in (first, second):
            assert caller.received[-1][1]["type"] == "session.end"
            assert caller.received[-1][1]["reason"] == "server stops"
        await refusal(await client.post("/offer", json={"type": "offer", "sdp": "v=0\r\n"}), 503, "stopping")


async def test_metrics_count_what_the_ledgers_say() -> None:
    async with serving() as (client, _):
        for _ in range(2):
            async with calling(client) as caller:
                await asyncio.sleep(0.3)
                await caller.hang_up()
        listed = (await (await client.get("/calls")).json())["calls"]
        wanted = sum(call["ledger"]["0"]["sent"] for call in listed)
        for _ in range(2):  # asking twice counts nothing twice
            text = await (await client.get("/metrics")).text()
            values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert float(values["rtcstt_calls_total"]) == 2
            assert float(values["rtcstt_calls_open"]) == 0
            assert float(values['rtcstt_audio_ms_total{kind="sent"}']) == wanted
            assert float(values['rtcstt_packets_total{kind="lost"}']) == 0


async def test_calls_are_recorded_where_asked_for(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path / "calls")
    async with serving(recordings=recordings) as (client, calls):
        async with calling(client) as caller:
            await asyncio.sleep(0.5)
            await caller.hang_up()
            await asyncio.wait_for(calls.entries[str(caller.call)].life, 60)  # type: ignore[arg-type]
        recordings.dropped = 160
        text = await (await client.get("/metrics")).text()
        assert "rtcstt_recording_failures_total 0.0" in text and "rtcstt_not_recorded_ms_total 10.0" in text
    recordings.close()
    (audio,) = await asyncio.to_thread(list, (tmp_path / "calls").rglob("*.wav"))
    ledger = json.loads((audio.parent / "ledger.json").read_text())["ledger"]["0"]
    assert audio.stat().st_size == 44 + 32 * ledger["sent"] > 10_000


async def test_metrics_keep_what_forgotten_calls_counted() -> None:
    async with serving(limits=Limits(keep_ended_s=0)) as (client, calls):
        for number in (1, 2):
            async with calling(client) as caller:
                call = calls.find(str(caller.call))
                call.counts.end_delays_s += [0.1, 0.6, 9.0]
                call.command("nonsense")
                life = calls.entries[call.id].life
                assert life is not None
                await caller.hang_up()
                await asyncio.wait_for(life, 60)
            assert calls.all() == []
            text = await (await client.get("/metrics")).text()
            values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            delay = "rtcstt_turn_end_delay_seconds"
            found = [
                float(values[f'{delay}_bucket{{le="{bound}"}}']) for bound in ("0.25", "0.75", "6.0", "+Inf")
            ]
            assert found == [number, 2 * number, 2 * number, 3 * number]
            assert float(values[f"{delay}_sum"]) == pytest.approx(9.7 * number)
            assert float(values["rtcstt_errors_total"]) == number
            assert float(values["rtcstt_listeners"]) == 0


async def test_the_page_and_its_client_are_served() -> None:
    async with serving() as (client, _):
        page = await client.get("/")
        assert page.content_type == "text/html"
        assert "javascript" in (await client.get("/rtcstt.js")).content_type
        assert (await client.get("/rtcstt.d.ts")).status == 200
        assert (await client.get("/static/../app.py")).status == 404


def test_the_key_files_are_read_with_care(tmp_path: Path) -> None:
    from rtcstt.errors import ConfigError

    file = tmp_path / "tokens"
    file.write_text("# for the desk\n first token of it \n\nsecond token of it\n")
    authenticator = Authenticator.open(file)
    assert authenticator.admit("first token of it").permissions == frozenset(Permission)
    assert (
        authenticator.admit("second token of it").identity
        != authenticator.admit("first token of it").identity
    )
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="32 characters"):
        Authenticator.open(None, file)
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds nothing"):
        Authenticator.open(file, None)
    with pytest.raises(ConfigError, match="cannot be read"):
        Authenticator.open(tmp_path / "missing", None)
