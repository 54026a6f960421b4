"""What gateways say of the audio that they send, in each vendor's own words, and their messages.

Read are Twilio, SignalWire, Telnyx, Plivo, Exotel, Bandwidth, Voximplant and Wavix (JSON with base64 audio),
Vonage, jambonz `listen` and its speech protocol, FreeSWITCH's mod_audio_stream and Asterisk's chan_websocket
(binary audio after a text that states it). A core: no I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from rtcstt.errors import CallerError, bad_request
from rtcstt.http.bodies import checked_metadata
from rtcstt.media.dtmf import KEYS
from rtcstt.server.stated_formats import Stated, media_type
from rtcstt.wire import strict_json

NO_OBJECT = "no_json_object"
MAX_ID = 128  # characters of a gateway's own id of a call
MAX_HELD = 4  # messages that wait for an earlier one of their track
MAX_MISSING = 2  # between those that wait; where there are more all tracks are numbered together
MAX_SKIPPED = 8  # times that a number did not come; then they count something else
RECENT = 64  # messages of a track that are known again

_BEGINS = ("BEGIN", "START")  # of a key that is told again at its end
_CALL_IDS = ("callSid", "call_sid", "callId", "call_id", "call_control_id", "call_session_id", "callUUID")
_IDS = (
    *_CALL_IDS,
    *("streamSid", "stream_sid", "streamId", "stream_id", "accountSid", "account_sid", "accountId"),
    *("applicationSid", "user_id", "client_state", "from", "to", "direction", "connection_id", "channel"),
    *("channel_id",),
)
_CONTENT_TYPE = re.compile(r"content[-_ ]?type", re.IGNORECASE)
_COMMANDS = ("config", "name", "finalize", "close")
_PAYLOAD = re.compile(r'"payload"(?:\s*:\s*"([^"]*))?')
_TRACK = re.compile(r"[A-Za-z0-9_.\-]{1,32}")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.\-]")


@dataclass(frozen=True, slots=True)
class About:
    """Whose audio it is."""

    label: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """The audio is stated. ``parameters`` are the caller's own, with their secrets. ``id``: the gateway's own
    for the call and its tracks, by which it comes back; None where it states none. ``tag``: of one of several
    streams in a connection. ``refused``: why nothing is known of whose audio it is."""

    stated: Stated
    about: About
    tracks: int = 1
    parameters: Mapping[str, object] = field(default_factory=dict)
    id: str | None = None
    tag: str | None = None
    refused: CallerError | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """Some audio. ``track`` is None where the message names none; ``chunk`` numbers those of a track."""

    data: bytes
    track: str | None = None
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message with audio that cannot be read, and why. ``size``: bytes of audio that it seems to hold, 0
    where that is not known."""

    problem: str
    track: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    digit: str
    duration_ms: int
    track: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """``tag``: of the stream that ends; None: all do."""

    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A message that is known to be of no concern, or a command of ours; with its object, where it is one."""

    value: Mapping[str, object] = field(default_factory=dict)


Message = Start | Media | Unreadable | Key | Stop | Other


def media_message(text: str) -> Message:
    """A message of a media stream (JSON with an ``event``). Raises `CallerError` 400 naming the field that is
    not understood; what holds audio is `Unreadable` then."""
    try:
        return _media_message(_object(text))
    except CallerError as error:
        if (payload := _PAYLOAD.search(text)) is None:
            raise
        return Unreadable(error.message, size=len(payload[1] or "") * 3 // 4)


def _media_message(value: Mapping[str, object]) -> Message:
    event = value.get("event", value.get("eventType"))
    if not isinstance(event, str):
        raise bad_request("event is missing.")
    match event.lower():
        case "start":
            try:
                return _start(value)
            except CallerError as error:
                where = "" if error.message.startswith("start") else "start."
                raise bad_request(f"{where}{error.message}") from None
        case "media":
            return _media(value)
        case "stop" | "closed":
            stop = value.get("stop")
            return Stop(track_name(stop.get("tag")) if isinstance(stop, dict) else None)
        case name if "dtmf" in name:
            return Other() if name.upper().endswith(_BEGINS) else _key(value)
    return Other(value)


def pcm_message(text: str) -> Message:
    """A text beside binary audio: what states it, a key, or a command. Raises `CallerError` 400 as above."""
    if text.startswith(("MEDIA_START", "DTMF")):
        return _asterisk(text)
    value = _object(text)
    event = str(value.get("event", ""))
    if event == "MEDIA_START":
        return _asterisk_start({str(name): str(given) for name, given in value.items()})
    if "dtmf" in event.lower():
        return Other() if event.upper().endswith(_BEGINS) else _key(value)
    if event.lower() in ("start", "media") and isinstance(value.get(event.lower()), dict):
        raise bad_request(f"event is {event.lower()!r}: audio in JSON messages is taken at /media-stream.")
    if "type" in value and not event:
        if value["type"] == "stop":  # of jambonz' speech protocol
            return Other({"type": "close"})
        if value["type"] in _COMMANDS or (stated := Stated.beside(value)) == Stated():
            return Other(value)
        return _first_text(stated, value)
    return _first_text(_stated_first(value, event), value, is_metadata=True)


def _first_text(stated: Stated, value: Mapping[str, object], *, is_metadata: bool = False) -> Start:
    """``is_metadata``: all of it is the call's."""
    try:
        about = _about(value)
        return Start(stated, About(about.label, checked_metadata(value)) if is_metadata else about)
    except CallerError as error:  # what it states of the audio counts all the same
        return Start(stated, About(), refused=error)


