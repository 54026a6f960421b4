"""What of a caller's offer is taken, and how it is answered (RFC 3264, RFC 8829), section by section.

Taken are audio sections that the caller sends, in a codec that is known, and the first data section. The
others are refused with port 0 (RFC 3264 section 6), each with its reason in words; video of the caller's
bundle stays in it, inactive. aiortc never sees the offer itself, of which it would refuse the whole for one
field it does not know, but a plain one with the same transports. The answer's sections are written here,
with the protocol and the payload types of the offer; aiortc lends them its transport.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rtcstt.errors import CallerError
from rtcstt.media.rtp import Codec
from rtcstt.webrtc.candidates import AT_ONCE, MAX_CANDIDATES, has_credentials, is_mdns, usable
from rtcstt.webrtc.sdp import DIRECTIONS, MID_EXTENSION, Description, Section, bad_offer, name_of, whole

# The profiles that RFC 8829 section 5.1.2 wants taken for media over DTLS.
_PROTOCOLS = {
    *(f"{transport}RTP/{p}" for transport in ("UDP/TLS/", "TCP/DTLS/") for p in ("SAVP", "SAVPF")),
    *(f"RTP/{profile}" for profile in ("AVP", "AVPF", "SAVP", "SAVPF")),
}
_DIGESTS = {"sha-256": 32, "sha-384": 48, "sha-512": 64}  # bytes
_FINGERPRINT = re.compile(r"([A-Za-z0-9-]+) +([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*)")
# Connections of one call: who bundles, as all browsers do, has one. Each costs 0.5 ms, and sockets.
MAX_TRANSPORTS = 4
# What the sections of a bundle share, and may leave to one of them to say (RFC 8843 section 7.1.3).
_TRANSPORT = ("ice-ufrag", "ice-pwd", "fingerprint", "setup", "rtcp-mux")
_SETUPS = {"actpass": "active", "active": "active", "passive": "passive"}
_CANONICAL = ("m=audio 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 opus/48000/2")


@dataclass(frozen=True)
class Offer:
    """A caller's offer, sorted.

    ``whole``: all of it. ``taken``: what aiortc is given. ``refused``: why each other section is not taken,
    by mid; without those that the caller refused themselves. ``trickled``: candidates to add after the
    answer: names (mDNS) that aiortc would resolve first, and those beyond the first few.
    """

    whole: Description
    taken: Description
    refused: Mapping[str, str]
    trickled: tuple[tuple[str, str], ...] = ()
    invented_mids: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, text: str, *, max_tracks: int, held: Iterable[str] = ()) -> Offer:
        """Raises `CallerError` 400 for a broken offer, or one without an audio section that can be taken.

        More than ``max_tracks`` audio sections: the first are taken, the others refused. ``held``: the mids
        of sections that an earlier offer of the same connection sent: they are taken in any direction.
        """
        described, invented = _with_mids(Description.parse(text))
        if len({section.mid for section in described.sections}) != len(described.sections):
            raise bad_offer("Two media sections have the same mid.")
        sorting = _Sorting(described, max_tracks, frozenset(held))
        for section in described.sections:
            sorting.sort(section)
        if not sorting.tracks and not any(s.mid in held for s in described.sections):
            raise sorting.refusal()
        taken = Description(_session_for_aiortc(described, sorting.taken), tuple(sorting.taken))
        return cls(described, taken, sorting.refused, tuple(sorting.trickled), invented)

    def direction_of(self, mid: str) -> str:
        """Whether the caller sends in a section: its direction as offered."""
        section = self.whole.section(mid)
        return self.whole.direction_of(section) if section is not None else "inactive"

    @property
    def tracks(self) -> list[str]:
        """The mids of the audio sections that are taken."""
        return [s.mid for s in self.taken.sections if s.kind == "audio"]

    def after(self, before: Description) -> Description:
        """What aiortc is given of a later offer, after it had ``before``: the sections of then in their
        order, those that are gone as inactive, then the new ones. aiortc knows sections by their place."""
        known = [self.taken.section(old.mid) or _inactive(old) for old in before.sections]
        new = [section for section in self.taken.sections if before.section(section.mid) is None]
        return Description(_session_for_aiortc(self.whole, [*known, *new]), (*known, *new))

    def same_session(self, other: Offer) -> bool:
        """Whether both are offers of one connection: their ICE credentials and certificates are the same."""
        return bool(self._identity & other._identity)

    @property
    def _identity(self) -> set[tuple[str, ...]]:
        names = ("ice-ufrag", "ice-pwd", "fingerprint")
        return {tuple(v for name in names for v in section.values(name)) for section in self.taken.sections}

    def answer(self, text: str, *, opus: str, version: int = 0) -> str:
        """aiortc's answer to ``taken``, completed to an answer to the whole offer.

        ``opus`` is the ``fmtp`` that says how we like to receive Opus (RFC 7587 section 6.1); ``version``
        counts the answers of a connection before this one (RFC 3264 section 8).
        """
        answered = Description.parse(text)
        bundle = list(self.whole.bundle)
        sections = []
        for offered in self.whole.sections:
            transport = answered.section(offered.mid) if self.taken.section(offered.mid) else None
            if transport is not None and offered.kind == "audio":
                section = _received(offered, self.whole, transport, opus)
            elif transport is not None:
                section = _with_protocol(transport, offered.protocol)
            elif offered.kind == "video" and offered.mid in bundle and offered.values("rtpmap"):
                section = _silenced(offered, answered.sections[0])
            else:
                section = _refused(offered, answered.sections[0])
                bundle = [mid for mid in bundle if mid != offered.mid]
            sections.append(section.without("mid") if offered.mid in self.invented_mids else section)
        session = [line for line in answered.session if name_of(line) not in ("group", "msid-semantic")]
        if bundle:
            session.append(" ".join(["a=group:BUNDLE", *bundle]))
        session = [_with_version(line, version) if line.startswith("o=") else line for line in session]
        return str(Description(tuple(session), tuple(sections)))


class _Sorting:
    """The sections of one offer, taken or refused, in their order."""

    def __init__(self, described: Description, max_tracks: int, held: frozenset[str]) -> None:
        self.taken: list[Section] = []
        self.refused: dict[str, str] = {}
        self.trickled: list[tuple[str, str]] = []
        self.tracks = 0
        self._described = described
        self._bundle = frozenset(described.bundle)
        self._shared = {name: self._bundles(name) for name in _TRANSPORT}
        self._max_tracks = max_tracks
        self._held = held
        self._sends = False
        self._knows = False
        self._candidates_left = MAX_CANDIDATES
        self._given_candidates = 0
        self._transports = 0
        self._has_data = self._has_bundle = False

    def sort(self, section: Section) -> None:
        if section.is_refused:
            return
        transport = {name: self._transport(section, name) for name in _TRANSPORT}
        reason = self._audio(section) if section.kind == "audio" else self._other(section)
        reason = reason or _unusable(section, transport)
        shares = section.mid in self._bundle and self._has_bundle
        if reason is None and not shares and self._transports == MAX_TRANSPORTS:
            reason = f"it is not bundled, and a call has at most {MAX_TRANSPORTS} transports"
        if reason is not None:
            self.refused[section.mid] = reason
            return
        self._transports += not shares
        self._has_bundle |= section.mid in self._bundle
        self.tracks += section.kind == "audio"
        self._has_data |= section.kind != "audio"
        candidates = [] if shares else self._candidates(section, transport)
        self.taken.append(self._for_aiortc(section, transport, candidates))

    def refusal(self) -> CallerError:
        """Why nothing is taken."""
        if not self._sends:
            return bad_offer("The offer has no audio that the caller sends.", code="no_audio")
        audio = [s.mid for s in self._described.sections if s.kind == "audio" and s.mid in self.refused]
        reasons = "; ".join(f"section {mid}: {self.refused[mid]}" for mid in audio[:4])
        code = "bad_sdp" if self._knows else "no_audio_codec"
        return bad_offer(f"None of the offered audio can be taken. {reasons}.", code=code)

    def _audio(self, section: Section) -> str | None:
        sends = self._described.direction_of(section) in ("sendrecv", "sendonly")
        self._sends |= sends
        if not sends and section.mid not in self._held:
            return "the caller sends nothing there"
        if not any(codec.is_speech for codec in section.codecs().values()):
            return _unknown_codecs(section)
        self._knows = True
        return f"at most {self._max_tracks} are taken" if self.tracks >= self._max_tracks else None

    def _other(self, section: Section) -> str | None:
        if section.kind != "application" or "SCTP" not in section.protocol:
            return f"{section.kind[:32]} is not received"
        return "one data section is taken" if self._has_data else None

    def _transport(self, section: Section, name: str) -> list[str]:
        """A transport attribute of a section: its own, the session's, or that of the bundle's first."""
        own = section.values(name) or self._described.attributes.get(name, [])
        return own or (self._shared[name] if section.mid in self._bundle else [])

    def _bundles(self, name: str) -> list[str]:
        others = (s.values(name) for s in self._described.sections if s.mid in self._bundle)
        return next(filter(None, others), [])

    def _candidates(self, section: Section, transport: Mapping[str, list[str]]) -> list[str]:
        """Those of a section's transport: of a bundle's first section they stand for all of the bundle, which
        have them where the first of the offer was one that is not taken."""
        sections = [section]
        if section.mid in self._bundle:
            sections += [s for s in self._described.sections if s.mid in self._bundle and s is not section]
        ufrags = transport["ice-ufrag"][:1]
        found: dict[str, None] = {}
        for one in sections:
            if self._transport(one, "ice-ufrag")[:1] == ufrags and len(found) < self._candidates_left:
                found |= dict.fromkeys(usable(one.values("candidate")))
        chosen = list(found)[: self._candidates_left]
        self._candidates_left -= len(chosen)
        return chosen

    def _for_aiortc(
        self, section: Section, transport: Mapping[str, list[str]], candidates: list[str]
    ) -> Section:
        """A taken section with only what aiortc needs; candidates to add later go into ``trickled``.

        The caller is to be the DTLS client where they leave the choice: they know when they are ready.
        ``end-of-candidates`` is left out: a caller whose candidates are all unusable still reaches us,
        and is then known by the address that its checks come from.
        """
        direction = self._described.direction_of(section)
        if section.kind == "audio":
            lines = [*_CANONICAL, f"a=mid:{section.mid}", f"a={direction}", "a=rtcp-mux"]
            if section.mid_extension is not None:
                lines.append(f"a=extmap:{section.mid_extension} {MID_EXTENSION}")
        else:
            lines = [_data_line(section), f"a=mid:{section.mid}"]
            lines += [f"a={n}:{v}" for n in ("sctp-port", "sctpmap", "max-message-size")
                      for v in section.values(n)[:1]]  # fmt: skip
        lines += [f"a={name}:{transport[name][0]}" for name in ("ice-ufrag", "ice-pwd")]
        lines += [f"a=fingerprint:{value}" for value in _fingerprints(transport["fingerprint"])]
        lines.append(f"a=setup:{_SETUPS[transport['setup'][0]]}")
        for candidate in candidates:
            if is_mdns(candidate) or self._given_candidates == AT_ONCE:
                self.trickled.append((section.mid, candidate))
            else:
                self._given_candidates += 1
                lines.append(f"a=candidate:{candidate}")
        return Section(tuple(lines))


def opus_preference(*, stereo: bool = False, dtx: bool = False) -> str:
    settings: Mapping[str, bool] = {"usedtx": dtx, "stereo": stereo}
    return ";".join(["minptime=10", "useinbandfec=1", *(f"{name}=1" for name, on in settings.items() if on)])


def _unknown_codecs(section: Section) -> str:
    """Why none of a section's payload types is of use, with those that come near."""
    known = {"opus": "48000/2", "pcmu": "8000", "pcma": "8000", "g722": "8000"}
    for encoding in section.encodings:
        if encoding.name.lower() in known:
            registered = known[encoding.name.lower()]
            if 63 < encoding.payload_type < 96:
                return f"payload type {encoding.payload_type} could be RTCP (RFC 5761 forbids 64 to 95)"
            return (
                f"payload type {encoding.payload_type} is {str(encoding)[:48]}, "
                f"but {encoding.name} is registered as {encoding.name}/{registered}"
            )
    return "none of its codecs is known; taken are opus, PCMU, PCMA and G722"


