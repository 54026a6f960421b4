"""FFmpeg's WHIP muxer, as PyAV's wheels carry it: ffmpeg_whip.py WHIP_URL FILE SECONDS [CERT KEY].

Sends the beginning of a recording as Opus in real time, then ends the session as FFmpeg does (DELETE). Prints
``{"opened_s"}``: how long it took from the offer to the connection. FFmpeg logs to standard error.
"""

from __future__ import annotations

import json
import sys
import time

import av
import av.logging


def main(url: str, recording: str, seconds: str, *certificate: str) -> None:
    av.logging.set_level(av.logging.INFO)
    options = dict(zip(("cert_file", "key_file"), certificate, strict=False))
    with av.open(recording) as source, av.open(url, "w", format="whip", options=options) as out:
        stream = out.add_stream("libopus", rate=48000, layout="stereo")
        resampler = av.AudioResampler("s16", "stereo", 48000, 960)
        begin = time.monotonic()
        out.start_encoding()
        print(json.dumps({"opened_s": time.monotonic() - begin}), flush=True)
        begin = time.monotonic()
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                at = (part.pts or 0) * float(part.time_base or 0)
                if at > float(seconds):
                    break
                time.sleep(max(0.0, begin + at - time.monotonic()))
                out.mux(stream.encode(part))
        out.mux(stream.encode(None))


if __name__ == "__main__":
    main(*sys.argv[1:])