def _stated_first(value: Mapping[str, object], event: str) -> Stated:
    if event.lower().startswith("websocket:"):  # Vonage: the rest are the application's own headers
        value = {name: given for name, given in value.items() if re.fullmatch(_CONTENT_TYPE, name)}
    return Stated.beside(value)


class ChunkOrder:
    """A track's messages in the order of their numbers, as far as these count them one by one; one that is
    sent again is left out, as far as each has its own."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, bytes] = {}
        self._given: OrderedDict[int, int] = OrderedDict()  # a number: the hash of its data
        self._counts = self._names = True
        self.skipped = 0
        "Numbers that did not come in time."
        self.repeated = 0
        "Messages that came again."

    def push(self, media: Media) -> Iterator[bytes]:
        """What is due, oldest first."""
        number, data = media.chunk, media.data
        if number is None or not self._names:
            yield data
            return
        known = hash(self._held[number]) if number in self._held else self._given.get(number)
        if known == hash(data):
            self.repeated += 1
        elif known is not None:  # the same for others: it is no number of theirs
            self._names = False
            yield from self.flush()
            yield data
        elif not self._counts or self._next is None or number < self._next:
            yield self._noted(number, data)
        else:
            self._held[number] = data
            yield from self._due()

    def flush(self) -> Iterator[bytes]:
        """What is held, for the end."""
        for number in sorted(self._held):
            yield self._noted(number, self._held.pop(number))

    def _due(self) -> Iterator[bytes]:
        while self._counts and (self._next in self._held or len(self._held) > MAX_HELD):
            if self._next in self._held:
                yield self._noted(self._next, self._held.pop(self._next))
            else:
                self._skip()
        if not self._counts:
            yield from self.flush()

    def _skip(self) -> None:
        """The next number does not come."""
        first, last = min(self._held), max(self._held)
        missing = last - first + 1 - len(self._held)
        self.skipped += 1
        self._counts = missing <= MAX_MISSING and self.skipped < MAX_SKIPPED
        self._next = first

    def _noted(self, number: int, data: bytes) -> bytes:
        self._next = max(number + 1, self._next or 0)
        self._given[number] = hash(data)
        if len(self._given) > RECENT:
            self._given.popitem(last=False)
        return data


def track_name(given: object) -> str | None:
    """`inbound_track` is `inbound`; any other name stays as it is, as far as names of tracks can be so."""
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        return None
    text = str(given)[:500]
    if not _TRACK.fullmatch(text):  # those of two tracks are to stay two
        text = f"{_NO_NAME.sub('_', text)[:20]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text.removesuffix("_track") or text


def _object(text: str) -> dict[str, object]:
    try:
        return strict_json.load_object(text)
    except ValueError:
        raise bad_request("A text message is no JSON object.", NO_OBJECT) from None


def _start(value: Mapping[str, object]) -> Start:
    start = value.get("start", value.get("metadata") if "eventType" in value else _flat(value))
    if not isinstance(start, dict):
        raise bad_request("start is no object.")
    outside = {name: given for name, given in value.items() if name not in ("start", "metadata")}
    stated = Stated.beside(start, "start").agreeing(Stated.beside(outside), "the start message")
    named = start.get("tracks")
    listed = [one for one in named[:16] if isinstance(one, dict)] if isinstance(named, list) else []
    for one in listed:
        stated = stated.agreeing(Stated.beside(one, "start.tracks"), "start.tracks")
    told = (
        [one.get("name") if isinstance(one, dict) else one for one in named[:16]]
        if isinstance(named, list)
        else []
    )
    names = {track_name(one) for one in told}
    tracks = max(1, len(names - {None}), stated.channels or 1)
    ids = {**outside, **start}
    about = _about(ids)
    call = next((str(v)[:MAX_ID] for n in _CALL_IDS if isinstance(v := ids.get(n), str) and v), None)
    id = None if call is None else " ".join([call, *sorted(str(name) for name in names)])
    return Start(stated, about, tracks, _parameters(ids)[1], id, track_name(start.get("tag")))


def _flat(value: Mapping[str, object]) -> Mapping[str, object] | None:
    """Some send what a start says beside its ``event``."""
    return value if any(name in value for name in _IDS) else None


def _media(value: Mapping[str, object]) -> Media | Unreadable:
    media = value.get("media", value if "payload" in value else None)
    if not isinstance(media, dict):
        return Unreadable("media is no object.")
    named = next((m[n] for m in (media, value) for n in ("track", "tag") if m.get(n) is not None), None)
    track, payload = track_name(named), media.get("payload")
    if not isinstance(payload, str):
        return Unreadable("media.payload is missing.", track)
    try:
        data = _base64(payload)
    except (binascii.Error, ValueError):
        return Unreadable("media.payload is no base64.", track, len(payload) * 3 // 4)
    chunk = str(media.get("chunk", ""))
    number = int(chunk) if chunk.isascii() and chunk.isdecimal() and len(chunk) < 12 else None
    return Media(data, track, number)


def _base64(text: str) -> bytes:
    """RFC 4648, section 4 or 5, with or without padding and line breaks."""
    text = "".join(text.split()).rstrip("=")
    altchars = b"-_" if "-" in text or "_" in text else None
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars, validate=True)


def _key(value: Mapping[str, object]) -> Key:
    told = value.get("dtmf")
    told = told if isinstance(told, dict) else {"digit": told} if isinstance(told, str) else value
    digit = str(told.get("digit", value.get("digit", ""))).upper()
    if digit not in KEYS or len(digit) != 1:
        raise bad_request("dtmf.digit is no key.")
    durations = (told.get(name, value.get(name)) for name in ("duration", "duration_ms"))
    duration = next((str(each) for each in durations if each is not None), "0")
    is_number = duration.isascii() and duration.isdecimal() and len(duration) < 9
    return Key(digit, int(duration) if is_number else 0, track_name(told.get("track")))


def _asterisk(text: str) -> Message:
    """chan_websocket's plain texts: a name, then ``field:value`` words."""
    name, *words = text.split(" ")
    said = dict(word.split(":", 1) for word in words if ":" in word)
    if name == "MEDIA_START":
        return _asterisk_start(said)
    return Other() if name.endswith(_BEGINS) else _key(said) if "digit" in said else Other()


