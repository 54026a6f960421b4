"""What gateways say of the audio that they send, in each vendor's own words, and their messages.

Read are Twilio, SignalWire, Telnyx, Plivo and Exotel (JSON with base64 audio), Vonage, jambonz `listen`,
FreeSWITCH's mod_audio_stream and Asterisk's chan_websocket (binary audio after a text that states it).
What is stated is taken, or refused naming the field; nothing is guessed. A core: no I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

from rtcstt.errors import CallerError, bad_request
from rtcstt.http.bodies import checked_metadata
from rtcstt.media.dtmf import KEYS
from rtcstt.wire import strict_json

SAMPLE_RATES = (8000, 96000)
ENCODINGS = ("pcm_s16le", "pcm_mulaw", "pcm_alaw")
NO_OBJECT = "no_json_object"
MAX_ID = 128  # characters of a gateway's own id of a call
MAX_HELD = 4  # messages that wait for an earlier one of their track

# Names without "audio/" and "x-", in lower case. Exotel says how its linear samples are wrapped: in base64.
_NAMES = {
    **dict.fromkeys(("mulaw", "ulaw", "mu-law", "pcmu", "g711u", "g711_ulaw", "pcm_mulaw"), "pcm_mulaw"),
    **dict.fromkeys(("alaw", "a-law", "pcma", "g711a", "g711_alaw", "pcm_alaw"), "pcm_alaw"),
    **dict.fromkeys(("l16", "slin", "raw/slin", "linear16", "pcm", "pcm16", "s16le", "base64"), "pcm_s16le"),
    "pcm_s16le": "pcm_s16le",
}
# A URL's parameters, without case and without what stands between words
_IN_QUERY = {
    **dict.fromkeys(("encoding", "codec", "format", "contenttype", "mediaformat"), "encoding"),
    **dict.fromkeys(("samplerate", "rate", "samplingrate", "samplehz"), "sample_rate"),
    "channels": "channels",
}
_SLIN = {"12": 12000, "16": 16000, "24": 24000, "32": 32000, "44": 44100, "48": 48000, "96": 96000}
_CODECS = {*_NAMES, "opus", "g722", "g729", "gsm", "ilbc", "amr", "amr-wb", "speex", "mp3", "aac"}
_BEGINS = ("BEGIN", "START")  # of a key that is told again at its end
_MIXES = {"mono": 1, "mixed": 1, "stereo": 2}  # jambonz'
_CALL_IDS = ("callSid", "call_sid", "callId", "call_control_id", "call_session_id", "callUUID")
_IDS = (
    *_CALL_IDS,
    *("streamSid", "stream_sid", "streamId", "stream_id", "accountSid", "account_sid", "accountId"),
    *("applicationSid", "user_id", "client_state", "from", "to", "direction", "connection_id", "channel"),
    *("channel_id",),
)
_AT_RATE = re.compile(r"([^@]+)@(\d+)h?", re.IGNORECASE)
_PAYLOAD = re.compile(r'"payload"(?:\s*:\s*"([^"]*))?')
_TRACK = re.compile(r"[A-Za-z0-9_.\-]{1,32}")


@dataclass(frozen=True, slots=True)
class Form:
    """What the bytes of a fork are. Two channels are interleaved, and are two speakers."""

    encoding: str = "pcm_s16le"
    sample_rate: int = 8000
    channels: int = 1

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Form:
        """Raises `CallerError` 400 when it is none of those that are taken."""
        return Stated.of_query(query).form()

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return self.channels * (2 if self.encoding == "pcm_s16le" else 1)

    def duration_s(self, size: int) -> float:
        """Of so many bytes."""
        return size / (self.frame_bytes * self.sample_rate)


@dataclass(frozen=True, slots=True)
class Stated:
    """What was said of a form, here and there; None: nothing yet."""

    encoding: str | None = None
    sample_rate: int | None = None
    channels: int | None = None

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Stated:
        """A URL's parameters, by any of the names that gateways have for them. Raises `CallerError` 400
        naming the one that is not taken, or does not agree with another."""
        found = cls()
        for name, given in query.items():
            match _meaning_of(name):
                case "encoding":
                    found = found.agreeing(_media_type(name, given), name)
                case "sample_rate":
                    found = found.agreeing(cls(sample_rate=_rate(name, given)), name)
                case "channels":
                    found = found.agreeing(cls(channels=_channels(name, given)), name)
        return found

    @classmethod
    def of_media_format(cls, stated: Mapping[str, object], where: str) -> Stated:
        """``{"encoding", "sampleRate" or "sample_rate", "channels"}``, any of them left out."""
        found = cls()
        for name, given in stated.items():
            match _meaning_of(name):
                case "encoding":
                    found = found.agreeing(_media_type(f"{where}.{name}", given), where)
                case "sample_rate":
                    found = found.agreeing(cls(sample_rate=_rate(f"{where}.{name}", given)), where)
                case "channels":
                    found = found.agreeing(cls(channels=_channels(f"{where}.{name}", given)), where)
        return found

    def agreeing(self, other: Stated, where: str) -> Stated:
        """Both together; `CallerError` 400 naming the field in which they differ."""
        merged = self
        for name in (f.name for f in fields(self)):
            mine, its = getattr(self, name), getattr(other, name)
            if mine is not None and its is not None and mine != its:
                raise bad_request(f"{name} is {its} in {where}, but was {mine} before.")
            if its is not None:
                merged = replace(merged, **{name: its})
        return merged

    def form(self, default: Form = Form()) -> Form:  # noqa: B008
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(default, **said)


@dataclass(frozen=True, slots=True)
class About:
    """Whose audio it is."""

    label: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """The audio is stated. ``parameters`` are the caller's own, with their secrets. ``id``: the gateway's own
    for the call and its tracks, by which it comes back; None where it states none."""

    stated: Stated
    about: About
    tracks: int = 1
    parameters: Mapping[str, object] = field(default_factory=dict)
    id: str | None = None


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
    pass


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
    event = value.get("event")
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
            return Stop()
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
        return Other(value)
    label = _about(value).label
    stated = _stated_in(value).agreeing(_stated_beside(value), "the first message")
    return Start(stated, About(label, checked_metadata(value)))


class ChunkOrder:
    """A track's messages in the order of their numbers, as far as these count them one by one."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, bytes] = {}
        self._counts = True
        self.skipped = 0
        "Numbers that did not come in time."

    def push(self, media: Media) -> Iterator[bytes]:
        """What is due, oldest first."""
        number = media.chunk
        if number is None or not self._counts or self._next is None or number < self._next:
            yield media.data
            self._next = None if number is None else max(number + 1, self._next or 0)
            return
        self._held[number] = media.data
        while self._next in self._held:
            yield self._held.pop(self._next)
            self._next += 1
        if len(self._held) > MAX_HELD:
            self._counts = False  # they are numbered otherwise: by all tracks together, say
            self.skipped += 1
            yield from self.flush()

    def flush(self) -> Iterator[bytes]:
        """What is held, for the end."""
        for number in sorted(self._held):
            yield self._held[number]
        self._next = max([self._next or 0, *(number + 1 for number in self._held)])
        self._held.clear()


