"""Adds LoRA branches to an exported graph: what a banked network computes beside its own layers.

Each module of an adapter (Hu et al. 2021, eq. 3: h = W x + B A x, with alpha / rank and the scale in B) gets two inputs, a bank of
A and a bank of B, whose first axis is the entry and whose rank is free. One more input, `adapter` int64 [blocks], names the entry of
each block of rows; all blocks of a call are equally long. So one graph serves any adapters of any rank that target its modules, in one
call, at a cost that does not depend on how many they are.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from serving.errors import ModelError

if TYPE_CHECKING:
    import onnx

ADAPTER = "adapter"
Shift = Literal["col2im", "conv"]


class Site(msgspec.Struct, frozen=True):
    """A layer that a branch is added to: its module, the node that computes it, and its sizes.

    `taps`: weights of a convolution's kernel for each pair of channels. Layers that read the same tensor share one bank of A:
    theirs is `down` columns wide at `position` of the `sharing` that they are.
    """

    module: str
    kind: Literal["matmul", "gemm", "conv"]
    inputs: int
    outputs: int
    taps: int = 1
    down: str = ""
    position: int = 0
    sharing: int = 1

    @property
    def up(self) -> str:
        """The input that is the bank of B: [entries, rank, outputs], of convolutions [entries, outputs, rank]."""
        return f"up/{self.module}"

    def down_shape(self, rank: int) -> tuple[int, ...]:
        """Of one entry of the bank of A: [inputs, sharing · rank], of convolutions [1, rank · taps, inputs]."""
        return (1, rank * self.taps, self.inputs) if self.kind == "conv" else (self.inputs, self.sharing * rank)

    def up_shape(self, rank: int) -> tuple[int, ...]:
        """Of one entry of the bank of B."""
        return (self.outputs, rank) if self.kind == "conv" else (rank, self.outputs)


def add_branches(model: "onnx.ModelProto", modules: Collection[str], shift: Shift = "col2im") -> dict[str, Site]:
    """Add a branch to each of `modules`, in place; the sites by module.

    The taps of a convolution's A are moved to their places and added by a Col2Im node, or by a convolution with a constant kernel of
    ones for providers without Col2Im. Raises ModelError for a module that no layer of the graph computes alone.
    """
    known = _layers(model)
    if lacking := sorted(set(modules) - set(known)):
        raise ModelError(f"the graph has no layer that computes {lacking[0]} alone")
    chosen = {module: each for module, each in known.items() if module in modules}
    found = _shared(chosen)
    branches = _Branches(model, found, shift)
    added = {id(node): branches.add(found[module], node) for module, (_, node) in chosen.items()}
    body = [each for node in model.graph.node for each in (node, *added.get(id(node), ()))]
    # copies, for what is deleted from the graph is gone
    kept = [type(node).FromString(node.SerializeToString()) for node in (*branches.shared, *body)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return found


def layers(model: "onnx.ModelProto") -> frozenset[str]:
    """The modules that a branch can be added to."""
    return frozenset(_layers(model))


def _layers(model: "onnx.ModelProto") -> dict[str, tuple[Site, "onnx.NodeProto"]]:
    """Every layer that could have a branch, in the graph's order."""
    shapes = {value.name: tuple(value.dims) for value in model.graph.initializer if value.name.endswith(".weight")}
    transposed = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in shapes}
    found: dict[str, tuple[Site, onnx.NodeProto]] = {}
    for node in model.graph.node:
        told = node.input[1] if len(node.input) > 1 else ""
        weight = transposed.get(told, told)
        if weight not in shapes:
            continue
        module, shape = weight.removesuffix(".weight"), shapes[weight]
        if node.op_type == "MatMul" and told in transposed:
            found[module] = Site(module, "matmul", shape[1], shape[0]), node
        elif node.op_type == "Gemm" and attribute(node, "transB", 0) and not attribute(node, "transA", 0):
            found[module] = Site(module, "gemm", shape[1], shape[0]), node
        elif node.op_type == "Conv" and len(shape) == 4 and attribute(node, "group", 1) == 1:
            found[module] = Site(module, "conv", shape[1], shape[0], shape[2] * shape[3]), node
    return found


