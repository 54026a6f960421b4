"""A process that reads recordings, one after another, for `rtcstt.reading`: what a file does to a decoder
ends this process and nothing else.

    python -m rtcstt.file_worker

Requests come on stdin, a JSON object a line: ``path`` and the fields of `ReadSettings`. Answers leave on
stdout: each a header (`HEADER`: kind and length) and its body; `DONE` or `ERROR` is a file's last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import time
from dataclasses import asdict
from typing import Any, BinaryIO

import av
import numpy as np

from rtcstt.errors import FileError
from rtcstt.media.files import AudioFile
from rtcstt.media.tracks import FileInfo, Gap, Part, RawAudio, ReadSettings, Sound

HEADER = struct.Struct("<cI")
INFO, SOUND, GAP, TICK, DONE, ERROR = b"I", b"S", b"G", b"T", b"D", b"E"
SOUND_HEADER = struct.Struct("<IIQ")  # first channel, channels, first sample
TICK_S = 1.0  # at least one message in so long, while packets are read
NICENESS = 5  # calls go first: a delay of theirs is noticed, one of a recording is not
MAX_MEMORY = 4 << 30  # of address space; a decoder that wants more is stopped


def encode(part: Part | FileInfo) -> tuple[bytes, bytes]:
    """The kind and body of a message."""
    if isinstance(part, Sound):
        header = SOUND_HEADER.pack(part.channel, len(part.samples), part.start)
        return SOUND, header + part.samples.astype("<f4", copy=False).tobytes()
    return (GAP if isinstance(part, Gap) else INFO), json.dumps(asdict(part)).encode()


def decode(kind: bytes, body: bytes) -> Part | FileInfo:
    """The inverse of `encode`."""
    if kind == SOUND:
        channel, channels, start = SOUND_HEADER.unpack_from(body)
        samples = np.frombuffer(body, "<f4", offset=SOUND_HEADER.size).reshape(channels, -1)
        return Sound(channel, start, samples.astype(np.float32, copy=False))
    fields = json.loads(body)
    if kind == GAP:
        return Gap(**fields)
    return FileInfo(**{**fields, "notes": tuple(fields["notes"])})


def request(path: str, settings: ReadSettings) -> bytes:
    """A line that asks for a file; any name can be in it."""
    return json.dumps({"path": path, **asdict(settings)}).encode() + b"\n"


def parse_request(line: bytes) -> tuple[str, ReadSettings]:
    fields: dict[str, Any] = json.loads(line)
    path = fields.pop("path")
    declared = fields.pop("raw")
    return path, ReadSettings(raw=RawAudio(**declared) if declared else None, **fields)


class Worker:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._said_at = time.monotonic()

    def serve(self, line: bytes) -> None:
        """Answer one request."""
        path, settings = parse_request(line)
        try:
            file = AudioFile(path, settings, self._tick)
            self._send(*encode(file.info))
            for part in file:
                self._send(*encode(part))
        except FileError as error:
            self._send(ERROR, json.dumps([str(error), error.code]).encode())
        except MemoryError:
            self._send(
                ERROR, json.dumps(["it needs more memory than a recording may", "unreadable"]).encode()
            )
        except (OSError, ValueError, av.FFmpegError) as error:
            self._send(ERROR, json.dumps([f"cannot be decoded: {error}", "unreadable"]).encode())
        else:
            self._send(DONE, b"")

    def _tick(self) -> None:
        if time.monotonic() - self._said_at > TICK_S:
            self._send(TICK, b"")

    def _send(self, kind: bytes, body: bytes) -> None:
        self._out.write(HEADER.pack(kind, len(body)) + body)
        self._out.flush()
        self._said_at = time.monotonic()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    av.logging.set_level(av.logging.PANIC)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker(sys.stdout.buffer)
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            worker.serve(line)


if __name__ == "__main__":
    main()