def _unusable(section: Section, transport: Mapping[str, list[str]]) -> str | None:
    """Why a section's transport cannot be used, None where it can."""
    if section.kind == "audio" and section.protocol not in _PROTOCOLS:
        return f"its protocol is {section.protocol[:32]}, not one of RTP over DTLS"
    missing = [name for name in _TRANSPORT[:4] if not transport[name]]
    if missing:
        return f"it is not WebRTC: it lacks {', '.join('a=' + name for name in missing)}"
    if section.kind == "audio" and not transport["rtcp-mux"]:
        return "it lacks a=rtcp-mux, and RTCP on a port of its own is not supported"
    if not has_credentials(transport["ice-ufrag"][0], transport["ice-pwd"][0]):
        return "its a=ice-ufrag is not of 4 to 256, or its a=ice-pwd not of 22 to 256 ICE characters"
    if not _fingerprints(transport["fingerprint"]):
        return f"none of its a=fingerprint lines is of {', '.join(_DIGESTS)}, and whole"
    if transport["setup"][0] not in _SETUPS:
        return "its a=setup is not one of actpass, active and passive"
    sizes = [v for n in ("sctp-port", "sctpmap", "max-message-size") for v in section.values(n)[:1]]
    if any(not re.match(r"\d{1,9}(?!\d)", size, re.ASCII) for size in sizes):
        return "its a=sctp-port, a=sctpmap or a=max-message-size is no number"
    return None