def _shared(chosen: Mapping[str, tuple[Site, "onnx.NodeProto"]]) -> dict[str, Site]:
    """Sites with their banks: linear layers that read the same tensor read it once."""
    groups: dict[str, list[Site]] = {}
    for module, (site, node) in chosen.items():
        groups.setdefault(module if site.kind == "conv" else f"{site.kind} {node.input[0]}", []).append(site)
    return {
        site.module: msgspec.structs.replace(site, down=f"down/{group[0].module}", position=i, sharing=len(group))
        for group in groups.values()
        for i, site in enumerate(group)
    }


class _Chain:
    """The nodes of one branch, in their order."""

    def __init__(self, module: str) -> None:
        self._module, self.nodes = module, list[Any]()

    def then(self, kind: str, inputs: Sequence[str], name: str, *, output: str | None = None, **attributes: Any) -> str:
        """Append a node; the name of what it puts out."""
        from onnx import helper

        output = output or f"{self._module}:{name}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{self._module}:{name}", **attributes))
        return output

    def split(self, tensor: str, into: Sequence[str]) -> None:
        """Append a node that cuts the last of three axes into equal parts."""
        from onnx import helper

        self.nodes.append(helper.make_node("Split", [tensor], into, name=f"{self._module}:parts", axis=2, num_outputs=len(into)))


