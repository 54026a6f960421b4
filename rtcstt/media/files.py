"""Recordings of any kind that FFmpeg reads: the one reader of the command, the batch endpoint and the caller.

    file -> parts -> container -> packets -> frames -> 16 kHz float32, mixed or in channels -> `Sound`

Times are the container's: holes in it are silence here, and what is missing because the file is damaged is
said as a `Gap`. Only the file itself is opened, and only as one of the kinds in `kinds`.
"""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from rtcstt.errors import FileError
from rtcstt.media import joined, kinds, raw, truncation
from rtcstt.media.mixing import Floats
from rtcstt.media.pcm import Samples
from rtcstt.media.skipped import Skipped
from rtcstt.media.tracks import (
    MAX_CHANNELS,
    MISSING_S,
    RATES,
    SHORTEST_GAP_S,
    FileInfo,
    Gap,
    Part,
    RawAudio,
    ReadSettings,
    Sound,
    Track,
)
from rtcstt.media.window import Window, mapped

OPUS_RATE = 48000
MAX_STREAMS = 16  # read at once with ``stream="all"``
ERRORS_IN_A_ROW = 1000  # of the container's, before the rest is given up
SILENT = 2 / 32768  # a stream whose loudest sample is no louder is silent
_PROTOCOLS = {"format_whitelist": kinds.DEMUXERS, "protocol_whitelist": "none"}


def read(path: str | Path, rate: int = OPUS_RATE) -> Samples:
    """A whole recording as mono int16 at ``rate`` Hz. Raises `FileError`."""
    try:
        parts = list(AudioFile(path, ReadSettings(rate=rate)))
    except FileError as error:
        raise FileError(f"cannot read audio from {path}: {error}") from error
    whole = np.concatenate([part.samples[0] for part in parts if isinstance(part, Sound)]) * 32768
    samples: Samples = np.clip(np.rint(whole), -32768, 32767).astype(np.int16)
    return samples


