"""Session descriptions as text: what a caller offers, what of it is taken, what is answered.

aiortc reads only what it can carry: a section of another kind, a video codec it does not know or a
candidate with an unusual field makes it refuse the whole offer. So the offer is cut down to the
sections that rtcstt wants (audio that the caller sends, and the data channels) before aiortc sees
it, and the other sections are put back, refused or inactive, into the answer (RFC 3264 section 6).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rtcstt.errors import CallerError
from rtcstt.media.rtp import Codec

MAX_CANDIDATES = 64  # of one offer; a browser on many networks sends about 20
MID_EXTENSION = "urn:ietf:params:rtp-hdrext:sdes:mid"

_SPEECH = {"opus": "opus", "pcmu": "PCMU", "pcma": "PCMA", "g722": "G722"}
_NOT_SPEECH = {"telephone-event": "telephone-event", "cn": "CN"}
_STATIC = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000", "13": "CN/8000"}  # RFC 3551 section 6
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
# What the sections of a bundle share, and may leave to one of them to say (RFC 8843 section 7.1.3).
_TRANSPORT = ("ice-ufrag", "ice-pwd", "fingerprint", "setup", "rtcp-mux")


@dataclass(frozen=True, slots=True)
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
    def formats(self) -> list[str]:
        return self._fields[3:]

    @property
    def _fields(self) -> list[str]:
        return self.lines[0][2:].split()

    def values(self, name: str) -> list[str]:
        """The values of every ``a=name:value`` line; an empty string for a bare ``a=name``."""
        return attributes(self.lines, name)

    def value(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)

    @property
    def mid(self) -> str:
        return self.value("mid") or ""

    @property
    def direction(self) -> str:
        return next((name for name in _DIRECTIONS if self.values(name)), "sendrecv")

    @property
    def mid_extension(self) -> int | None:
        """The id under which packets carry their mid (RFC 8843 section 15), where offered."""
        for value in self.values("extmap"):
            number, _, rest = value.partition(" ")
            if rest.split(" ")[0] == MID_EXTENSION:
                number = number.split("/")[0]
                return int(number) if number.isdecimal() else None
        return None

    def codecs(self) -> dict[int, Codec]:
        """What the payload types mean, speech or not, in the offer's order of preference.

        Those that nobody here can use are left out.
        """
        encodings = dict(_STATIC)
        for value in self.values("rtpmap"):
            payload_type, _, encoding = value.partition(" ")
            encodings[payload_type] = encoding.strip()
        found = {}
        for payload_type in self.formats:
            codec = _codec(encodings.get(payload_type, ""))
            if codec is not None and payload_type.isdecimal() and int(payload_type) < 128:
                found[int(payload_type)] = codec
        return found

    def without(self, *names: str) -> Section:
        return replace(self, lines=tuple(line for line in self.lines if _name(line) not in names))

    def plus(self, lines: Iterable[str]) -> Section:
        return replace(self, lines=(*self.lines, *lines))


@dataclass(frozen=True, slots=True)
class Description:
    """A whole description: the session's lines, then its media sections."""

    session: tuple[str, ...]
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, text: str) -> Description:
        """Raises `CallerError` 400 when ``text`` is no session description (RFC 8866)."""
        lines = _lines(text)
        if not lines or lines[0] != "v=0" or any(line[1:2] != "=" for line in lines):
            raise bad_offer("That is not a session description.")
        starts = [index for index, line in enumerate(lines) if line.startswith("m=")] + [len(lines)]
        sections = tuple(
            Section(tuple(lines[begin:end])) for begin, end in zip(starts, starts[1:], strict=False)
        )
        if any(len(section.lines[0].split()) < 4 for section in sections):
            raise bad_offer("A media line (m=) of the session description is broken.")
        return cls(tuple(lines[: starts[0]]), sections)

    def __str__(self) -> str:
        lines = [*self.session, *(line for section in self.sections for line in section.lines)]
        return "\r\n".join(lines) + "\r\n"

    def section(self, mid: str) -> Section | None:
        return next((section for section in self.sections if section.mid == mid), None)