def _asterisk_start(said: Mapping[str, str]) -> Start:
    """The format is a codec of Asterisk's: ulaw, alaw, slin and slin with a rate."""
    stated = media_type("format", said["format"]) if "format" in said else Stated()
    if stated.sample_rate is None:
        stated = replace(stated, sample_rate=8000)
    return Start(stated.agreeing(Stated(channels=1), "MEDIA_START"), _about(said))


def _about(value: Mapping[str, object]) -> About:
    ids = {name: text[:200] for name in _IDS if isinstance(text := value.get(name), str) and text}
    metadata: dict[str, object] = {**ids}
    name, parameters = _parameters(value)
    shown = {
        str(key)[:64]: str(each)[:500]
        for key, each in list(parameters.items())[:32]
        if key != "access_token" and isinstance(each, str | int | float | bool)
    }
    if shown:
        metadata[name] = shown
    checked_metadata(metadata)
    label = shown.get("label") or next((ids[name] for name in _CALL_IDS if name in ids), None)
    return About(label[:200] if label else None, metadata)


_PARAMETERS = ("customParameters", "custom_parameters", "extra_headers", "extraHeaders", "streamParams")


def _parameters(value: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """The caller's own, and by which name. Plivo has them as a text: JSON, or ``name=value;name=value``; and
    puts ``X-PH-`` before each name."""
    for name in _PARAMETERS:
        given = value.get(name)
        if isinstance(given, str):
            given = _pairs(given[:10_000])
        if isinstance(given, dict) and given:
            return name, {str(key).removeprefix("X-PH-"): one for key, one in given.items()}
    return "", {}


def _pairs(text: str) -> dict[str, object]:
    try:
        return strict_json.load_object(text)
    except ValueError:
        pairs = (pair.partition("=") for pair in re.split(r"[;,]", text))
        return {key.strip(): one.strip() for key, sign, one in pairs if sign}


def reason(error: CallerError) -> bytes:
    """For the closing of a WebSocket, which has room for 123 bytes (RFC 6455 section 5.5)."""
    return error.message.encode()[:120].decode("utf-8", "ignore").encode()