class AudioFile:
    """Iterate it once: the recording's sound and gaps in order, each channel's without a hole.

    Raises `FileError`: when it is made if the file cannot be read, while iterating if no sound can be
    decoded. ``tick`` is called for each packet, also where nothing comes of it.
    """

    def __init__(
        self, path: str | Path, settings: ReadSettings | None = None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings or ReadSettings()
        self._tick = tick
        self._path = Path(path)
        self._notes: list[str] = []
        self._latest = 0.0  # s, of the streams that are not read
        try:
            if not stat.S_ISREG(self._path.stat().st_mode) and not self._path.is_dir():
                raise FileError("cannot be read: it is no file but a pipe or a device (- is standard input)")
            with mapped(self._path) as data:
                self._parts = [(0, 0)] if self._settings.raw else joined.parts(data)
        except (OSError, ValueError) as error:
            reason = (
                "it is a folder without recordings" if isinstance(error, IsADirectoryError) else _plain(error)
            )
            raise FileError(f"cannot be read: {reason}") from error
        self.info = self._describe()

    def _describe(self) -> FileInfo:
        if self._settings.raw:
            return _describe_raw(self._settings)
        with self._open(*self._parts[0]) as container:
            streams = self._choose(container, self._parts[0])
            others = [s for s in container.streams.audio if s not in streams]
            if others:
                names = ", ".join(_stream_name(container, stream) for stream in others)
                chosen = ", ".join(_stream_name(container, stream) for stream in streams)
                self._notes.append(f"read: audio stream {chosen}; left out: {names} (--audio-stream)")
            channels = sum(_channels(stream, self._settings) for stream in streams)
            duration = _stated(container, streams[0]) if len(self._parts) == 1 else None
            return FileInfo(container.format.name, duration, channels, tuple(self._notes))

    def __iter__(self) -> Iterator[Part]:
        if self._settings.raw:
            yield from self._raw(self._settings.raw)
            return
        tracks: list[Track] = []
        place = self._parts[0][0]
        for begin, end in self._parts:
            if tracks and begin > place:  # what lies between cannot be read
                tracks[0].note_damage(seconds=tracks[0].position * (begin - place) / place)
            yield from self._part(begin, end, tracks)
            place = end
        for track in tracks:
            yield from track.flush()
        if not any(track.decoded for track in tracks):
            raise FileError("no sound in it can be decoded")

    def _part(self, begin: int, end: int, tracks: list[Track]) -> Iterator[Part]:
        """One of the recordings that the file is joined of."""
        try:
            container = self._open(begin, end)
        except FileError:
            if len(self._parts) == 1:
                raise
            yield from (track.damaged() for track in tracks[:1])
            return
        with container:
            streams = self._choose(container, (begin, end))
            channel = 0
            for number, stream in enumerate(streams):
                if number == len(tracks):
                    tracks.append(Track(self._settings, channel, _channels(stream, self._settings)))
                tracks[number].begin(container)
                channel += tracks[number].channels
            by_index = {stream.index: track for stream, track in zip(streams, tracks, strict=False)}
            self._latest = 0.0
            before = tracks[0].position
            yield from self._decoded(container, streams, by_index, begin)
            missing = self._missing(container, streams[0], (begin, end), tracks[0].position - before)
            last = (begin, end) == self._parts[-1]
            yield from tracks[0].truncated(missing if last or not missing else math.inf)

    def _missing(
        self, container: InputContainer, stream: AudioStream, part: tuple[int, int], read: float
    ) -> float:
        """Seconds of audio that the file says it has behind those that were ``read``; infinite where it is
        cut and nothing says by how much."""
        kind = container.format.name
        with self._path.open("rb") as file:
            stated = truncation.stated(file, *part, kind)
        length = stated.seconds
        if kind in kinds.WITH_LENGTH | kinds.WITH_LENGTH_OR_NOT:
            length = _stated(container, stream)
        elif kind in kinds.FILMS_WITH_LENGTH and container.duration:
            length = float(container.duration / av.time_base)
        if kind in kinds.FILMS and self._latest - read > MISSING_S:
            return 0.0  # its picture goes on without sound
        if length and length - read > MISSING_S:
            return length - read
        if length and kind not in kinds.WITH_LENGTH_OR_NOT and read - length < MISSING_S:
            return 0.0
        missing = math.inf if math.isinf(stated.share) else read * (stated.share - 1)
        return missing if missing > SHORTEST_GAP_S else 0.0

    def _note_other(self, container: InputContainer, packet: av.Packet[Any]) -> None:
        """How far the streams go that are not read."""
        if packet.pts is not None and packet.time_base is not None:
            start = 0 if container.format.name in kinds.FROM_ZERO else (container.start_time or 0)
            self._latest = max(self._latest, float(packet.pts * packet.time_base) - start / av.time_base)

    def _decoded(
        self,
        container: InputContainer,
        streams: Sequence[AudioStream],
        tracks: dict[int, Track],
        begin: int,
    ) -> Iterator[Part]:
        losses = _Losses(container, streams, tracks, self._path, begin)
        for packet in self._packets(container, streams):
            if packet is None:
                losses.unreadable()
                continue
            yield from losses.before(packet)
            if packet.stream.index not in tracks:
                self._note_other(container, packet)
                continue
            track = tracks[packet.stream.index]
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                losses.undecodable(packet, track)
                continue
            losses.decoded(packet)
            for frame in frames:
                if isinstance(frame, av.AudioFrame) and frame.samples:
                    yield from track.push(frame)
            if all(track.is_over for track in tracks.values()):
                return
        losses.end()

    def _packets(
        self, container: InputContainer, streams: Sequence[AudioStream]
    ) -> Iterator[av.Packet[Any] | None]:
        """None: something could not be read, but what comes after can be."""
        errors = 0
        wanted = () if container.format.name in kinds.FILMS else streams  # (): all
        while errors < ERRORS_IN_A_ROW:
            try:
                for packet in container.demux(*wanted):
                    self._tick()
                    errors = 0
                    yield packet
                return
            except EOFError:
                return
            except IndexError:  # of a stream that only begins here: PyAV has none
                self._tick()
            except av.FFmpegError:
                self._tick()
                errors += 1
                yield None

    def _choose(self, container: InputContainer, part: tuple[int, int]) -> list[AudioStream]:
        streams = list(container.streams.audio)
        if not streams:
            raise FileError("there is no audio in it")
        wanted = self._settings.stream
        if wanted == "all":
            return streams[:MAX_STREAMS]
        if wanted is not None:
            if not 0 <= wanted < len(streams):
                raise FileError(f"there is no audio stream {wanted}; it has {len(streams)}, counted from 0")
            return [streams[wanted]]
        if len(streams) == 1:
            return streams
        ordered = sorted(streams, key=lambda stream: not stream.disposition & stream.disposition.default)
        for stream in ordered:
            if self._has_sound(stream.index, part):
                return [stream]
        return ordered[:1]

    def _has_sound(self, index: int, part: tuple[int, int]) -> bool:
        with self._open(*part) as container:
            stream = container.streams[index]
            assert isinstance(stream, AudioStream)
            track = Track(ReadSettings(), 0, 1)
            track.begin(container)
            decoded = self._decoded(container, [stream], {index: track}, part[0])
            return any(
                isinstance(part, Sound) and float(np.abs(part.samples).max()) > SILENT
                for part in itertools.chain(decoded, track.flush())
            )

    def _open(self, begin: int, end: int) -> InputContainer:
        window = Window(self._path, begin, end, self._settings.ending or self._path.suffix)
        try:
            container = av.open(
                window, "r", metadata_errors="ignore", container_options=_PROTOCOLS, buffer_size=1 << 17
            )
        except (av.FFmpegError, OSError, ValueError, UnicodeError) as error:
            window.seek(0)
            kind = kinds.guess(window.read(4096))
            window.close()
            what = f"it is {kind}" if kind else "it is no audio or video of a kind that is known"
            raise FileError(f"cannot be read: {what}") from error
        assert isinstance(container, InputContainer)
        return container

    def _raw(self, declared: RawAudio) -> Iterator[Part]:
        track = Track(self._settings, 0, _describe_raw(self._settings).channels)
        layout = {1: "mono", 2: "stereo"}.get(declared.channels, f"{declared.channels} channels")
        size = raw.width(declared.encoding) * declared.channels
        with self._path.open("rb") as file:
            while (data := file.read(size * declared.rate)) and not track.is_over:
                self._tick()
                samples = raw.samples(declared.encoding, data[: len(data) - len(data) % size])
                if len(samples):
                    yield from track.push(_frame(samples, layout, declared))
        yield from track.flush()
        if not track.decoded:
            raise FileError("there is no audio in it")


class _Losses:
    """What a container's packets, and its decoder, do not give of what is in it."""

    def __init__(
        self,
        container: InputContainer,
        streams: Sequence[AudioStream],
        tracks: dict[int, Track],
        path: Path,
        begin: int,
    ) -> None:
        self._container = container
        self._kind = container.format.name
        self._tracks = list(tracks.values())
        self._began = self._tracks[0].position
        self._read = 0  # bytes that became sound
        self._skipped = Skipped() if _all_is_read(container, streams) else None
        self._path, self._begin = path, begin
        self._is_first = True

    def unreadable(self) -> None:
        """The container is, in some place; it may go on."""
        for track in self._tracks:
            track.note_damage(unreadable=True)

    def before(self, packet: av.Packet[Any]) -> Iterator[Gap]:
        """What was left out before it."""
        if self._is_first and self._kind == "ogg" and packet.pos is not None:
            with mapped(self._path) as data:
                place = self._begin + packet.pos
                if joined.first_page(data, self._begin, place) < place:
                    yield self._tracks[0].damaged()
        self._is_first = False
        if self._skipped is None:
            return
        seconds = self._skipped.take(packet.pos, packet.size, self._seconds)
        for track in self._tracks if seconds >= SHORTEST_GAP_S else ():
            if self._kind in kinds.UNTIMED | kinds.COUNTED:
                track.note_damage(seconds=seconds)
            else:
                yield from track.note_skipped()

    def undecodable(self, packet: av.Packet[Any], track: Track) -> None:
        if packet.size:  # an empty one, at the end, asks for what the decoder still has
            known = self._kind in kinds.UNTIMED and self._read
            track.note_damage(seconds=self._seconds * packet.size / self._read if known else 0.0)

    def decoded(self, packet: av.Packet[Any]) -> None:
        self._read += packet.size

    def end(self) -> None:
        """All packets were read: is something behind them?"""
        if self._skipped is not None and self._kind in kinds.NOTHING_BEHIND:
            if self._skipped.rest(self._container.size, self._seconds) > MISSING_S:
                self.unreadable()

    @property
    def _seconds(self) -> float:
        return self._tracks[0].position - self._began


def _frame(samples: Floats, layout: str, declared: RawAudio) -> av.AudioFrame:
    frame = av.AudioFrame(format="flt", layout=layout, samples=len(samples) // declared.channels)
    frame.planes[0].update(samples.tobytes())
    frame.sample_rate = declared.rate
    return frame


def _all_is_read(container: InputContainer, streams: Sequence[AudioStream]) -> bool:
    """Whether the packets of all that is in it come, in the order of the file."""
    kind = container.format.name
    pictures = [
        stream for stream in container.streams if stream.disposition & stream.disposition.attached_pic
    ]
    alone = len(container.streams) - len(pictures) == len(streams)
    return kind not in kinds.INDEXED and (kind in kinds.FILMS or alone)


def _channels(stream: AudioStream, settings: ReadSettings) -> int:
    count = stream.codec_context.channels
    if count > MAX_CHANNELS:
        raise FileError(f"it has {count} channels; at most {MAX_CHANNELS} can be read")
    return max(1, count) if settings.split else 1


def _stated(container: InputContainer, stream: AudioStream) -> float | None:
    """The length in s that the file says it has."""
    if stream.duration is not None and stream.time_base is not None:
        start = stream.start_time or 0 if container.format.name in kinds.FROM_ZERO else 0
        return float((start + stream.duration) * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _stream_name(container: InputContainer, stream: AudioStream) -> str:
    number = list(container.streams.audio).index(stream)
    words = [stream.metadata.get("language"), stream.metadata.get("title")]
    about = ", ".join(word for word in words if word and word != "und")
    return f"{number} ({about})" if about else f"{number}"


def _describe_raw(settings: ReadSettings) -> FileInfo:
    declared = settings.raw
    assert declared is not None
    if declared.encoding not in raw.ENCODINGS:
        raise FileError(f"{declared.encoding} is none of {', '.join(raw.ENCODINGS)}")
    if declared.rate not in RATES:
        raise FileError(f"its rate is {declared.rate} Hz; from {RATES[0]} to {RATES[-1]} Hz can be read")
    if not 1 <= declared.channels <= MAX_CHANNELS:
        raise FileError(f"it has {declared.channels} channels; 1 to {MAX_CHANNELS} can be read")
    return FileInfo(declared.encoding, None, declared.channels if settings.split else 1)


def _plain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
