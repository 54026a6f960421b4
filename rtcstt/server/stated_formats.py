"""How audio is stated by those who send it: in a URL, in an object of JSON, as a media type.

Names are read without case and without what stands between their words. What is stated is taken, or refused
naming the field; nothing is guessed. A core: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from rtcstt.errors import bad_request

SAMPLE_RATES = (8000, 96000)
ENCODINGS = ("pcm_s16le", "pcm_mulaw", "pcm_alaw")

_MULAW = "mulaw ulaw pcmu g711u g711ulaw g711mulaw pcmulaw pcmmulaw"
_ALAW = "alaw pcma g711a g711alaw pcmalaw"
# Exotel says how its linear samples are wrapped (base64), or that they are raw.
_LINEAR = "l16 slin rawslin raw linear linear16 lin16 lpcm lpcm16 pcm pcm16 s16 s16le pcms16 pcms16le base64"
_NAMES = {
    **dict.fromkeys(_MULAW.split(), "pcm_mulaw"),
    **dict.fromkeys(_ALAW.split(), "pcm_alaw"),
    **dict.fromkeys(_LINEAR.split(), "pcm_s16le"),
}
_SLIN = {"12": 12000, "16": 16000, "24": 24000, "32": 32000, "44": 44100, "48": 48000, "96": 96000}
_OTHERS = "opus g722 g729 gsm ilbc amr amrwb speex mp3 aac flac l8 l24 pcms16be pcms24le pcmf32le"
_CODECS = {*_NAMES, *(f"slin{rate}" for rate in _SLIN), *_OTHERS.split(), "basic"} - {"raw", "base64"}

_ENCODING = "encoding codec format contenttype mediaformat audioformat mimetype audioencoding audiocodec"
_RATE = "samplerate rate samplingrate samplehz sampleratehz sampleratehertz"
_MEANINGS = {
    **dict.fromkeys(_ENCODING.split(), "encoding"),
    **dict.fromkeys(_RATE.split(), "sample_rate"),
    **dict.fromkeys(("channels", "channelcount", "numchannels", "numberofchannels"), "channels"),
    "mixtype": "mix",
    **dict.fromkeys(("bitspersample", "bitdepth", "samplewidth"), "bits"),
    **dict.fromkeys(("endian", "endianness", "byteorder"), "byte_order"),
}
_ALWAYS = {"contenttype", "mediaformat", "audioformat", "mimetype"}  # say nothing but this, wherever they are
_MIXES = {"mono": 1, "mixed": 1, "stereo": 2}  # jambonz'
_WIDTHS = {"pcm_s16le": ("16", "2"), "pcm_mulaw": ("8", "1"), "pcm_alaw": ("8", "1")}  # in bits, in bytes
_INSIDE = ("mediaformat", "audioformat", "format", "audio", "media", "config")  # objects that state it
_DEEPEST = 4  # so many of them, one in the other
_WITH_RATE = re.compile(r"(.+?)[/_@ ](\d{4,6})(?:hz?)?(?:/(\d{1,2}))?")
_BETWEEN = str.maketrans("", "", "-_. ")
_LITTLE = {"little", "littleendian", "le"}


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
        return _together(query, "")

    @classmethod
    def of_media_format(cls, stated: Mapping[str, object], where: str) -> Stated:
        """``{"encoding", "sampleRate" or "sample_rate", "channels"}``, any of them left out."""
        return _together(stated, where)

    @classmethod
    def beside(cls, value: Mapping[str, object], where: str = "", depth: int = _DEEPEST) -> Stated:
        """Of an object that holds other things as well, and of the objects in it that are a format's by their
        name. ``codec``, ``format`` and ``rate`` are often somebody's own: they count where they can be this.
        """
        stated = _together(_meant(value), where)
        for name, inner in _objects_in(value) if depth else ():
            path = f"{where}.{name}" if where else name
            strict = _plain(name) in _ALWAYS
            found = cls.of_media_format(inner, path) if strict else cls.beside(inner, path, depth - 1)
            stated = stated.agreeing(found, path)
        return stated

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


def media_type(name: str, given: object) -> Stated:
    """``audio/x-mulaw;rate=8000;channels=1``: without case, its parameters in any order. `CallerError` 400
    names ``name`` where it is not taken."""
    kind, *parameters = (part.strip() for part in str(given)[:200].split(";"))
    stated = _encoding(name, kind)
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        value, key = value.strip().strip('"'), key.strip().lower()
        if key == "rate":
            stated = stated.agreeing(Stated(sample_rate=_rate(f"{name} rate", value)), name)
        elif key == "channels":
            stated = stated.agreeing(Stated(channels=_channels(f"{name} channels", value)), name)
        elif _MEANINGS.get(_plain(key)) in ("bits", "byte_order"):
            stated = stated.agreeing(_samples(f"{name} {key}", value, stated.encoding), name)
    return stated


def _together(stated: Mapping[str, object], where: str) -> Stated:
    found, samples = Stated(), []
    for name, given in stated.items():
        path = f"{where}.{name}" if where else name
        match _MEANINGS.get(_plain(name)):
            case "encoding":
                found = found.agreeing(media_type(path, given), where or name)
            case "sample_rate":
                found = found.agreeing(Stated(sample_rate=_rate(path, given)), where or name)
            case "channels":
                found = found.agreeing(Stated(channels=_channels(path, given)), where or name)
            case "mix":
                found = found.agreeing(Stated(channels=_mix(path, given)), where or name)
            case "bits" | "byte_order":
                samples.append((path, given))
    for path, given in samples:
        found = found.agreeing(_samples(path, given, found.encoding), where or path)
    return found


def _meant(value: Mapping[str, object]) -> dict[str, object]:
    """Of an object that holds other things as well, what states a format."""
    named = [(name, plain, given) for name, given in value.items() if (plain := _plain(name)) in _MEANINGS]
    has_codec = any(_MEANINGS[plain] == "encoding" and _is_codec(given) for _, plain, given in named)
    has_rate = any(_MEANINGS[plain] == "sample_rate" and plain != "rate" for _, plain, _ in named)
    has_any_rate = any(_MEANINGS[plain] == "sample_rate" for _, plain, _ in named)
    found = {}
    for name, plain, given in named:
        meaning = _MEANINGS[plain]
        if plain in _INSIDE and _is_object(given):
            is_meant = False
        elif plain in _ALWAYS or meaning in ("channels", "mix"):
            is_meant = True
        elif plain == "format":
            is_meant = _is_codec(given)
        elif meaning == "encoding":
            is_meant = _is_codec(given) or has_rate
        elif meaning == "sample_rate":
            is_meant = plain != "rate" or has_codec
        else:
            is_meant = has_codec or has_any_rate
        if is_meant:
            found[name] = given
    return found


def _is_object(given: object) -> bool:
    """Or a list of such."""
    inner = given if isinstance(given, list) and given else [given]
    return all(isinstance(one, dict) for one in inner)


def _objects_in(value: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for name, given in value.items():
        if _plain(name) not in _INSIDE:
            continue
        inner = given[:8] if isinstance(given, list) else [given]
        yield from ((name, one) for one in inner if isinstance(one, dict))


def _plain(name: str) -> str:
    return name[:64].lower().translate(_BETWEEN)


def _is_codec(given: object) -> bool:
    return isinstance(given, str) and _split(given.partition(";")[0])[0] in _CODECS


def _split(given: str) -> tuple[str, str | None, str | None]:
    """A name's letters and digits, and the rate and channels behind it: ``PCMA/8000/1``, ``L16@24000h``."""
    text = given[:64].strip().lower().replace("µ", "mu").replace("μ", "mu")  # noqa: RUF001
    text, rate, channels = text.removeprefix("audio/").removeprefix("x-"), None, None
    if (behind := _WITH_RATE.fullmatch(text)) is not None:
        text, rate, channels = behind.groups()
    return re.sub(r"[^a-z0-9]", "", text), rate, channels


