"""Sessions of onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rtcstt.errors import EngineError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Graph(NamedTuple):
    """The names of a model's inputs, and what it says of itself."""

    inputs: frozenset[str]
    metadata: Mapping[str, str]


def graph(path: Path) -> Graph:
    """Reads the whole model: only for what is loaded once."""
    opened = session(path)
    metadata = opened.get_modelmeta().custom_metadata_map
    return Graph(frozenset(each.name for each in opened.get_inputs()), metadata)


def session(path: Path, *, arena: bool = False, device: str = "cpu") -> Any:
    """An onnxruntime session that runs in the thread that calls it, or on a GPU."""
    onnxruntime, name = _onnxruntime(), provider(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    # One is kept for every shape of input, and there is no end of those: half a megabyte a minute.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(dict.fromkeys((name, PROVIDERS["cpu"])))
        )
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise EngineError(f"{path.name} cannot be loaded: {error}") from error


def provider(device: str) -> str:
    """What onnxruntime runs on; `EngineError` where it cannot, since left alone it takes the CPU."""
    name = PROVIDERS.get(device)
    if name is None:
        raise EngineError(f"there is no device {device!r}; name {' or '.join(PROVIDERS)}")
    if name not in _onnxruntime().get_available_providers():
        raise EngineError(f"this onnxruntime cannot use {device}; one that can: pip install onnxruntime-gpu")
    return name


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:  # no wheel of it for this system, or one that does not load
        raise EngineError(f"the embedded recogniser needs the package onnxruntime: {error}") from error
    return onnxruntime
