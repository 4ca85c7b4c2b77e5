"""A graph's linear layers that read the same input, joined into one.

The query, key and value of attention are such layers. Joined, their input is quantised once instead of three
times, and one large matrix product replaces three small ones.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


class _Linear(NamedTuple):
    """A matrix product with constant weights (inputs, outputs), and the node that adds its bias."""

    product: NodeProto
    addition: NodeProto
    weight: TensorProto
    bias: TensorProto


def join_projections(graph: GraphProto) -> int:
    """Join the layers of `graph` in place; return the number of layers that are now parts of others.

    Only layers with a bias are joined. Their outputs keep their names and, up to the rounding of the sums in
    another order, their values.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, gone = list(graph.node), 0
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    by_input: dict[str, list[_Linear]] = defaultdict(list)
    for node in nodes:
        if (layer := _linear(node, constants, readers)) is not None:
            by_input[node.input[0]].append(layer)
    for source, layers in by_input.items():
        if len(layers) < 2:
            continue
        position = next(index for index, node in enumerate(nodes) if node is layers[0].product)
        nodes[position:position] = _joined(graph, source, layers)
        replaced = {id(node) for layer in layers for node in (layer.product, layer.addition)}
        nodes = [node for node in nodes if id(node) not in replaced]
        gone += len(layers)
    if gone:
        _replace(graph, nodes)
    return gone


def _linear(
    node: NodeProto, constants: dict[str, TensorProto], readers: dict[str, list[NodeProto]]
) -> _Linear | None:
    """Return the layer whose matrix product `node` is; None if it isn't one."""
    weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
    following = readers[node.output[0]] if weight is not None else []
    if weight is None or len(weight.dims) != 2 or [one.op_type for one in following] != ["Add"]:
        return None
    added = next((name for name in following[0].input if name != node.output[0]), "")
    bias = constants.get(added)
    if bias is None or list(bias.dims) != [weight.dims[1]]:
        return None
    return _Linear(node, following[0], weight, bias)


def _joined(graph: GraphProto, source: str, layers: list[_Linear]) -> list[NodeProto]:
    name = f"{layers[0].product.name}_joined"
    widths = [layer.weight.dims[1] for layer in layers]
    for part, tensors, axis in (
        ("weight", [layer.weight for layer in layers], 1),
        ("bias", [layer.bias for layer in layers], 0),
    ):
        together = np.concatenate([numpy_helper.to_array(tensor) for tensor in tensors], axis=axis)
        graph.initializer.append(numpy_helper.from_array(together, f"{name}_{part}"))
    graph.initializer.append(numpy_helper.from_array(np.array(widths, np.int64), f"{name}_widths"))
    return [
        helper.make_node("MatMul", [source, f"{name}_weight"], [f"{name}_product"], name),
        helper.make_node("Add", [f"{name}_product", f"{name}_bias"], [f"{name}_sum"], f"{name}_add"),
        helper.make_node(
            "Split",
            [f"{name}_sum", f"{name}_widths"],
            [layer.addition.output[0] for layer in layers],
            f"{name}_split",
            axis=-1,
        ),
    ]


def _replace(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give the graph other nodes, and drop the constants that none of them reads."""
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
