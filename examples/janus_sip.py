"""Answer SIP calls with Janus as the gateway, and let rtcstt transcribe them.

    rtcstt serve
    SIP_SECRET=... python examples/janus_sip.py sip:captions@pbx.example --proxy sip:pbx.example

Janus registers the account and speaks SIP and RTP; it offers each call as WebRTC. This program takes the
offer to rtcstt and brings the answer back. It runs until Janus leaves or refuses: let systemd restart it.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

KEEPALIVE_S = 25  # Janus forgets a session that says nothing for a minute


class Line:
    """A handle of Janus's SIP plugin: it takes one call after the other."""

    def __init__(
        self, http: aiohttp.ClientSession, janus: aiohttp.ClientWebSocketResponse, rtcstt: str
    ) -> None:
        self.http = http
        self.janus = janus
        self.rtcstt = rtcstt
        self.ids: dict[str, int] = {}
        self.call: str | None = None

    async def register(self, **account: Any) -> int:
        """Returns what other lines need to join it."""
        await self.send("create")
        self.ids["session_id"] = (await self.janus.receive_json())["data"]["id"]
        await self.send("attach", plugin="janus.plugin.sip")
        self.ids["handle_id"] = (await self.janus.receive_json())["data"]["id"]
        await self.ask("register", **account)
        async for event, _ in self.events():
            if event["event"] == "registered":
                return int(event["master_id"])
            if event["event"] == "registration_failed":
                raise SystemExit(f"Janus could not register: {event['code']} {event['reason']}")
        raise SystemExit("Janus ended the session")

    async def answer_calls(self) -> None:
        async for event, offer in self.events():
            if event["event"] == "incomingcall":
                await self.answer(event["username"], offer)
            elif event["event"] == "hangup" and self.call:
                # Without it rtcstt would wait for the caller to come back.
                async with self.http.delete(f"{self.rtcstt}/calls/{self.call}"):
                    print(f"{self.call} ended", flush=True)
                self.call = None

    async def answer(self, caller: str, offer: str | None) -> None:
        body = {"type": "offer", "sdp": offer, "label": caller}
        async with self.http.post(f"{self.rtcstt}/offer", json=body) as response:
            answer = await response.json()
        if response.status == 200:
            self.call = answer["call"]
            print(f"{self.call} from {caller}", flush=True)
            await self.ask("accept", answer["sdp"])
        else:
            print(f"declined {caller}: {answer['message']}", flush=True)
            await self.ask("decline", code=486 if response.status in (429, 503) else 488)

    async def ask(self, request: str, answer: str | None = None, **fields: Any) -> None:
        jsep = {"jsep": {"type": "answer", "sdp": answer}} if answer else {}
        await self.send("message", body={"request": request, **fields}, **jsep)

    async def send(self, janus: str, **fields: Any) -> None:
        await self.janus.send_json({"janus": janus, "transaction": "-", **self.ids, **fields})

    async def events(self) -> AsyncIterator[tuple[dict[str, Any], str | None]]:
        """What the SIP plugin reports, each with the offer that came with it."""
        while True:
            try:
                message = await self.janus.receive_json(timeout=KEEPALIVE_S)
            except TimeoutError:
                await self.send("keepalive")
                continue
            data = message.get("plugindata", {}).get("data", {})
            if message["janus"] in ("error", "timeout"):
                raise SystemExit(f"Janus: {message}")
            if "error" in data:  # a caller who was gone before they were answered
                print(f"Janus: {data['error']}", flush=True)
            elif "result" in data:
                yield data["result"], message.get("jsep", {}).get("sdp")


async def main(args: argparse.Namespace) -> None:
    token = os.environ.get("RTCSTT_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    account: dict[str, Any] = {
        "username": args.account,
        "proxy": args.proxy,
        "secret": os.environ.get("SIP_SECRET", "none"),
    }
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.TaskGroup() as lines:
        for _ in range(args.lines):
            line = Line(http, await http.ws_connect(args.janus, protocols=("janus-protocol",)), args.rtcstt)
            master = await line.register(**account)
            account = {"type": "helper", "username": args.account, "master_id": master}
            lines.create_task(line.answer_calls())
        print(f"{args.account} takes {args.lines} calls at a time", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("account", help="sip:USER@DOMAIN; its password is taken from $SIP_SECRET")
parser.add_argument("--proxy", required=True, help="of the registrar: sip:HOST:PORT")
parser.add_argument("--lines", type=int, default=4, help="calls at a time (4)")
parser.add_argument("--janus", default="ws://127.0.0.1:8188")
parser.add_argument("--rtcstt", default="http://127.0.0.1:8080", help="token, if any, from $RTCSTT_TOKEN")

if __name__ == "__main__":
    asyncio.run(main(parser.parse_args()))