class _Branches:
    """Makes the branches of one graph. `shared` are the nodes that come before all others: what branches have in common."""

    def __init__(self, model: "onnx.ModelProto", sites: Mapping[str, Site], shift: Shift) -> None:
        from onnx import TensorProto, helper

        self._graph, self._shift, self.shared = model.graph, shift, list[Any]()
        self._readers = {down: [site for site in sites.values() if site.down == down] for down in {site.down for site in sites.values()}}
        self._known: set[str] = set()
        self._shapes: dict[str, str] = {}
        first = model.graph.input[0].name
        model.graph.input.append(helper.make_tensor_value_info(ADAPTER, TensorProto.INT64, ["blocks"]))
        self._blocks = self._share("Shape", [ADAPTER], "blocks")
        self._rows = self._share("Shape", [first], "rows", start=0, end=1)
        self._block = self._share("Div", [self._rows, self._blocks], "block")
        column = self._share("Unsqueeze", [ADAPTER, self._constant("one", [1])], "column")
        square = self._share("Concat", [self._blocks, self._block], "square", axis=0)
        repeated = self._share("Expand", [column, square], "repeated")
        self._by_row = self._share("Reshape", [repeated, self._constant("rest", [-1])], "by_row")

    def _share(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"lora:{name}"
        if output not in self._known:
            self._known.add(output)
            self.shared.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, value: object) -> str:
        from onnx import numpy_helper

        return self._share("Constant", [], name, value=numpy_helper.from_array(np.asarray(value)))

    def _gathered(self, name: str, entry: Sequence[int | str], rows: str, made: _Chain, as_name: str) -> str:
        from onnx import TensorProto, helper

        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["entries", *entry]))
        return made.then("Gather", [name, rows], as_name, axis=0)

    def add(self, site: Site, node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        """The nodes that come after `node`; the last puts out what `node` did, with the branch added."""
        made = _Chain(site.module)
        output, plain = node.output[0], f"{site.module}:plain"
        node.output[0] = plain
        grown = self._convolution(site, node, made) if site.kind == "conv" else self._linear(site, node.input[0], made)
        # layers that read the same tensor and have as many outputs put out the same shape
        like = f"{node.input[0]} {site.outputs}" if site.kind != "conv" else site.module
        if like not in self._shapes:
            self._shapes[like] = made.then("Shape", [plain], "shape")
        delta = made.then("Reshape", [grown, self._shapes[like]], "delta")
        made.then("Add", [plain, delta], "sum", output=output)
        return made.nodes

    def _linear(self, site: Site, x: str, made: _Chain) -> str:
        """x [rows, …, inputs] to [blocks, rows of a block · …, outputs]: as many products as blocks, not as rows."""
        readers = self._readers[site.down]
        if site.position == 0:
            width = self._constant(f"wide {site.inputs}", [-1, site.inputs])
            shape = self._share("Concat", [self._blocks, width], f"linear {site.inputs}", axis=0)
            down = self._gathered(site.down, [site.inputs, f"ranks of {site.down}"], ADAPTER, made, "down")
            shrunk = made.then("MatMul", [made.then("Reshape", [x, shape], "x"), down], "shrunk")
            if len(readers) > 1:
                made.split(shrunk, [f"{reader.module}:part" for reader in readers])
        shrunk = f"{site.module}:part" if len(readers) > 1 else f"{site.module}:shrunk"
        up = self._gathered(site.up, [f"rank of {site.up}", site.outputs], ADAPTER, made, "up")
        return made.then("MatMul", [shrunk, up], "grown")

    def _convolution(self, site: Site, node: "onnx.NodeProto", made: _Chain) -> str:
        """x [rows, inputs, h, w] to [rows, outputs, h' w']: every tap of A at every pixel, moved to where it belongs, added, then B."""
        x = node.input[0]
        height = self._constant(f"high {site.inputs}", [site.inputs, -1])
        shape = self._share("Concat", [self._blocks, self._block, height], f"conv {site.inputs}", axis=0)
        # rows of a block read the same matrix, by broadcasting
        down = self._gathered(site.down, [1, f"taps of {site.down}", site.inputs], ADAPTER, made, "down")
        taps = made.then("MatMul", [down, made.then("Reshape", [x, shape], "x")], "taps")
        up = self._gathered(site.up, [site.outputs, f"rank of {site.up}"], self._by_row, made, "up")
        return made.then("MatMul", [up, self._moved(site, node, taps, up, made)], "grown")

    def _moved(self, site: Site, node: "onnx.NodeProto", taps: str, up: str, made: _Chain) -> str:
        """Taps of [rows, rank · taps, h, w] to [rows, rank, h' w']: y[p] = Σ taps_d[stride · p + dilation · d - pad].

        Banks hold the taps of a kernel from its end, which is the order in which Col2Im adds them up.
        """
        kernel, strides = attribute(node, "kernel_shape", [1, 1]), attribute(node, "strides", [1, 1])
        dilations, pads = attribute(node, "dilations", [1, 1]), attribute(node, "pads", [0, 0, 0, 0])
        size = made.then("Shape", [node.input[0]], "size", start=2)
        same_size = [dilation * (side - 1) for side, dilation in zip(kernel, dilations, strict=True)] * 2 == [2 * pad for pad in pads]
        if self._shift == "col2im" and site.taps > 1 and strides == [1, 1] and same_size:
            pixels, side = self._constant("pixels", [0, 0, -1]), self._constant(f"kernel {kernel}", kernel)
            image = made.then("Concat", [self._rows, self._constant("rest", [-1]), size], "image", axis=0)
            columns = made.then("Reshape", [made.then("Reshape", [taps, image], "images"), pixels], "columns")
            added = made.then("Col2Im", [columns, size, side], "added", pads=pads, strides=strides, dilations=dilations)
            return made.then("Reshape", [added, pixels], "moved")
        if site.taps > 1 or strides != [1, 1] or any(pads):
            image = made.then("Concat", [self._constant(f"taps {site.taps}", [-1, site.taps]), size], "image", axis=0)
            ones = self._constant(f"ones {kernel}", np.eye(site.taps, dtype=np.float32)[::-1].reshape(1, site.taps, *kernel))
            images = made.then("Reshape", [taps, image], "images")
            taps = made.then("Conv", [images, ones], "added", kernel_shape=kernel, pads=pads, strides=strides, dilations=dilations)
        rank = made.then("Shape", [up], "rank", start=2)
        flat = made.then("Concat", [self._rows, rank, self._constant("rest", [-1])], "flat", axis=0)
        return made.then("Reshape", [taps, flat], "moved")


def attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    """The attribute's value, or what the node does without it."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
