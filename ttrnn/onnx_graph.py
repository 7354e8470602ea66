"""Write ONNX graphs: nodes and constants, products with tensor trains, loops over time.

Legend: M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank of a group of cores, m / n
product of its input / output modes.

A file holds the cores themselves; the runtime merges neighbours once, when it folds constants: the file is as small as
the model, and a frame takes few, well-filled matrix products.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ttrnn.network import Site
from ttrnn.planner import Group, groupings
from ttrnn.shapes import TTShape

__all__ = ["FLOAT", "Graph", "grouping"]

# Opset 18 and its version of the file format: read by onnxruntime since 1.14 (2023) and all builds for the web since.
_OPSET, _IR_VERSION = 18, 8
FLOAT = "FLOAT"

# The cost model of one row in onnxruntime, ns on one core with AVX-512: MACs and numbers of a matrix that are
# done in one, a small product among many of one node, a node.
_MULTIPLY_ADDS_PER_NS, _NUMBERS_PER_NS, _SMALL_PRODUCT_NS, _GROUP_NS = 70, 10, 400, 2000


@functools.lru_cache(maxsize=256)
def grouping(shape: TTShape) -> tuple[Group, ...]:
    """Which cores to merge for products with one row at a time, by the cost model; last group first."""
    return min(groupings(shape), key=lambda groups: sum(map(_cost_ns, groups)))


def _cost_ns(group: Group) -> float:
    matrix = group.n * group.left_rank * group.right_rank * group.m
    products = group.multiply_adds / _MULTIPLY_ADDS_PER_NS + matrix / _NUMBERS_PER_NS
    return products + (0 if group.behind == 1 else group.before * _SMALL_PRODUCT_NS) + _GROUP_NS


class Graph:
    """A graph that is being written. Values are known by their names; constants lie in the outermost graph."""

    def __init__(self, outer: "Graph | None" = None) -> None:
        self._onnx = importlib.import_module("onnx")
        self._nodes: list[Any] = []
        self._root: Graph = self if outer is None else outer._root
        self._num_names = 0
        self._constants: dict[Any, str] = {}
        self._initializers: list[Any] = []

    def name(self) -> str:
        """A name that no other value has."""
        self._root._num_names += 1
        return f"v{self._root._num_names}"

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns the name of its output, or a list of names where there are several."""
        names = [self.name() for _ in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def call(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """A node whose output gets this name."""
        self._nodes.append(self._onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Tensor | Sequence[int] | float) -> str:
        """A tensor as it is, whole numbers as int64, or one float32."""
        root = self._root
        if isinstance(value, Tensor):
            tensor = value.detach().float().contiguous()
            return root._initialise(tensor.numpy())
        key = value if isinstance(value, float) else tuple(value)
        if key not in root._constants:
            tensor = torch.tensor(value) if isinstance(value, float) else torch.tensor(key, dtype=torch.int64)
            root._constants[key] = root._initialise(tensor.numpy())
        return root._constants[key]

    def scalar(self, value: int) -> str:
        """An int64 without axes."""
        return str(self.add("Squeeze", self.constant([value])))

    def _initialise(self, array: Any) -> str:
        name = self.name()
        self._initializers.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def reshape(self, x: str, *sizes: int) -> str:
        """A 0 keeps the axis that stands there, one -1 takes what is left."""
        return str(self.add("Reshape", x, self.constant(sizes)))

    def split(self, x: str, *sizes: int) -> list[str]:
        """Parts along the last axis."""
        return list(self.add("Split", x, self.constant(sizes), outputs=len(sizes), axis=-1))

    def core(self, site: Site, factors: Sequence[str]) -> str:
        """A core (R, N_k, M_k, S), with its axes split by index, made of factors by a node that runtimes fold."""
        identities = [
            self.add("EyeLike", self.add("ConstantOfShape", self.constant([size, size]))) for size in site.identities
        ]
        equation = f"{site.terms}->{site.left}{site.outputs}{site.inputs}{site.right}"
        return str(self.add("Einsum", *(factors[number] for number in site.parameters), *identities, equation=equation))

    def product(self, x: str, cores: Sequence[Tensor | str], shape: TTShape, bias: Tensor | str | None = None) -> str:
        """(rows, N) = W x + bias for x, float32, of any shape that holds rows of M; bias (N,), or a value (rows, N).

        Cores are tensors, or values as of `core`.
        """
        added = [] if bias is None else [bias if isinstance(bias, str) else self.constant(bias)]
        groups = grouping(shape)
        for group in groups:
            matrix, width = self._merged(cores, shape, group), group.m * group.right_rank
            if group.behind > 1:
                x = self.add("MatMul", matrix, self.reshape(x, -1, width, group.behind))
            elif group is groups[-1]:
                return str(self.add("Gemm", self.reshape(x, -1, width), matrix, *added, transB=1))
            else:
                x = self.add("Gemm", self.reshape(x, -1, width), matrix, transB=1)
        x = self.reshape(x, -1, shape.out_features)
        return str(self.add("Add", x, *added)) if added else x

    def _merged(self, cores: Sequence[Tensor | str], shape: TTShape, group: Group) -> str:
        """The matrix (n R, S m) of a group, multiplied out by nodes on constants, which runtimes fold."""

        def shaped(core: Tensor | str, *sizes: int) -> str:
            """A core (R, N_k, M_k, S), reshaped."""
            if isinstance(core, str):
                return self.reshape(core, *sizes)
            return self.constant(core.detach().transpose(1, 2).reshape(sizes))

        first, *rest = group.cores
        r, m, n, s = shape.core_shapes[first]
        if not rest:
            return shaped(cores[first], r * n, m * s)
        merged = shaped(cores[first], r * n * m, s)
        for number in rest:
            _, m_k, n_k, right = shape.core_shapes[number]
            merged = self.add("MatMul", self.reshape(merged, -1, s), shaped(cores[number], s, -1))
            merged = self.add("Transpose", self.reshape(merged, r, n, m, n_k, m_k, right), perm=[0, 1, 3, 2, 4, 5])
            n, m, s = n * n_k, m * m_k, right
        return self.reshape(merged, r * n, m * s)

    def scan(
        self,
        body: Callable[["Graph", list[str], list[str]], tuple[list[str], list[str]]],
        states: Sequence[str],
        sequences: Sequence[tuple[str, str]],
        *,
        reverse: bool = False,
    ) -> tuple[list[str], list[str]]:
        """A loop over the first axis of `sequences`; returns the states after it and the stacked values.

        Args:
            body: Writes one turn into the graph it is given: from states and parts of the sequences to the next states
                and the values to stack.
            states: float32 values before the first turn.
            sequences: Pairs of a value and its type, FLOAT, UINT8 or BOOL.
            reverse: From the last to the first.
        """
        inner = Graph(self)
        ins = [(inner.name(), FLOAT) for _ in states], [(inner.name(), kind) for _, kind in sequences]
        after, stacked = body(inner, *([name for name, _ in part] for part in ins))
        # What goes out must have names of its own.
        outs = [inner.add("Identity", name) for name in (*after, *stacked)]
        inputs = [(name, kind, None) for part in ins for name, kind in part]
        graph = inner._proto(inputs, [(name, FLOAT, None) for name in outs])
        results = self.add(
            "Scan", *states, *(name for name, _ in sequences), outputs=len(outs), body=graph,
            num_scan_inputs=len(sequences), scan_input_directions=[int(reverse)] * len(sequences),
            **({"scan_output_directions": [int(reverse)] * len(stacked)} if stacked else {}))  # fmt: skip
        results = [results] if len(outs) == 1 else results
        return results[: len(after)], results[len(after) :]

    def _proto(self, inputs: Sequence[tuple[str, str, Any]], outputs: Sequence[tuple[str, str, Any]]) -> Any:
        def described(values: Sequence[tuple[str, str, Any]]) -> Iterator[Any]:
            for name, kind, shape in values:
                yield self._onnx.helper.make_tensor_value_info(name, getattr(self._onnx.TensorProto, kind), shape)

        return self._onnx.helper.make_graph(
            self._nodes, "ttrnn", list(described(inputs)), list(described(outputs)), self._initializers
        )

    def model(self, inputs: Sequence[tuple[str, str, Any]], outputs: Sequence[tuple[str, str, Any]]) -> Any:
        """The whole as a ModelProto; inputs and outputs by name, type and shape, a word standing for any size."""
        helper = self._onnx.helper
        proto = helper.make_model(
            self._proto(inputs, outputs), opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION,
            producer_name="ttrnn")  # fmt: skip
        self._onnx.checker.check_model(proto)
        return proto