def _encoding(name: str, given: str) -> Stated:
    """And the rate and channels where its name says them, too."""
    plain, rate, channels = _split(given)
    if plain == "basic":  # RFC 2046 section 4.3
        stated = Stated("pcm_mulaw", 8000, 1)
    elif plain in _NAMES:
        stated = Stated(_NAMES[plain])
    elif plain.startswith("slin") and plain[4:] in _SLIN:
        stated = Stated("pcm_s16le", _SLIN[plain[4:]])
    else:
        text = given[:64].strip().lower()
        raise bad_request(f"{name} is {text!r:.40}; it must be one of {', '.join(ENCODINGS)}.")
    if rate is not None:
        stated = stated.agreeing(Stated(sample_rate=_rate(f"{name} rate", rate)), name)
    if channels is not None:
        stated = stated.agreeing(Stated(channels=_channels(f"{name} channels", channels)), name)
    return stated


def _rate(name: str, given: object) -> int:
    text, (low, high) = str(given), SAMPLE_RATES
    text = text.removesuffix(".0") if isinstance(given, float) else text
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high):
        raise bad_request(f"{name} must be a whole number of Hz from {low} to {high}.")
    return int(text)


def _channels(name: str, given: object) -> int:
    text = str(given).removesuffix(".0") if isinstance(given, float) else str(given)
    text = str(_MIXES.get(text[:20].lower(), text))
    if text not in ("1", "2"):
        raise bad_request(f"{name} must be 1 or 2.")
    return int(text)


def _mix(name: str, given: object) -> int:
    mix = str(given)[:20].lower()
    if mix not in _MIXES:
        raise bad_request(f"{name} is {mix!r}; it must be one of {', '.join(_MIXES)}.")
    return _MIXES[mix]


def _samples(name: str, given: object, encoding: str | None) -> Stated:
    """Their width, in bits or bytes, or the order of their bytes; and so what they are: those that have an
    order have 16 bits."""
    text = str(given)[:20].strip().lower()
    if _MEANINGS.get(_plain(name.rpartition(".")[2].rpartition(" ")[2])) == "byte_order":
        if _plain(text) not in _LITTLE:
            raise bad_request(f"{name} is {text!r}; samples are taken with their low byte first (little).")
        return Stated(encoding or "pcm_s16le")
    widths = _WIDTHS[encoding or "pcm_s16le"]
    if text.removesuffix(".0") not in widths:
        whose = f"samples of {encoding} have" if encoding else "without an encoding samples have"
        raise bad_request(f"{name} is {text!r}; {whose} {widths[0]} bits.")
    return Stated(encoding or "pcm_s16le")
