"""Measurements of rtcstt beside plain aiortc, in the same run. `python -m benchmarks` runs them all.

Figures of this kind mean something only beside each other: on the same machine, in the same minutes.
"""
