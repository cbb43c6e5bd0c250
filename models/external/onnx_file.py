"""Read the declarations of an ONNX file before an engine gets it: inputs, outputs, tensors, operators.

A file is a tree of protocol buffers (github.com/onnx/onnx, onnx.proto). This module walks over it without a copy, so
that a file that names other files, declares more than it holds, or needs foreign code is refused with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from simile.core.errors import CheckpointDamaged

MIN_OPSET, MAX_OPSET = 7, 28  # of the standard operators; 28 is ONNX 1.23
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
MAX_FIELDS = 5_000_000  # a network of a gigabyte has some ten thousand
MAX_DEPTH = 32  # of graphs inside nodes
FLOAT32 = 1  # as element types are numbered
_ELEMENTS_PER_BYTE = 4  # at most, for the smallest types

# Field numbers.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 7, 8, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_SPARSE_TENSORS = 1, 5, 11, 12, 15
_NODE_TYPE, _NODE_ATTRIBUTES, _NODE_DOMAIN = 4, 5, 7
_FUNCTION_NODES, _FUNCTION_DOMAIN = 7, 10
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSOR_PARTS = (1, 2)
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 8, 13, 14
_TENSOR_DATA = (4, 5, 6, 7, 9, 10, 11)

Field = tuple[int, "int | memoryview"]  # a field's number, and its value


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph."""

    name: str
    element_type: int
    shape: tuple[int | None, ...]  # None for a dimension that is free


@dataclass
class OnnxInterface:
    """The inputs and outputs that a file declares."""

    inputs: list[OnnxValue] = field(default_factory=list)  # that must be given
    outputs: list[OnnxValue] = field(default_factory=list)


