"""Models of the architectures that sherpa-onnx loads, small enough to be written down: where it is loud they
say LOUD, where it gets quiet again QUIET. Their inputs, outputs and metadata are those of the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
MELS, WIDTH = 80, 4
LOUDER = 10.0  # than the natural logarithm of the energy of digital silence, 6 more
Value = tuple[str, int, Sequence[int | str]]
# Which of the tokens LOUD and QUIET was the last one, as the joiner wants it; a blank is neither.
FIRST_BLANK = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
LAST_BLANK = np.array([[1, 0], [0, 1], [0, 0]], np.float32)


def save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, Any],
    metadata: Mapping[str, object],
) -> None:
    given, found = ([helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs))
    initial = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), path.stem, given, found, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    onnx.save(model, str(path))


def loudness(
    features: str, *, mels: int, frames: int, end: int, step: int
) -> tuple[list[Any], dict[str, Any]]:
    """1 where it is loud, -1 where not, of every so many frames up to one."""
    constants = {
        "from": np.array([0]),
        "until": np.array([end]),
        "axis": np.array([frames]),
        "step": np.array([step]),
        "louder": np.array(LOUDER, np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", [features], ["mean"], axes=[mels], keepdims=1),
        helper.make_node("Slice", ["mean", "from", "until", "axis", "step"], ["some"]),
        helper.make_node("Add", ["some", "louder"], ["level"]),
        helper.make_node("Tanh", ["level"], ["loudness"]),
    ]
    return nodes, constants


def probabilities(levels: str, order: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Of a CTC model's tokens, from (N, frames, 1)."""
    constants = {"far": np.array(-20, np.float32), "steep": np.array(10, np.float32)}
    nodes = [
        helper.make_node("Mul", [levels, "steep"], ["loud"]),
        helper.make_node("Neg", ["loud"], ["quiet"]),
        helper.make_node("Abs", ["loud"], ["sure"]),
        helper.make_node("Add", ["sure", "far"], ["blank"]),
        helper.make_node("Concat", list(order), ["logits"], axis=2),
        helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=2),
    ]
    return nodes, constants


