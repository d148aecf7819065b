"""The inside of a network as features: what an encoder saw, taken out of its ONNX graph.

A segmentation network shrinks the picture in stages and then widens it again. The last tensor of each
stage says what is there, at a coarser and coarser grain. The graph is rewritten so that it ends in these
tensors: the part that widens is never computed. No library for ONNX graphs is needed: the few fields that
matter are read from the file's protocol buffers (github.com/onnx/onnx, onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoslave.errors import ModelError

_GRAPH, _NODE, _OUTPUT = 7, 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND = _OF_NODES = (1, 2, 4)
_SHAPELESS = frozenset(
    ("Constant", "Shape", "Gather", "Unsqueeze", "Squeeze", "Cast", "Slice", "Split", "ConstantOfShape", "Range")
)
_PROCESSOR = Path("/proc/cpuinfo")
_PROBE = 64
"""Sides of the picture that the stages are found with."""


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Encoder:
    """The stages of a network's encoder, on a processor."""

    def __init__(self, onnx: Path, bands: int, threads: int | None = None) -> None:
        """
        Args:
            onnx: a graph with one input [n, band, y, x].

        Raises:
            ModelError: if it is no such graph.
        """
        content = onnx.read_bytes()
        self._threads = threads
        self._path = onnx
        try:
            self._names = self._stages(content, bands)
            self._session = self._open(_ending_in(content, self._names))
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"{onnx} cannot be used as an encoder ({_short(error)}): check the package") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, scaled: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of scaled pixels [n, band, y, x]: [n, channel, y, x] of each stage, finest first.

        A graph whose output is one vector a picture gives [n, channel, 1, 1].
        """
        found = self._session.run(None, {self._input: scaled})
        return [_as_map(one) for one in found]

    def _stages(self, content: bytes, bands: int) -> list[str]:
        """Names of the tensors at the end of each stage."""
        session = self._open(content)
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise ModelError(f"{self._path} takes no single input [n, band, y, x]: give another graph")
        told = inputs[0].shape[1]
        if isinstance(told, int) and told != bands:
            raise ModelError(f"{self._path} takes {told} bands, its description names {bands}: mend the description")
        ends = list(session.get_outputs())
        if len(ends) == 1 and len(ends[0].shape) in (2, 3):  # it gives a vector, or one for each patch, by itself
            return [ends[0].name]
        nodes = list(_nodes(content))
        names = [node.outputs[0] for node in nodes if node.kind not in _SHAPELESS and node.outputs]
        side = [size if isinstance(size, int) else _PROBE for size in inputs[0].shape[2:]]
        probe = self._open(_ending_in(content, names))
        values = probe.run(None, {inputs[0].name: np.zeros((1, bands, *side), np.float32)})
        return _ends_of_stages(nodes, {name: np.shape(value) for name, value in zip(names, values, strict=True)})

    def _open(self, content: bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if self._threads:
            options.intra_op_num_threads = self._threads
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if _overflows():
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _overflows() -> bool:
    """Whether the quick way to add up products of eight bits may overflow here: in processors without VNNI."""
    try:
        return "vnni" not in _PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: the slow way is right everywhere
        return True


def _ends_of_stages(nodes: Sequence[_Node], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the last tensor of each size on the way down, finest first.

    Args:
        nodes: in the order of computing.
        shapes: of their first outputs, as far as these may be pictures.
    """
    maps = [(at, node.outputs[0]) for at, node in enumerate(nodes) if node.outputs and len(_shape(node, shapes)) == 4]
    if not maps:
        raise ModelError("the graph holds no picture-like tensor: give an encoder of images")
    area = {name: shapes[name][2] * shapes[name][3] for _, name in maps}
    bottom = max(at for at, name in maps if area[name] == min(area.values()))
    # what the way up takes over from the way down is where a stage ends
    taken_over = {name for node in nodes[bottom + 1 :] for name in node.inputs}
    ends: dict[int, str] = {}
    for at, name in maps:
        if at == bottom or (at < bottom and name in taken_over and shapes[name][1] > 4):
            ends[area[name]] = name
    return [ends[size] for size in sorted(ends, reverse=True)]


def _shape(node: _Node, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return shapes.get(node.outputs[0], ())


def _as_map(values: Any) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if array.ndim == 2:
        return array[:, :, None, None]
    if array.ndim == 3:  # [n, patch, channel]
        return array.transpose(0, 2, 1)[:, :, :, None]
    return array


# ---------------------------------------------------------------- protocol buffers


def _fields(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, kind, bytes with the tag) of the fields of a message; the value of kind 2 is cut by `_value`."""
    at = 0
    while at < len(content):
        begin = at
        tag, at = _number(content, at)
        kind = tag & 7
        if kind == 0:
            _, at = _number(content, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, at = _number(content, at)
            at += size
        elif kind == 5:
            at += 4
        else:
            raise ModelError("the ONNX file is damaged: fetch the model again")
        yield tag >> 3, kind, content[begin:at]


def _value(field: memoryview) -> memoryview:
    """What a field of kind 2 holds."""
    _, at = _number(field, 0)
    size, at = _number(field, at)
    return field[at : at + size]


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """(a varint, where it ends)."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    parts = bytearray()
    while True:
        parts.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _graph(content: bytes) -> memoryview:
    for number, kind, field in _fields(memoryview(content)):
        if number == _GRAPH and kind == 2:
            return _value(field)
    raise ModelError("the ONNX file holds no graph: fetch the model again")


def _nodes(content: bytes) -> Iterator[_Node]:
    for number, _, field in _fields(_graph(content)):
        if number == _NODE:
            parts = [(n, bytes(_value(part)).decode()) for n, _, part in _fields(_value(field)) if n in _OF_NODES]
            inputs, outputs = (tuple(text for n, text in parts if n == which) for which in _OF_NODES[:2])
            yield _Node(next((text for n, text in parts if n == _NODE_KIND), ""), inputs, outputs)


def _ending_in(content: bytes, names: Sequence[str]) -> bytes:
    """The same graph with other outputs: the named tensors."""
    kept = b"".join(bytes(field) for number, _, field in _fields(_graph(content)) if number != _OUTPUT)
    ends = b"".join(_field(_OUTPUT, _field(1, name.encode())) for name in names)
    others = b"".join(bytes(field) for number, _, field in _fields(memoryview(content)) if number != _GRAPH)
    return others + _field(_GRAPH, kept + ends)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
