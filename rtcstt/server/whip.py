"""What RFC 9725 (WHIP) asks of requests and answers, besides the call itself."""

from __future__ import annotations

from collections.abc import Mapping

from rtcstt.errors import CallerError
from rtcstt.webrtc.connection import IceServer

OFFER = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"


def check_offer(content_type: str, accept: str) -> None:
    _check_type(content_type, OFFER)
    if not _accepts(accept, OFFER):
        raise CallerError(406, "not_acceptable", "Not acceptable", f"The answer is {OFFER}.")


def check_fragment(content_type: str) -> None:
    _check_type(content_type, FRAGMENT)


def check_match(if_match: str | None, etag: str) -> None:
    """Section 4.3.1: a fragment says which ICE session it is for; ``*`` is for whichever there is."""
    if if_match is None:
        message = "Say in If-Match which ICE session the candidates are for."
        raise CallerError(428, "precondition_required", "Precondition required", message)
    if if_match.strip() != "*" and etag not in map(str.strip, if_match.split(",")):
        raise CallerError(412, "precondition_failed", "Precondition failed", "That is another ICE session.")


def ice_link(server: IceServer) -> str:
    """The Link header of a STUN or TURN server (section 4.6)."""
    link = f'<{server.url}>; rel="ice-server"'
    if server.username is not None:
        link += f"; username={_quoted(server.username)}; credential={_quoted(server.credential or '')}"
        link += '; credential-type="password"'
    return link


def ice_configuration(server: IceServer) -> Mapping[str, str]:
    """The same as a browser's RTCIceServer."""
    if server.username is None:
        return {"urls": server.url}
    return {"urls": server.url, "username": server.username, "credential": server.credential or ""}


def _quoted(text: str) -> str:
    """RFC 9110 section 5.6.4."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_type(given: str, wanted: str) -> None:
    if given != wanted:
        raise CallerError(415, "unsupported_media_type", "Unsupported media type", f"Send {wanted}.")


def _accepts(accept: str, kind: str) -> bool:
    """Whether an Accept header allows for it (RFC 9110 section 12.5.1)."""
    wanted = [one.split(";")[0].strip().lower() for one in accept.split(",")]
    return bool({kind, kind.split("/")[0] + "/*", "*/*"} & set(wanted))