def _with_version(origin: str, more: int) -> str:
    fields = origin.split(" ")
    if more and len(fields) == 6:
        fields[2] = str((whole(fields[2]) or 0) + more)
    return " ".join(fields)


def _inactive(section: Section) -> Section:
    """A section as aiortc was given it, no longer in use."""
    return section.without(*DIRECTIONS).plus(["a=inactive"] if section.kind == "audio" else [])


def _fingerprints(offered: list[str]) -> list[str]:
    """Those of the certificate that can be checked (RFC 8122 section 5), at most one of each kind."""
    found: dict[str, str] = {}
    for value in offered[:16]:
        match = _FINGERPRINT.fullmatch(value)
        if match and len(match[2].split(":")) == _DIGESTS.get(match[1].lower()):
            found.setdefault(match[1].lower(), f"{match[1].lower()} {match[2].upper()}")
    return list(found.values())


def _data_line(section: Section) -> str:
    """Older callers number the port in the ``m=`` line (draft-ietf-mmusic-sctp-sdp before version 08)."""
    if section.values("sctp-port") or not section.formats[0].isdecimal():
        return "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
    return f"m=application 9 DTLS/SCTP {section.formats[0][:5]}"


def _with_mids(described: Description) -> tuple[Description, frozenset[str]]:
    """Gateways may leave out the mid, by which aiortc, the answer and the events name a section."""
    used = {section.mid for section in described.sections}
    sections, invented = [], set()
    for index, section in enumerate(described.sections):
        if not section.mid:
            mid = str(index) if str(index) not in used else f"section-{index}"
            used.add(mid)
            invented.add(mid)
            section = section.without("mid").plus([f"a=mid:{mid}"])
        sections.append(section)
    return replace(described, sections=tuple(sections)), frozenset(invented)


