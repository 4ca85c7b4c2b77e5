"""Layers that read the same input become one layer with the same outputs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from models.sentiment.train.joined_projections import join_projections

pytestmark = pytest.mark.train

WIDTHS = {"query": 4, "key": 4, "value": 2}


def graph_of(nodes: list[NodeProto], weights: dict[str, np.ndarray], outputs: dict[str, int]) -> GraphProto:
    def floats(name: str, width: int) -> TensorProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])

    return helper.make_graph(
        nodes,
        "layers",
        [floats("x", 3)],
        [floats(name, width) for name, width in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )


def layer(name: str, source: str = "x") -> list[NodeProto]:
    return [
        helper.make_node("MatMul", [source, f"{name}_w"], [f"{name}_xw"], f"{name}_product"),
        helper.make_node("Add", [f"{name}_b", f"{name}_xw"], [name], f"{name}_bias"),
    ]


def run(graph: GraphProto, x: np.ndarray) -> list[np.ndarray]:
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def random_layers(widths: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"{name}_{part}": rng.normal(size=shape).astype(np.float32)
        for name, width in widths.items()
        for part, shape in (("w", (3, width)), ("b", (width,)))
    }


def test_three_layers_of_one_input_become_one_product_with_the_same_outputs() -> None:
    graph = graph_of([node for name in WIDTHS for node in layer(name)], random_layers(WIDTHS), WIDTHS)
    x = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    before = run(graph, x)
    assert join_projections(graph) == 3
    assert [node.op_type for node in graph.node] == ["MatMul", "Add", "Split"]
    assert not {f"{name}_w" for name in WIDTHS} & {tensor.name for tensor in graph.initializer}
    for old, new in zip(before, run(graph, x), strict=True):
        assert new == pytest.approx(old, abs=1e-6)


def test_layers_in_sequence_and_layers_without_a_bias_stay() -> None:
    weights = random_layers({"first": 3, "second": 3})
    bare = np.eye(3, dtype=np.float32)
    nodes = [
        *layer("first"),
        *layer("second", "first"),
        helper.make_node("MatMul", ["x", "bare"], ["plain"], "plain_product"),
    ]
    graph = graph_of(nodes, weights | {"bare": bare}, {"second": 3, "plain": 3})
    assert join_projections(graph) == 0
    assert len(graph.node) == len(nodes)
