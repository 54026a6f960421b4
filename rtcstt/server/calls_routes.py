"""Calls over HTTP: the list, one, its events, its captions and transcripts."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

import segno
from aiohttp import web

from rtcstt import captions
from rtcstt.call import Call
from rtcstt.errors import CallerError
from rtcstt.events import AnyEvent
from rtcstt.fleet.mirrors import Mirror
from rtcstt.fleet.router import VIEW
from rtcstt.http.access import Grant, Permission
from rtcstt.http.bodies import parse_object, read_body
from rtcstt.http.giving_way import GivingWay
from rtcstt.http.guard import GRANT, Route
from rtcstt.server.context import Context
from rtcstt.webrtc.peer import Peer
from rtcstt.wire import bad_request

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0  # readers notice by it that the server is gone, and it that a reader is
UNREAD_S = 60.0  # a listener who reads nothing for so long is let go
MAX_LISTENERS = 1000
MAX_SHARE = 2048  # bytes
AT_ONCE = 500  # events that are rendered without a thread
_TYPES = {
    "captions.vtt": "text/vtt",
    "captions.srt": "application/x-subrip",
    "transcript.txt": "text/plain",
    "transcript.json": "application/json",
}


class CallsRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context

    def table(self) -> list[Route]:
        listen = partial(Route, method="GET", permission=Permission.LISTEN)
        share = partial(Route, method="POST", permission=Permission.LISTEN, summary="A link to read it along")
        hang_up = partial(Route, method="DELETE", permission=Permission.PUBLISH, summary="Hang up")
        return [
            listen(path="/calls", handler=self.list_calls, summary="The calls"),
            listen(path="/calls/{id}", handler=self.show_call, summary="A call, and its words"),
            hang_up(path="/calls/{id}", handler=self.delete_call),
            hang_up(path="/whip/{id}", handler=self.delete_call),
            listen(path="/calls/{id}/events", handler=self.events, summary="Its events"),
            share(path="/calls/{id}/share", handler=self.share),
            listen(path="/calls/{id}/{name}", handler=self.text, summary="Its captions and transcripts"),
        ]

    async def list_calls(self, request: web.Request) -> web.StreamResponse:
        texts, others = [], GivingWay()
        for call in self._context.listed(request):
            texts.append(_shown(call))
            await others.turn()
        text = f'{{"calls": [{", ".join(texts)}], "complete": true, "missing": []}}'
        return web.Response(text=text, content_type="application/json")

    async def show_call(self, request: web.Request) -> web.StreamResponse:
        call = self._context.found(request)
        entry = self._context.calls.entries.get(call.id)
        peer = entry.peer if entry is not None and isinstance(call, Call) else None
        return await _details(call, request[GRANT], peer)

    async def delete_call(self, request: web.Request) -> web.StreamResponse:
        if VIEW in request:  # it has ended, elsewhere
            return await _details(self._context.found(request), request[GRANT])
        call = self._context.find(request)
        await self._context.calls.hang_up(call.id)
        return await _details(call, request[GRANT])

    async def share(self, request: web.Request) -> web.StreamResponse:
        """`POST /calls/ID/share` with `{"page": URL}`, the URL of `/watch/ID` as the browser knows it: where
        tokens are in use the same with one that is for reading this call alone; and its QR code."""
        call = self._context.found(request)
        page = parse_object(await read_body(request, MAX_SHARE)).get("page")
        if not isinstance(page, str) or not _is_page_of(page, call.id):
            raise bad_request(f"page must be the URL of /watch/{call.id}, without a query.")
        token = self._context.guard.authenticator.reading_token(request[GRANT], call.id)
        url = page if token is None else f"{page}?access_token={token}"
        image = io.BytesIO()
        segno.make(url, error="l").save(image, kind="svg", border=2, omitsize=True, xmldecl=False)
        return web.json_response({"url": url, "qr": image.getvalue().decode()})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the history after `Last-Event-ID`, then live; ends after `session.end`."""
        call = self._context.found(request)
        if len(self._context.following) >= MAX_LISTENERS:
            raise CallerError(
                503, "too_many_listeners", "Too many listeners", "Try again later.", retry_after_s=10
            )
        last = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or "-1"
        if not re.fullmatch(r"-?[0-9]{1,9}", last):
            raise bad_request("Last-Event-ID is the seq of an event.")
        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        with self._context.followed():
            await _stream(call, int(last), response)
        return response

    async def text(self, request: web.Request) -> web.StreamResponse:
        """Captions and transcripts, at any time of the call."""
        call, name = self._context.found(request), request.match_info["name"]
        render = captions.RENDERERS.get(name)
        if render is None:
            raise CallerError(404, "not_found", "Not found", f"A call has {', '.join(captions.RENDERERS)}.")
        if name == "transcript.txt" and isinstance(call, Mirror) and call.is_orphan:
            render = partial(captions.text, open_too=True)
        history = call.feed.history
        if len(history) < AT_ONCE:
            text = render(history)
        else:  # in a thread, since calls must not wait for it
            text = await asyncio.to_thread(render, history)
        return web.Response(text=text, content_type=_TYPES[name], charset="utf-8")


def _is_page_of(url: str, id: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_plain = (
        parts.scheme in ("http", "https") and bool(parts.netloc) and not (parts.query or parts.fragment)
    )
    return is_plain and parts.path.endswith(f"/watch/{id}")


def _shown(call: Call | Mirror) -> str:
    """A call in the list. Whatever one of them holds, the others are shown."""
    try:
        return json.dumps(call.snapshot(), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        log.exception("call %s cannot be shown", call.id)
        return json.dumps({"call": call.id, "state": call.state})


async def _details(call: Call | Mirror, grant: Grant, peer: Peer | None = None) -> web.Response:
    """A call as `GET /calls/ID` shows it: numbers, also of its present connection (``peer``), and, to those
    who may know, what was said."""
    shown = dict[str, object](call.snapshot())
    if peer is not None:
        shown["connection"] = peer.stats()
    if grant.may_listen:
        history = call.feed.history
        render = partial(_turns, history)
        shown["turns"] = render() if len(history) < AT_ONCE else await asyncio.to_thread(render)
    return web.json_response(shown, dumps=partial(json.dumps, allow_nan=False))


def _turns(history: Sequence[AnyEvent]) -> list[captions.TurnEntry]:
    return captions.transcript(history)["turns"]


async def _stream(call: Call | Mirror, after: int, response: web.StreamResponse) -> None:
    """Write events as they come, and a comment for each second without one: who reads knows that the server
    is there, and proxies keep the connection open."""
    feed = aiter(call.feed.subscribe(after=after))
    following: asyncio.Task[AnyEvent | None] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(feed, None))
            await asyncio.wait({following}, timeout=HEARTBEAT_S)
            if not following.done():
                await _write(response, b": still here\n\n")
                continue
            event, following = following.result(), None
            if event is None:
                break
            text = f"id: {event.seq}\nevent: message\ndata: {event.to_json()}\n\n"
            await _write(response, text.encode())
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        pass  # the listener has left, or does not read
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(UNREAD_S):
        await response.write(data)