def track_name(given: object) -> str | None:
    """`inbound_track` is `inbound`; anything else that is a name stays as it is."""
    if not isinstance(given, str) or not _TRACK.fullmatch(given):
        return None
    return given.removesuffix("_track") or given


def _object(text: str) -> dict[str, object]:
    try:
        return strict_json.load_object(text)
    except ValueError:
        raise bad_request("A text message is no JSON object.", NO_OBJECT) from None


def _start(value: Mapping[str, object]) -> Start:
    start = value.get("start")
    if not isinstance(start, dict):
        raise bad_request("start is no object.")
    stated = Stated()
    for name in ("mediaFormat", "media_format"):
        if name in start:
            if not isinstance(start[name], dict):
                raise bad_request(f"start.{name} is no object.")
            stated = stated.agreeing(Stated.of_media_format(start[name], f"start.{name}"), f"start.{name}")
    stated = stated.agreeing(_stated_in(start), "start")
    named = start.get("tracks")
    names = {track_name(one) for one in named[:16]} if isinstance(named, list) else set()
    tracks = max(1, len(names - {None}), stated.channels or 1)
    ids = {**{name: value[name] for name in _IDS if name in value}, **start}
    parameters = next((v for n in _PARAMETERS if isinstance(v := start.get(n), dict)), {})
    call = next((str(v)[:MAX_ID] for n in _CALL_IDS if isinstance(v := ids.get(n), str) and v), None)
    id = None if call is None else " ".join([call, *sorted(str(name) for name in names)])
    return Start(stated, _about(ids), tracks, parameters, id)


def _media(value: Mapping[str, object]) -> Media | Unreadable:
    media = value.get("media")
    if not isinstance(media, dict):
        return Unreadable("media is no object.")
    track, payload = track_name(media.get("track")), media.get("payload")
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


def _stated_in(value: Mapping[str, object]) -> Stated:
    """Vonage's ``content-type``, jambonz' ``sampleRate`` and ``mixType``, beside other things."""
    stated = Stated()
    if "content-type" in value:
        stated = _media_type("content-type", value["content-type"])
    if "sampleRate" in value:
        rate = _rate("sampleRate", value["sampleRate"])
        stated = stated.agreeing(Stated(sample_rate=rate), "sampleRate")
    if "mixType" in value:
        mix = str(value["mixType"])[:20].lower()
        if mix not in _MIXES:
            raise bad_request(f"mixType is {mix!r}; it must be one of {', '.join(_MIXES)}.")
        stated = stated.agreeing(Stated(channels=_MIXES[mix]), "mixType")
    return stated