@dataclass(frozen=True, slots=True)
class Offer:
    """A caller's offer, sorted: ``taken`` for aiortc, the other sections answered without aiortc.

    ``trickled`` are candidates that aiortc would resolve before it answers (mDNS names): add them
    after the answer.
    """

    whole: Description
    taken: Description
    invented_mids: frozenset[str]
    trickled: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str, *, max_tracks: int) -> Offer:
        """Raises `CallerError` 400 for a broken offer, one that is not WebRTC, or one without audio.

        More than ``max_tracks`` audio sections: the first are taken, the others refused.
        """
        whole = Description.parse(text)
        whole, invented = _with_mids(whole)
        if len({section.mid for section in whole.sections}) != len(whole.sections):
            raise bad_offer("Two media sections have the same mid.")
        audio = [section for section in whole.sections if _sends_audio(section)]
        if not audio:
            raise bad_offer("The offer has no audio that the caller sends.", code="no_audio")
        known = [
            section for section in audio if any(c.name in _SPEECH.values() for c in section.codecs().values())
        ]
        if not known:
            raise bad_offer("None of the offered audio codecs is known.", code="no_audio_codec")
        channels = [section for section in whole.sections if _is_data(section)][:1]
        kept = [section for section in whole.sections if section in known[:max_tracks] or section in channels]
        trickled: list[tuple[str, str]] = []
        sections = tuple(_for_aiortc(section, whole, trickled) for section in kept)
        taken = Description(_session_for_aiortc(whole, sections), sections)
        return cls(whole, taken, invented, tuple(trickled))

    def answer(self, text: str, *, opus: str) -> str:
        """aiortc's answer to ``taken``, completed to an answer to the whole offer.

        ``opus`` is the ``fmtp`` that says how we like to receive Opus (RFC 7587 section 6.1).
        """
        answered = Description.parse(text)
        bundle = _bundle(self.whole)
        sections = []
        for offered in self.whole.sections:
            section = answered.section(offered.mid)
            if section is not None:
                section = _with_opus(section, opus)
            elif offered.mid in bundle and offered.values("rtpmap"):
                section = _silenced(offered, answered.sections[0])
            else:
                section = _refused(offered)
                bundle = [mid for mid in bundle if mid != offered.mid]
            sections.append(section.without("mid") if offered.mid in self.invented_mids else section)
        session = [line for line in answered.session if _name(line) != "group"]
        if bundle:
            session.append(" ".join(["a=group:BUNDLE", *bundle]))
        return str(Description(tuple(session), tuple(sections)))


def bad_offer(message: str, *, code: str = "bad_sdp") -> CallerError:
    return CallerError(400, code, "The offer cannot be answered", message)


def attributes(lines: Iterable[str], name: str) -> list[str]:
    return [line[2:].partition(":")[2] for line in lines if _name(line) == name]


def candidates(fragment: str) -> list[tuple[str, str]]:
    """The (mid, candidate) pairs of a trickle-ice-sdpfrag (RFC 8840 section 9), bounded; those that are of
    no use are left out. `CallerError` 400 when it is no such fragment."""
    found, mid = [], ""
    for line in _lines(fragment):
        if line[1:2] != "=":
            raise bad_offer("That is not a fragment of a session description.", code="bad_fragment")
        value = line.partition(":")[2]
        if _name(line) == "mid":
            mid = value
        elif _name(line) == "candidate":
            found += [(mid, candidate) for candidate in _usable([value])]
    return found[:MAX_CANDIDATES]


def restarts_ice(fragment: str, offer: Description) -> bool:
    """Whether a fragment has other credentials than the offer had (RFC 9725 section 4.3.3)."""
    offered = [*offer.session, *(line for section in offer.sections for line in section.lines)]
    return any(
        set(attributes(_lines(fragment), name)) - set(attributes(offered, name))
        for name in ("ice-ufrag", "ice-pwd")
    )


