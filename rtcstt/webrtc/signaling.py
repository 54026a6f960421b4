"""The signaling of a server, as a caller uses it: ``/offer``, ``/whip``, or a peer in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp

from rtcstt.errors import CallerError, ConfigError

REQUEST_TIMEOUT_S = 30.0


class Answering(Protocol):
    """What answers offers without a network, such as `peer.Peer`."""

    async def answer(self, text: str) -> str: ...


class SignalingClient(Protocol):
    """One call's signalling. ``call`` is its id, once answered, where the server told it. ``drains``: the
    other end knows of calls, so that what is due can be waited for when hanging up. ``resumes``: an offer
    after the first one is for the same call."""

    call: str | None

    @property
    def drains(self) -> bool: ...

    @property
    def resumes(self) -> bool: ...

    async def offer(self, sdp: str) -> str:
        """The answer to an offer; `CallerError` with the server's refusal."""

    def events(self, after: int = -1) -> AsyncIterator[str]:
        """The call's events by HTTP, each as JSON, for callers without a data channel; those with a number
        above ``after``."""

    async def hang_up(self) -> None: ...

    async def close(self) -> None: ...


def open_signaling(
    target: str | Answering, *, token: str | None = None, mode: str | None = None
) -> SignalingClient:
    if not isinstance(target, str):
        return LocalSignaling(target)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{target} is not the URL of a server; try http://127.0.0.1:8080/offer")
    return HttpSignaling(target, token=token, mode=mode, whip="whip" in parts.path.split("/"))


class LocalSignaling:
    def __init__(self, peer: Answering) -> None:
        self._peer = peer
        self.call: str | None = None
        self.drains = True
        self.resumes = False

    async def offer(self, sdp: str) -> str:
        return await self._peer.answer(sdp)

    async def events(self, after: int = -1) -> AsyncIterator[str]:
        for text in list[str]():  # they come over the data channel
            yield text

    async def hang_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


class HttpSignaling:
    """`POST /offer` with JSON, or `POST /whip` with bare SDP (RFC 9725)."""

    def __init__(self, url: str, *, token: str | None, mode: str | None, whip: bool) -> None:
        self.call: str | None = None
        self._url = url
        self._mode = mode
        self._whip = whip
        self._resource = url
        self._secret: str | None = None
        self._is_ours = False  # WHIP of a server that resumes calls
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S)
        self._http = aiohttp.ClientSession(headers=headers, timeout=timeout)

    @property
    def drains(self) -> bool:
        return self.call is not None

    @property
    def resumes(self) -> bool:
        return self._secret is not None or self._is_ours

    async def offer(self, sdp: str) -> str:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await (self._offer_whip(sdp) if self._whip else self._offer_json(sdp))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self._url, error) from error

    async def _offer_json(self, sdp: str) -> str:
        body = {"sdp": sdp, "type": "offer", **({"mode": self._mode} if self._mode else {})}
        if self._secret is not None:
            body |= {"call": str(self.call), "resume": self._secret}
        async with self._http.post(self._url, json=body) as response:
            await _check(response, 200)
            answer = await response.json()
        if "call" in answer:  # others answer {"sdp", "type"} alone, as aiortc's examples do
            self.call = str(answer["call"])
            self._resource = self._call_url()
            self._secret = str(answer["resume"]) if "resume" in answer else None
        return str(answer["sdp"])

    async def _offer_whip(self, sdp: str) -> str:
        headers = {"Content-Type": "application/sdp"}
        params = {"call": str(self.call)} if self._is_ours else {}
        async with self._http.post(self._url, data=sdp, headers=headers, params=params) as response:
            await _check(response, 201)
            answer = await response.text()
        self._is_ours = "urn:rtcstt:events" in "".join(response.headers.getall("Link", ()))
        self._resource = urljoin(self._url, response.headers.get("Location", ""))
        self.call = self._resource.rstrip("/").rsplit("/", 1)[-1]
        return answer

    async def events(self, after: int = -1) -> AsyncIterator[str]:
        if self.call is None:
            return
        headers = {"Last-Event-ID": str(after)} if after >= 0 else {}
        try:
            async with self._http.get(self._call_url() + "/events", headers=headers) as response:
                await _check(response, 200)
                data: list[str] = []
                async for raw in response.content:
                    line = raw.decode().rstrip("\r\n")
                    if line.startswith("data:"):
                        data.append(line[5:].lstrip())
                    elif not line and data:
                        yield "\n".join(data)
                        data = []
        except aiohttp.ClientError as error:
            raise _unreachable(self._url, error) from error

    async def hang_up(self) -> None:
        async with self._http.delete(self._resource):
            pass

    async def close(self) -> None:
        await self._http.close()

    def _call_url(self) -> str:
        root = self._url.partition("?")[0].rsplit("/whip" if self._whip else "/offer", 1)[0]
        return f"{root}/calls/{self.call}"


def _unreachable(url: str, error: Exception) -> CallerError:
    message = f"{url}: {error or 'no answer'}"
    return CallerError(502, "unreachable", "The server cannot be reached", message)


async def _check(response: aiohttp.ClientResponse, status: int) -> None:
    if response.status == status:
        return
    body: dict[str, object] = {}
    try:
        body = json.loads(await response.text())
    except ValueError:
        pass
    raise CallerError(
        response.status,
        str(body.get("error_code", "refused")),
        str(body.get("title", "The server refused")),
        str(body.get("message", f"{response.url}: HTTP {response.status}")),
    )