def _meaning_of(name: str) -> str | None:
    return _IN_QUERY.get(name.lower().replace("_", "").replace("-", ""))


def _stated_beside(value: Mapping[str, object]) -> Stated:
    """Of a first text that is somebody's own: a rate, channels, and an encoding; by other names, or with
    other values where no rate is stated, they mean something else there."""
    stated = Stated()
    for name in ("sample_rate", "sampleRate", "samplingRate"):
        if name in value:
            stated = stated.agreeing(Stated(sample_rate=_rate(name, value[name])), name)
    for name in ("encoding", "codec"):
        if name in value and (stated.sample_rate or str(value[name]).lower() in _CODECS):
            stated = stated.agreeing(_media_type(name, value[name]), name)
    if "channels" in value:
        stated = stated.agreeing(Stated(channels=_channels("channels", value["channels"])), "channels")
    return stated


def _asterisk(text: str) -> Message:
    """chan_websocket's plain texts: a name, then ``field:value`` words."""
    name, *words = text.split(" ")
    said = dict(word.split(":", 1) for word in words if ":" in word)
    if name == "MEDIA_START":
        return _asterisk_start(said)
    return Other() if name.endswith(_BEGINS) else _key(said) if "digit" in said else Other()


def _asterisk_start(said: Mapping[str, str]) -> Start:
    """The format is a codec of Asterisk's: ulaw, alaw, slin and slin with a rate."""
    stated = _media_type("format", said["format"]) if "format" in said else Stated()
    if stated.sample_rate is None:
        stated = replace(stated, sample_rate=8000)
    return Start(stated.agreeing(Stated(channels=1), "MEDIA_START"), _about(said))


_PARAMETERS = ("customParameters", "custom_parameters", "extra_headers")


def _about(value: Mapping[str, object]) -> About:
    ids = {name: text[:200] for name in _IDS if isinstance(text := value.get(name), str) and text}
    metadata: dict[str, object] = {**ids}
    shown: dict[str, str] = {}
    for name in _PARAMETERS:
        given = value.get(name)
        if not isinstance(given, dict):
            continue
        shown = {
            str(key)[:64]: str(each)[:500]
            for key, each in list(given.items())[:32]
            if key != "access_token" and isinstance(each, str | int | float | bool)
        }
        if shown:
            metadata[name] = shown
    checked_metadata(metadata)
    label = shown.get("label") or next((ids[name] for name in _CALL_IDS if name in ids), None)
    return About(label[:200] if label else None, metadata)


def _media_type(name: str, given: object) -> Stated:
    """``audio/x-mulaw;rate=8000;channels=1``: without case, its parameters in any order."""
    kind, *parameters = (part.strip() for part in str(given)[:200].split(";"))
    if (at := _AT_RATE.fullmatch(kind)) is not None:  # L16@24000h, as in SignalWire's settings
        kind, parameters = at[1], [f"rate={at[2]}", *parameters]
    encoding, rate = _encoding(name, kind)
    stated = Stated(encoding, rate)
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        value = value.strip().strip('"')
        if key.strip().lower() == "rate":
            stated = stated.agreeing(Stated(sample_rate=_rate(f"{name} rate", value)), name)
        elif key.strip().lower() == "channels":
            stated = stated.agreeing(Stated(channels=_channels(f"{name} channels", value)), name)
    return stated


def _encoding(name: str, given: object) -> tuple[str, int | None]:
    """The encoding, and the rate where its name says that too."""
    text = str(given)[:64].strip().lower()
    plain = text.removeprefix("audio/").removeprefix("x-")
    if plain in _NAMES:
        return _NAMES[plain], None
    if plain.startswith("slin") and plain[4:] in _SLIN:
        return "pcm_s16le", _SLIN[plain[4:]]
    raise bad_request(f"{name} is {text!r:.40}; it must be one of {', '.join(ENCODINGS)}.")


def _rate(name: str, given: object) -> int:
    text, (low, high) = str(given), SAMPLE_RATES
    text = text.removesuffix(".0") if isinstance(given, float) else text
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high):
        raise bad_request(f"{name} must be a whole number of Hz from {low} to {high}.")
    return int(text)


def _channels(name: str, given: object) -> int:
    if str(given) not in ("1", "2"):
        raise bad_request(f"{name} must be 1 or 2.")
    return int(str(given))


def reason(error: CallerError) -> bytes:
    """For the closing of a WebSocket, which has room for 123 bytes (RFC 6455 section 5.5)."""
    return error.message.encode()[:120].decode("utf-8", "ignore").encode()