def with_public_address(answer: str, public: str) -> str:
    """The answer of a server behind a NAT that maps ``public`` to its own address, port by port.

    Each local address gets a server-reflexive candidate besides (RFC 8445 section 5.1.1.2), and stays: for
    callers on the same network it is the shorter way.
    """
    whole = Description.parse(answer)
    return str(replace(whole, sections=tuple(_with_public(section, public) for section in whole.sections)))


def opus_preference(*, stereo: bool = False, dtx: bool = False) -> str:
    settings: Mapping[str, bool] = {"usedtx": dtx, "stereo": stereo}
    return ";".join(["minptime=10", "useinbandfec=1", *(f"{name}=1" for name, on in settings.items() if on)])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _name(line: str) -> str:
    return line[2:].partition(":")[0] if line.startswith("a=") else ""


def _codec(encoding: str) -> Codec | None:
    name, *rest = encoding.split("/")
    known = {**_SPEECH, **_NOT_SPEECH}.get(name.lower())
    if known is None or not rest or not all(number.isdecimal() for number in rest[:2]):
        return None
    return Codec(known, int(rest[0]), int(rest[1]) if len(rest) > 1 else 1) if int(rest[0]) else None


def _sends_audio(section: Section) -> bool:
    offered = section.port != "0" or bool(section.values("bundle-only"))
    return section.kind == "audio" and offered and section.direction in ("sendrecv", "sendonly")


def _is_data(section: Section) -> bool:
    return section.kind == "application" and "SCTP" in section.lines[0]


def _with_mids(whole: Description) -> tuple[Description, frozenset[str]]:
    """Gateways may leave out the mid, by which aiortc, the answer and the events name a section."""
    sections, invented = [], set()
    for index, section in enumerate(whole.sections):
        if not section.mid:
            invented.add(str(index))
            section = section.without("mid").plus([f"a=mid:{index}"])
        sections.append(section)
    return replace(whole, sections=tuple(sections)), frozenset(invented)


def _bundle(description: Description) -> list[str]:
    groups = (group.split() for group in attributes(description.session, "group"))
    return next((group[1:] for group in groups if group[:1] == ["BUNDLE"]), [])


def _session_for_aiortc(whole: Description, sections: tuple[Section, ...]) -> tuple[str, ...]:
    """The session's lines that matter, its bundle cut down to the sections that are left."""
    left = [section.mid for section in sections]
    lines = [line for line in whole.session if line[:2] in ("v=", "o=", "s=", "t=") or line == "a=ice-lite"]
    if bundle := [mid for mid in _bundle(whole) if mid in left]:
        lines.append(" ".join(["a=group:BUNDLE", *bundle]))
    return tuple(lines)


def _for_aiortc(section: Section, whole: Description, trickled: list[tuple[str, str]]) -> Section:
    """A taken section with only what aiortc needs; candidates to add later go into ``trickled``.

    ``end-of-candidates`` is left out: a caller whose candidates are all unusable still reaches us,
    and is then known by the address that its checks come from.
    """
    transport = {name: _transport(section, whole, name) for name in _TRANSPORT}
    missing = [name for name in _TRANSPORT[:4] if not transport[name]]
    if missing:
        raise bad_offer(f"A section of the offer is not WebRTC: it lacks {', '.join(missing)}.")
    lines = [f"a=mid:{section.mid}", f"a={section.direction}"]
    if section.kind == "audio":
        codecs = section.codecs()
        media = f"m=audio 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, codecs))}"
        lines += [f"a=rtpmap:{pt} {c.name}/{c.clock_rate}/{c.channels}" for pt, c in codecs.items()]
        if section.mid_extension is not None:
            lines.append(f"a=extmap:{section.mid_extension} {MID_EXTENSION}")
    else:
        media = section.lines[0]
        lines += [
            line for line in section.lines if _name(line) in ("sctp-port", "sctpmap", "max-message-size")
        ]
    lines += [f"a={name}:{value}".rstrip(":") for name in _TRANSPORT for value in transport[name]]
    for candidate in _usable(section.values("candidate")):
        if _is_mdns(candidate):
            trickled.append((section.mid, candidate))
        else:
            lines.append(f"a=candidate:{candidate}")
    return Section((media, *lines))


