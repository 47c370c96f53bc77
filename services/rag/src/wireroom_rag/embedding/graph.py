"""The BERT encoder as an ONNX graph, with mean pooling and L2 normalisation inside.

Only imported by the build: `onnx` costs memory that a running service should not pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_LAYERS = 6
_HEADS = 12
_HIDDEN = 384
_EPSILON = 1e-12
_OPSET = 20
# Large enough to vanish in the softmax, small enough for float16 copies of the graph.
_MASKED = -10000.0

Weights = Mapping[str, NDArray[np.float32]]


class _Graph:
    """Collects nodes and initialisers; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def linear(self, source: str, weight: NDArray[np.float32], bias: NDArray[np.float32], output: str) -> str:
        product = self.add("MatMul", [source, self.constant(f"{output}.weight", weight)], f"{output}.product")
        return self.add("Add", [product, self.constant(f"{output}.bias", bias)], output)

    def layer_norm(self, source: str, weights: Weights, prefix: str, output: str) -> str:
        gain = self.constant(f"{output}.gain", weights[f"{prefix}.weight"])
        bias = self.constant(f"{output}.bias", weights[f"{prefix}.bias"])
        return self.add("LayerNormalization", [source, gain, bias], output, axis=-1, epsilon=_EPSILON)


def build_graph(weights: Weights) -> onnx.ModelProto:
    """Inputs `input_ids`, `attention_mask`: int64 [batch, tokens]. Output `embedding`: float32 [batch, 384], unit length."""
    graph = _Graph()
    hidden = _embeddings(graph, weights)
    mask = _attention_bias(graph)
    head_shape = graph.constant("head_shape", np.array([0, 0, _HEADS, _HIDDEN // _HEADS], dtype=np.int64))
    joined_shape = graph.constant("joined_shape", np.array([0, 0, _HIDDEN], dtype=np.int64))
    for index in range(_LAYERS):
        hidden = _layer(graph, weights, index, hidden, mask, head_shape=head_shape, joined_shape=joined_shape)
    _pooling(graph, hidden)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", _HIDDEN])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


def _embeddings(graph: _Graph, weights: Weights) -> str:
    words = graph.add(
        "Gather", [graph.constant("words", weights["embeddings.word_embeddings.weight"]), "input_ids"], "word_vectors"
    )
    # One sequence only, so the token type is always 0 and its vector belongs to every position.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    shape = graph.add("Shape", ["input_ids"], "token_count", start=1, end=2)
    zero = graph.constant("zero", np.array([0], dtype=np.int64))
    used = graph.add("Slice", [graph.constant("positions", positions), zero, shape, zero], "used_positions")
    total = graph.add("Add", [words, used], "embedded")
    return graph.layer_norm(total, weights, "embeddings.LayerNorm", "hidden.0")


def _attention_bias(graph: _Graph) -> str:
    floats = graph.add("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    axes = graph.constant("mask_axes", np.array([1, 2], dtype=np.int64))
    wide = graph.add("Unsqueeze", [floats, axes], "mask_wide")
    one = graph.constant("one", np.array(1.0, dtype=np.float32))
    absent = graph.add("Sub", [one, wide], "mask_absent")
    return graph.add("Mul", [absent, graph.constant("masked", np.array(_MASKED, dtype=np.float32))], "mask_bias")


def _layer(graph: _Graph, weights: Weights, index: int, hidden: str, mask: str, *, head_shape: str, joined_shape: str) -> str:
    source = f"encoder.layer.{index}"
    name = f"layer.{index}"
    # The attention scale is folded into the query projection; the three projections are one product.
    scale = np.float32(1.0 / np.sqrt(_HIDDEN // _HEADS))
    parts = [
        (weights[f"{source}.attention.self.{part}.weight"].T, weights[f"{source}.attention.self.{part}.bias"])
        for part in ("query", "key", "value")
    ]
    parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
    projected = graph.linear(
        hidden,
        np.concatenate([weight for weight, _ in parts], axis=1),
        np.concatenate([bias for _, bias in parts]),
        f"{name}.projected",
    )
    names = [f"{name}.{part}" for part in ("query", "key", "value")]
    graph.nodes.append(helper.make_node("Split", [projected], names, name=f"{name}.split", axis=-1, num_outputs=3))
    query, key, value = (
        graph.add("Transpose", [graph.add("Reshape", [part, head_shape], f"{part}.heads")], f"{part}.turned", perm=order)
        for part, order in zip(names, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scores = graph.add("Add", [graph.add("MatMul", [query, key], f"{name}.scores"), mask], f"{name}.masked_scores")
    attention = graph.add("Softmax", [scores], f"{name}.attention", axis=-1)
    mixed = graph.add(
        "Transpose", [graph.add("MatMul", [attention, value], f"{name}.mixed")], f"{name}.mixed_turned", perm=[0, 2, 1, 3]
    )
    joined = graph.add("Reshape", [mixed, joined_shape], f"{name}.joined")
    hidden = _residual(graph, weights, f"{source}.attention.output", joined, hidden, output=f"{name}.attended")
    wide = graph.linear(
        hidden, weights[f"{source}.intermediate.dense.weight"].T, weights[f"{source}.intermediate.dense.bias"], f"{name}.wide"
    )
    return _residual(
        graph, weights, f"{source}.output", graph.add("Gelu", [wide], f"{name}.active"), hidden, output=f"hidden.{index + 1}"
    )


def _residual(graph: _Graph, weights: Weights, prefix: str, source: str, residual: str, *, output: str) -> str:
    projected = graph.linear(source, weights[f"{prefix}.dense.weight"].T, weights[f"{prefix}.dense.bias"], f"{output}.dense")
    total = graph.add("Add", [projected, residual], f"{output}.sum")
    return graph.layer_norm(total, weights, f"{prefix}.LayerNorm", output)


def _pooling(graph: _Graph, hidden: str) -> None:
    axis = graph.constant("pool_axis", np.array([1], dtype=np.int64))
    last = graph.constant("last_axis", np.array([2], dtype=np.int64))
    weights = graph.add("Unsqueeze", ["mask", last], "pool_weights")
    summed = graph.add("ReduceSum", [graph.add("Mul", [hidden, weights], "weighted"), axis], "summed", keepdims=0)
    count = graph.add("ReduceSum", [weights, axis], "count", keepdims=0)
    mean = graph.add("Div", [summed, count], "mean")
    graph.add("LpNormalization", [mean], "embedding", axis=-1, p=2)