def _session_for_aiortc(described: Description, sections: list[Section]) -> tuple[str, ...]:
    """The session's lines that matter, its bundle cut down to the sections that are left."""
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if "ice-lite" in described.attributes:
        lines.append("a=ice-lite")
    left = {section.mid for section in sections}
    if bundle := [mid for mid in described.bundle if mid in left]:
        lines.append(" ".join(["a=group:BUNDLE", *bundle]))
    return tuple(lines)


def _received(offered: Section, described: Description, transport: Section, opus: str) -> Section:
    """The answer to an audio section that is taken, with aiortc's transport."""
    codecs = {pt: codec for pt, codec in offered.codecs().items() if _is_answered(codec, offered)}
    sends = described.direction_of(offered) in ("sendrecv", "sendonly")
    lines = [f"m=audio {transport.port} {offered.protocol} {' '.join(map(str, codecs))}"]
    lines += [line for line in transport.lines if line.startswith("c=")]
    lines += [f"a=mid:{offered.mid}", "a=recvonly" if sends else "a=inactive"]
    if offered.mid_extension is not None:
        lines.append(f"a=extmap:{offered.mid_extension} {MID_EXTENSION}")
    for encoding in offered.encodings:
        if encoding.payload_type in codecs:
            lines.append(f"a=rtpmap:{encoding.payload_type} {encoding}")
            fmtp = {"opus": opus, "telephone-event": "0-15"}.get(encoding.name.lower())
            if fmtp:
                lines.append(f"a=fmtp:{encoding.payload_type} {fmtp}")
    lines += ["a=rtcp-mux", *_transport_lines(transport)]
    return Section(tuple(lines))