def _transport(section: Section, whole: Description, name: str) -> list[str]:
    """A transport attribute of a section: its own, the session's, or that of the bundle's first."""
    bundle = _bundle(whole) if section.mid in _bundle(whole) else []
    others = (other.values(name) for other in whole.sections if other.mid in bundle)
    return section.values(name) or attributes(whole.session, name) or next(filter(None, others), [])


def _usable(offered: Iterable[str]) -> list[str]:
    """The candidates that ICE over UDP can use, cut down to the fields that matter."""
    usable = []
    for candidate in offered:
        fields = candidate.split()[:8]
        if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp" or fields[6] != "typ":
            continue  # component 1: RTCP is multiplexed
        numbers = fields[3].isdecimal() and fields[5].isdecimal() and 0 < int(fields[5]) < 65536
        if numbers and (_is_address(fields[4]) or fields[4].endswith(".local")):
            usable.append(" ".join(fields))
    return usable[:MAX_CANDIDATES]


def _is_mdns(candidate: str) -> bool:
    return candidate.split()[4].endswith(".local")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _with_public(section: Section, public: str) -> Section:
    known = {tuple(candidate.split()[4:6]) for candidate in section.values("candidate")}
    lines = []
    for line in section.lines:
        lines.append(line)
        fields = line.split()
        if _name(line) != "candidate" or fields[7] != "host" or (public, fields[5]) in known:
            continue
        host = ipaddress.ip_address(fields[4])
        if host.version == ipaddress.ip_address(public).version and not host.is_loopback:
            lines.append(_reflexive(fields, public))
    return Section(tuple(lines))


def _reflexive(host: list[str], public: str) -> str:
    """A host candidate's line, in fields, as its public side. Another kind has another foundation, which is
    at most 32 characters long, and a lower priority by the type's preference (RFC 8445 section 5.1.2.2)."""
    foundation, component, transport, priority, address, port = host[:6]
    priority = str(int(priority) - ((126 - 100) << 24))
    fields = [foundation[:-1] + "p", component, transport, priority, public, port]
    return " ".join([*fields, "typ", "srflx", "raddr", address, "rport", port])


def _refused(offered: Section) -> Section:
    kind, _, *rest = offered.lines[0][2:].split()
    return Section((f"m={kind} 0 {' '.join(rest)}", "c=IN IP4 0.0.0.0", f"a=mid:{offered.mid}", "a=inactive"))


def _silenced(offered: Section, like: Section) -> Section:
    """A section that stays in the bundle but carries nothing.

    As good as refused, and callers built on aiortc cannot read an answer that refuses a section.
    ``like`` lends its transport, since the section may be the one that stands for the bundle.
    """
    kind, _, *rest = offered.lines[0][2:].split()
    codecs = [line for line in offered.lines if _name(line) in ("rtpmap", "fmtp")]
    lent = [line for line in like.lines if line[:2] == "c=" or _name(line) in (*_TRANSPORT, "candidate")]
    return Section(
        (f"m={kind} {like.port} {' '.join(rest)}", f"a=mid:{offered.mid}", "a=inactive", *codecs, *lent)
    )


def _with_opus(section: Section, fmtp: str) -> Section:
    lines = []
    for line in section.lines:
        lines.append(line)
        if _name(line) == "rtpmap" and line.split(" ", 1)[1].lower().startswith("opus/"):
            lines.append(f"a=fmtp:{line.split(':', 1)[1].split(' ')[0]} {fmtp}")
    return Section(tuple(lines))