def zipformer(folder: Path, *, streaming: bool, ctc: bool = False) -> Path:
    """As icefall exports them. The states of a streaming one are handed through, but not used."""
    chunk, window = 32, 45
    nodes, constants = loudness("x", mels=2, frames=1, end=chunk if streaming else 1 << 40, step=4)
    (folder / "tokens.txt").write_text("<blk> 0\n\u2581LOUD 1\n\u2581QUIET 2\n")
    inputs: list[Value] = [("x", FLOAT, ["N", window if streaming else "T", MELS])]
    outputs: list[Value] = [("encoder_out", FLOAT, ["N", "frames", 1])]
    if ctc:
        outputs = [("log_probs", FLOAT, ["N", "frames", 3])]
        more, numbers = probabilities("loudness", ["blank", "loud", "quiet"])
        nodes, constants = nodes + more, constants | numbers
    else:
        nodes.append(helper.make_node("Identity", ["loudness"], ["encoder_out"]))
    metadata: dict[str, object] = {"model_type": "zipformer2"}
    if streaming:
        shapes: dict[str, tuple[int, Sequence[int | str]]] = {
            "cached_key_0": (FLOAT, [8, "N", 4]),
            "cached_nonlin_attn_0": (FLOAT, [1, "N", 8, 3 * WIDTH // 4]),
            "cached_val1_0": (FLOAT, [8, "N", 4]),
            "cached_val2_0": (FLOAT, [8, "N", 4]),
            "cached_conv1_0": (FLOAT, ["N", WIDTH, 3]),
            "cached_conv2_0": (FLOAT, ["N", WIDTH, 3]),
            "embed_states": (FLOAT, ["N", 128, 3, 19]),
            "processed_lens": (INT64, ["N"]),
        }
        inputs += [(name, *shape) for name, shape in shapes.items()]
        outputs += [(f"new_{name}", *shape) for name, shape in shapes.items()]
        nodes += [helper.make_node("Identity", [name], [f"new_{name}"]) for name in shapes]
        metadata |= {"T": window, "decode_chunk_len": chunk, "encoder_dims": WIDTH, "num_heads": 1}
        metadata |= {"query_head_dims": 4, "value_head_dims": 4, "num_encoder_layers": 1}
        metadata |= {"cnn_module_kernels": 7, "left_context_len": 8}
    else:
        inputs.append(("x_lens", INT64, ["N"]))
        outputs.append(("encoder_out_lens", INT64, ["N"]))
        four, three = np.array([4]), np.array([3])
        constants |= {"four": four, "three": three}
        nodes += [
            helper.make_node("Add", ["x_lens", "three"], ["more"]),
            helper.make_node("Div", ["more", "four"], ["encoder_out_lens"]),
        ]
    save(folder / ("model.onnx" if ctc else "encoder.onnx"), nodes, inputs, outputs, constants, metadata)
    if ctc:
        return folder
    nodes = [
        helper.make_node("Gather", ["y", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["known", "newest"], ["decoder_out"], axis=0),
    ]
    constants = {"last": np.array(1), "known": FIRST_BLANK}
    said: list[Value] = [("decoder_out", FLOAT, ["N", 2])]
    save(
        folder / "decoder.onnx",
        nodes,
        [("y", INT64, ["N", 2])],
        said,
        constants,
        {"vocab_size": 3, "context_size": 2},
    )
    nodes, constants = joined("encoder_out", "decoder_out", ["blank", "loud", "quiet"], axis=1)
    save(
        folder / "joiner.onnx",
        nodes,
        [("encoder_out", FLOAT, ["N", 1]), ("decoder_out", FLOAT, ["N", 2])],
        [("logit", FLOAT, ["N", 3])],
        constants,
        {"joiner_dim": 1},
    )
    return folder


def fast_conformer(folder: Path, languages: str = "", *, ctc: bool = False) -> Path:
    """A streaming one, as NeMo's are exported; ``languages``: its prompts, as Nemotron has them."""
    window, shift = 25, 16
    nodes, constants = loudness("audio_signal", mels=1, frames=2, end=shift, step=8)
    states: dict[str, tuple[int, Sequence[int | str]]] = {
        "cache_last_channel": (FLOAT, ["N", 1, 2, WIDTH]),
        "cache_last_time": (FLOAT, ["N", 1, WIDTH, 2]),
        "cache_last_channel_len": (INT64, ["N"]),
    }
    inputs: list[Value] = [("audio_signal", FLOAT, ["N", MELS, "T"]), ("length", INT64, ["N"])]
    inputs += [(name, *shape) for name, shape in states.items()]
    (folder / "tokens.txt").write_text("\u2581LOUD 0\n\u2581QUIET 1\n<blk> 2\n")
    outputs: list[Value] = [("outputs", FLOAT, ["N", 1, "frames"]), ("encoded_lengths", INT64, ["N"])]
    if ctc:
        outputs[0] = ("log_probs", FLOAT, ["N", "frames", 3])
        more, numbers = probabilities("upright", ["loud", "quiet", "blank"])
        nodes += [helper.make_node("Transpose", ["loudness"], ["upright"], perm=[0, 2, 1]), *more]
        constants |= numbers
    else:
        nodes.append(helper.make_node("Identity", ["loudness"], ["outputs"]))
    outputs += [(f"{name}_next", *shape) for name, shape in states.items()]
    nodes += [helper.make_node("Identity", [name], [f"{name}_next"]) for name in states]
    nodes.append(helper.make_node("Identity", ["length"], ["encoded_lengths"]))
    metadata: dict[str, object] = {"vocab_size": 2, "window_size": window, "chunk_shift": shift}
    metadata |= {"subsampling_factor": 8, "normalize_type": "NA", "pred_rnn_layers": 1, "pred_hidden": 2}
    metadata |= {"cache_last_channel_dim1": 1, "cache_last_channel_dim2": 2, "cache_last_channel_dim3": WIDTH}
    metadata |= {"cache_last_time_dim1": 1, "cache_last_time_dim2": WIDTH, "cache_last_time_dim3": 2}
    if languages:
        inputs.append(("prompt_index", INT64, ["N"]))
        metadata["prompt_dictionary"] = languages
    save(folder / ("model.onnx" if ctc else "encoder.onnx"), nodes, inputs, outputs, constants, metadata)
    if ctc:
        return folder
    hidden: list[Value] = [("h", FLOAT, [1, "N", 2]), ("c", FLOAT, [1, "N", 2])]
    nodes = [
        helper.make_node("Gather", ["known", "targets"], ["rows"], axis=0),
        helper.make_node("Transpose", ["rows"], ["decoder_out"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["target_length"], ["decoder_length"]),
        helper.make_node("Identity", ["h"], ["h_next"]),
        helper.make_node("Identity", ["c"], ["c_next"]),
    ]
    save(
        folder / "decoder.onnx",
        nodes,
        [("targets", INT32, ["N", "U"]), ("target_length", INT32, ["N"]), *hidden],
        [
            ("decoder_out", FLOAT, ["N", 2, "U"]),
            ("decoder_length", INT32, ["N"]),
            *((f"{name}_next", kind, shape) for name, kind, shape in hidden),
        ],
        {"known": LAST_BLANK},
        {},
    )
    nodes, constants = joined(
        "encoder_outputs", "decoder_outputs", ["loud", "quiet", "blank"], axis=1, out="all"
    )
    constants["shape"] = np.array([-1, 1, 1, 3])
    nodes.append(helper.make_node("Reshape", ["all", "shape"], ["logit"]))
    save(
        folder / "joiner.onnx",
        nodes,
        [("encoder_outputs", FLOAT, ["N", 1, 1]), ("decoder_outputs", FLOAT, ["N", 2, 1])],
        [("logit", FLOAT, ["N", 1, 1, 3])],
        constants,
        {},
    )
    return folder


def joined(
    encoder: str, decoder: str, order: Sequence[str], *, axis: int, out: str = "logit"
) -> tuple[list[Any], dict[str, Any]]:
    """What each token has for it: it is as loud, or as quiet, and was not the last one."""
    constants = {
        "strong": np.array(10, np.float32),
        "never": np.array(-20, np.float32),
        "nothing": np.array(0, np.float32),
        "halves": np.array([1, 1]),
    }
    nodes = [
        helper.make_node("Split", [decoder, "halves"], ["was_loud", "was_quiet"], axis=axis),
        helper.make_node("Mul", [encoder, "strong"], ["is_loud"]),
        helper.make_node("Neg", ["is_loud"], ["is_quiet"]),
        helper.make_node("Mul", ["was_loud", "never"], ["not_loud"]),
        helper.make_node("Mul", ["was_quiet", "never"], ["not_quiet"]),
        helper.make_node("Add", ["is_loud", "not_loud"], ["loud"]),
        helper.make_node("Add", ["is_quiet", "not_quiet"], ["quiet"]),
        helper.make_node("Mul", [encoder, "nothing"], ["blank"]),
        helper.make_node("Concat", list(order), [out], axis=axis),
    ]
    return nodes, constants