def _is_answered(codec: Codec, offered: Section) -> bool:
    """Digits are sent on the clock of the speech beside them (RFC 4733 section 2.1); comfort noise is
    understood where it comes, and not asked for."""
    if codec.name == "telephone-event":
        return codec.clock_rate in {c.clock_rate for c in offered.codecs().values() if c.is_speech}
    return codec.is_speech


def _transport_lines(transport: Section) -> list[str]:
    wanted = ("candidate", "end-of-candidates", "ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup")
    return [line for line in transport.lines if name_of(line) in wanted]


def _with_protocol(section: Section, protocol: str) -> Section:
    fields = section.lines[0].split(" ", 3)
    return Section((" ".join([*fields[:2], protocol, fields[3]]), *section.lines[1:]))


def _refused(offered: Section, like: Section) -> Section:
    """Port 0. Callers built on aiortc read no section without a transport, so ``like`` lends its own."""
    fields = offered.lines[0][2:].split()
    lines = [f"m={fields[0]} 0 {' '.join(fields[2:])}", "c=IN IP4 0.0.0.0", f"a=mid:{offered.mid}"]
    if offered.kind in ("audio", "video"):
        lines += [line for line in offered.lines if name_of(line) == "rtpmap"]
        lines += [line for line in like.lines if name_of(line) in _TRANSPORT]
    return Section((*lines, "a=inactive"))


def _silenced(offered: Section, like: Section) -> Section:
    """A section that stays in the bundle but carries nothing.

    As good as refused, and callers built on aiortc cannot read an answer that refuses a section.
    ``like`` lends its transport, since the section may be the one that stands for the bundle.
    """
    fields = offered.lines[0][2:].split()
    codecs = [line for line in offered.lines if name_of(line) in ("rtpmap", "fmtp")]
    lent = [line for line in like.lines if line[:2] == "c=" or name_of(line) in (*_TRANSPORT, "candidate")]
    media = f"m={fields[0]} {like.port} {' '.join(fields[2:])}"
    return Section((media, f"a=mid:{offered.mid}", "a=inactive", *codecs, *lent))