def read_onnx(data: bytes, name: str) -> OnnxInterface:
    """Check an ONNX file and return its inputs and outputs. Raises CheckpointDamaged with `name` and the reason."""
    try:
        return _OnnxReader(name).read(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointDamaged(f"{name} is no ONNX file, or a damaged one ({error}). Export it again.") from None


class _OnnxReader:
    """Walks over one file, and counts what it has read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = 0

    def read(self, model: memoryview) -> OnnxInterface:
        graphs: list[memoryview] = []
        opsets: dict[str, int] = {}
        functions: list[memoryview] = []
        for number, value in self._iterate(model):
            if number == _MODEL_GRAPH:
                graphs.append(_as_bytes(value))
            elif number == _MODEL_OPSETS:
                opset = dict(self._iterate(_as_bytes(value)))
                opsets[_as_text(opset.get(_OPSET_DOMAIN, memoryview(b"")))] = int(opset.get(_OPSET_VERSION, 0))
            elif number == _MODEL_FUNCTIONS:
                functions.append(_as_bytes(value))
        if len(graphs) != 1:
            raise ValueError("it has no graph")
        version = opsets.get("", opsets.get("ai.onnx", 0))
        if not MIN_OPSET <= version <= MAX_OPSET:
            raise self._refuse(
                f"is of opset {version}, and the engines know {MIN_OPSET} to {MAX_OPSET}", "Export it with opset 17."
            )
        domains = {*KNOWN_DOMAINS}
        bodies = []
        for function in functions:
            parts = list(self._iterate(function))
            domains |= {_as_text(value) for number, value in parts if number == _FUNCTION_DOMAIN}
            bodies += [_as_bytes(value) for number, value in parts if number == _FUNCTION_NODES]
        for body in bodies:
            self._read_node(body, domains, 0)
        return self._read_graph(graphs[0], domains, 0)

    def _read_graph(self, graph: memoryview, domains: set[str], depth: int) -> OnnxInterface:
        if depth > MAX_DEPTH:
            raise ValueError("its graphs are nested too deeply")
        interface, initialised = OnnxInterface(), set()
        for number, value in self._iterate(graph):
            if number == _GRAPH_NODES:
                self._read_node(_as_bytes(value), domains, depth)
            elif number == _GRAPH_TENSORS:
                initialised.add(self._read_tensor(_as_bytes(value)))
            elif number == _GRAPH_SPARSE_TENSORS:
                self._read_sparse_tensor(_as_bytes(value))
            elif number == _GRAPH_INPUTS:
                interface.inputs.append(self._read_value(_as_bytes(value)))
            elif number == _GRAPH_OUTPUTS:
                interface.outputs.append(self._read_value(_as_bytes(value)))
        interface.inputs = [value for value in interface.inputs if value.name not in initialised]
        return interface

    def _read_node(self, node: memoryview, domains: set[str], depth: int) -> None:
        domain, kind = "", ""
        for number, value in self._iterate(node):
            if number == _NODE_DOMAIN:
                domain = _as_text(value)
            elif number == _NODE_TYPE:
                kind = _as_text(value)
            elif number == _NODE_ATTRIBUTES:
                for part, content in self._iterate(_as_bytes(value)):
                    if part in _ATTRIBUTE_TENSORS:
                        self._read_tensor(_as_bytes(content))
                    elif part in _ATTRIBUTE_SPARSE_TENSORS:
                        self._read_sparse_tensor(_as_bytes(content))
                    elif part in _ATTRIBUTE_GRAPHS:
                        self._read_graph(_as_bytes(content), domains, depth + 1)
        if domain not in domains:
            raise self._refuse(
                f"uses the custom operator {domain}.{kind}, which needs code that simile does not load",
                "Export it with standard operators only.",
            )

    def _read_sparse_tensor(self, tensor: memoryview) -> None:
        for number, value in self._iterate(tensor):
            if number in _SPARSE_TENSOR_PARTS:
                self._read_tensor(_as_bytes(value))

    def _read_tensor(self, tensor: memoryview) -> str:
        """Check a tensor and return its name."""
        dims: list[int] = []
        name, size = "", 0
        for number, value in self._iterate(tensor):
            if number == _TENSOR_DIMS:
                dims += [value] if isinstance(value, int) else _read_varints(value)
            elif number == _TENSOR_NAME:
                name = _as_text(value)
            elif number in (_TENSOR_EXTERNAL, _TENSOR_LOCATION) and value:
                raise self._refuse(
                    "keeps its weights in other files, which simile does not open",
                    "Export it as one file (torch.onnx.export with external_data=False), or convert it: "
                    'onnx.save(onnx.load("in.onnx"), "out.onnx").',
                )
            elif number in _TENSOR_DATA:
                size += 8 if isinstance(value, int) else len(value)
        if math.prod(dims) > _ELEMENTS_PER_BYTE * size:
            raise self._refuse(
                f"declares {math.prod(dims):,} values for the tensor {name!r}, and holds {size:,} bytes of them",
                "It is damaged or was made to take memory.",
            )
        return name

    def _read_value(self, value: memoryview) -> OnnxValue:
        """Return an input or output: its name (1), and of its type (2) the tensor (1) with element type and shape."""
        parts = dict(self._iterate(value))
        kind = dict(self._iterate(_as_bytes(parts.get(2, memoryview(b"")))))
        tensor = dict(self._iterate(_as_bytes(kind.get(1, memoryview(b"")))))
        shape: list[int | None] = []
        for number, content in self._iterate(_as_bytes(tensor.get(2, memoryview(b"")))):
            if number == 1:
                dim = dict(self._iterate(_as_bytes(content)))
                shape.append(int(dim[1]) if isinstance(dim.get(1), int) else None)
        return OnnxValue(_as_text(parts[1]), int(tensor.get(1, 0)), tuple(shape))

    def _iterate(self, message: memoryview) -> Iterator[Field]:
        """Yield the fields of a message. Raises ValueError if they do not fill it exactly."""
        position = 0
        while position < len(message):
            self._count += 1
            if self._count > MAX_FIELDS:
                raise ValueError("it has too many parts")
            key, position = _read_varint(message, position)
            number, wire_type = key >> 3, key & 7
            if wire_type == 0:
                value, position = _read_varint(message, position)
                yield number, value
                continue
            if wire_type not in (1, 2, 5):
                raise ValueError("it has a field of an unknown type")
            length = {1: 8, 5: 4}.get(wire_type)
            if length is None:
                length, position = _read_varint(message, position)
            if length > len(message) - position:
                raise ValueError("it is cut off")
            yield number, message[position : position + length]
            position += length

    def _refuse(self, reason: str, next_step: str) -> CheckpointDamaged:
        return CheckpointDamaged(f"{self.name} {reason}. {next_step}")


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of 7 bits per byte, and the position after it."""
    number = shift = 0
    while shift < 70:
        byte = message[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
    raise ValueError("it has a number that is too long")


def _read_varints(packed: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(packed):
        number, position = _read_varint(packed, position)
        numbers.append(number)
    return numbers


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it has a number where a message belongs")
    return value


def _as_text(value: int | memoryview) -> str:
    return _as_bytes(value).tobytes().decode()
