"""Session descriptions as text (RFC 8866): sections, their attributes, and what payload types mean.

Everything here takes time linear in the length of the text, which is bounded: each line is looked at
once, and attributes are found by name. Numbers from outside have few digits, or are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from rtcstt.errors import CallerError
from rtcstt.media.rtp import Codec

MAX_CHARACTERS = 64 * 1024
MAX_SECTIONS = 32
MAX_ATTRIBUTES = 2000  # of all sections; a browser's with audio and video in every codec has 300
MID_EXTENSION = "urn:ietf:params:rtp-hdrext:sdes:mid"

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
STATIC = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000", "13": "CN/8000"}  # RFC 3551 section 6
_STATIC_L16 = {"10": "L16/44100/2", "11": "L16/44100/1"}
# Names as here, with the clock rates and channels registered for them: RFC 7587 section 7, RFC 3551 section
# 4.5, RFC 4733 section 7, RFC 3389 section 5 with the rates of the audio beside which it is sent.
_WITH_SPEECH = (8000, 16000, 32000, 44100, 48000)
REGISTERED: Mapping[str, tuple[str, tuple[int, ...], int]] = {
    "opus": ("opus", (48000,), 2),
    "pcmu": ("PCMU", (8000,), 1),
    "pcma": ("PCMA", (8000,), 1),
    "g722": ("G722", (8000,), 1),
    "telephone-event": ("telephone-event", _WITH_SPEECH, 1),
    "cn": ("CN", _WITH_SPEECH, 1),
}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`{|}~]{1,64}")


@dataclass(frozen=True)
class Encoding:
    """What an ``a=rtpmap`` says of a payload type (RFC 8866 section 6.6), understood or not."""

    payload_type: int
    name: str
    clock_rate: int
    channels: int

    @classmethod
    def parse(cls, payload_type: str, text: str) -> Encoding | None:
        """None where it is broken."""
        number = whole(payload_type, 127)
        name, *rest = text.split("/")
        clock_rate = whole(rest[0]) if rest else None
        channels = whole(rest[1]) if len(rest) > 1 else 1
        if number is None or not name or not clock_rate or not channels:
            return None
        return cls(number, name, clock_rate, channels)

    @property
    def codec(self) -> Codec | None:
        """As a codec of the registered form, None where it is not one of those known here."""
        name, clock_rates, channels = REGISTERED.get(self.name.lower(), ("", (), 0))
        if self.clock_rate in clock_rates and self.channels == channels:
            return Codec(name, self.clock_rate, self.channels)
        return None

    def __str__(self) -> str:
        channels = f"/{self.channels}" if self.channels != 1 else ""
        return f"{self.name}/{self.clock_rate}{channels}"


@dataclass(frozen=True)
class Section:
    """One media section: its ``m=`` line and all that follows it."""

    lines: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self._fields[0]

    @property
    def port(self) -> str:
        return self._fields[1]

    @property
    def protocol(self) -> str:
        return self._fields[2]

    @property
    def formats(self) -> list[str]:
        return self._fields[3:]

    @cached_property
    def _fields(self) -> list[str]:
        return self.lines[0][2:].split()

    @cached_property
    def _attributes(self) -> dict[str, list[str]]:
        return by_name(self.lines)

    def values(self, name: str) -> list[str]:
        """The values of every ``a=name:value`` line; an empty string for a bare ``a=name``."""
        return self._attributes.get(name, [])

    def value(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)

    @property
    def mid(self) -> str:
        return self.value("mid") or ""

    @property
    def direction(self) -> str:
        return direction(self._attributes) or "sendrecv"

    @property
    def is_refused(self) -> bool:
        return whole(self.port.partition("/")[0]) == 0 and not self.values("bundle-only")

    @property
    def mid_extension(self) -> int | None:
        """The id under which packets carry their mid (RFC 8843 section 15), where offered."""
        for value in self.values("extmap"):
            number, _, rest = value.partition(" ")
            if rest.split(" ")[0] == MID_EXTENSION:
                return whole(number.split("/")[0], 255)
        return None

    @property
    def ssrcs(self) -> list[int]:
        """The sources that the section says it sends (RFC 5576)."""
        found = (whole(value.partition(" ")[0], 0xFFFFFFFF) for value in self.values("ssrc"))
        return list(dict.fromkeys(ssrc for ssrc in found if ssrc is not None))

    @cached_property
    def encodings(self) -> list[Encoding]:
        """What the payload types of the ``m=`` line mean, in their order of preference; those of which
        nothing, or nonsense, is said are left out."""
        said = {**STATIC, **_STATIC_L16}
        for value in self.values("rtpmap"):
            payload_type, _, encoding = value.partition(" ")
            said[payload_type] = encoding.strip()
        found = (Encoding.parse(number, said.get(number, "")) for number in dict.fromkeys(self.formats))
        return [encoding for encoding in found if encoding is not None]

    def codecs(self) -> dict[int, Codec]:
        """What the payload types mean, speech or not, in the section's order of preference.

        Those that nobody here can use are left out, and those that could not be told from RTCP where both
        share a port (RFC 5761 section 4).
        """
        known = {e.payload_type: e.codec for e in self.encodings if not 63 < e.payload_type < 96}
        return {payload_type: codec for payload_type, codec in known.items() if codec is not None}

    def without(self, *names: str) -> Section:
        return Section(tuple(line for line in self.lines if name_of(line) not in names))

    def plus(self, lines: Iterable[str]) -> Section:
        return Section((*self.lines, *lines))


@dataclass(frozen=True)
class Description:
    """A whole description: the session's lines, then its media sections."""

    session: tuple[str, ...]
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, text: str) -> Description:
        """Raises `CallerError` 400 when ``text`` is no session description (RFC 8866), or too large a one."""
        if text.count("\n") + text.count("\r") > 4 * MAX_ATTRIBUTES:  # as CR LF, and with empty ones
            raise bad_offer(f"A session description may have at most {MAX_ATTRIBUTES} lines.")
        lines = lines_of(text)
        if not lines or lines[0] != "v=0":
            raise bad_offer("That is not a session description: it does not begin with v=0.")
        if (broken := next((line for line in lines if line[1:2] != "="), None)) is not None:
            raise bad_offer(f"That is not a session description: it has a line {broken!r:.40}.")
        if len(lines) > MAX_ATTRIBUTES:
            raise bad_offer(f"A session description may have at most {MAX_ATTRIBUTES} lines.")
        starts = [index for index, line in enumerate(lines) if line.startswith("m=")] + [len(lines)]
        if len(starts) > MAX_SECTIONS + 1:
            raise bad_offer(f"A session description may have at most {MAX_SECTIONS} media sections.")
        sections = tuple(
            Section(tuple(lines[begin:end])) for begin, end in zip(starts, starts[1:], strict=False)
        )
        if any(len(section.lines[0][2:].split()) < 4 for section in sections):
            raise bad_offer("A media line (m=) of the session description is broken.")
        for mid in (mid for section in sections for mid in section.values("mid")[:1] if mid):
            if not _TOKEN.fullmatch(mid):
                raise bad_offer("The mid of a media section is no token of at most 64 characters.")
        return cls(tuple(lines[: starts[0]]), sections)

    def __str__(self) -> str:
        lines = [*self.session, *(line for section in self.sections for line in section.lines)]
        return "\r\n".join(lines) + "\r\n"

    @cached_property
    def attributes(self) -> dict[str, list[str]]:
        """Those of the session, by name."""
        return by_name(self.session)

    @cached_property
    def _by_mid(self) -> dict[str, Section]:
        return {section.mid: section for section in reversed(self.sections)}

    def section(self, mid: str) -> Section | None:
        return self._by_mid.get(mid)

    @cached_property
    def bundle(self) -> list[str]:
        """The mids of the first group that shares a transport (RFC 8843), those that are there."""
        groups = (group.split() for group in self.attributes.get("group", []))
        named = next((group[1:] for group in groups if group[:1] == ["BUNDLE"]), [])
        return [mid for mid in dict.fromkeys(named) if mid in self._by_mid]

    def transport_of(self, mid: str) -> str:
        """The mid of the section whose transport serves ``mid``: the first of the bundle for all of it, and
        for a section that is not here, of which the others are what was left."""
        if mid in self._by_mid and mid not in self.bundle:
            return mid
        return next(iter(self.bundle), self.sections[0].mid if self.sections else mid)

    def direction_of(self, section: Section) -> str:
        """A section's direction: its own, else the session's (RFC 8866 section 6.7)."""
        return direction(section._attributes) or direction(self.attributes) or "sendrecv"


def bad_offer(message: str, *, code: str = "bad_sdp") -> CallerError:
    return CallerError(400, code, "The offer cannot be answered", message)


def whole(text: str, most: int = 999_999_999_999) -> int | None:
    """A number of decimal ASCII digits from 0 to ``most``, None for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        return None
    number = int(text)
    return number if number <= most else None


def by_name(lines: Iterable[str]) -> dict[str, list[str]]:
    """The values of the attributes (``a=``) among the lines."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("a="):
            name, _, value = line[2:].partition(":")
            found.setdefault(name, []).append(value)
    return found


def direction(attributes: Mapping[str, list[str]]) -> str | None:
    return next((name for name in DIRECTIONS if name in attributes), None)


def lines_of(text: str) -> list[str]:
    """The lines of a description, which end with CR, LF or both, and with nothing else."""
    if len(text) > MAX_CHARACTERS:
        raise bad_offer(f"A session description may have at most {MAX_CHARACTERS >> 10} kB.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [stripped for line in lines if (stripped := line.strip(" \t"))]


def name_of(line: str) -> str:
    return line[2:].partition(":")[0] if line.startswith("a=") else ""
