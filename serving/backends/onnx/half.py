"""An exported graph with fp16 weights and activations, and fp32 inputs and outputs as before."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from serving.errors import ModelError

if TYPE_CHECKING:
    import onnx

# Inputs that are fp32 whatever the operator computes in, by position.
_ALWAYS_FP32 = {"Resize": (2,)}


def halved(data: bytes) -> bytes:
    """The graph `data` in fp16: every external fp32 initializer becomes fp16, and casts stand at its inputs and outputs.

    What depends on timesteps and constants alone stays fp32 until it meets a weight: fp16 cannot hold the angles of a timestep's
    embedding (diffusers keeps them fp32 for the same reason). Raises ModelError for a graph with subgraphs.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    _Halving(model).run()
    made: bytes = model.SerializeToString()
    return made


class _Halving:
    """One conversion: which values are floats, which stay fp32, and the casts that are needed between the two."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx

        self._types, self._graph = onnx.TensorProto, model.graph
        known = onnx.shape_inference.infer_shapes(model).graph
        values = [*known.input, *known.output, *known.value_info]
        self._floats = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        self._floats |= {value.name for value in known.initializer if value.data_type == onnx.TensorProto.FLOAT}
        self._made: dict[str, str] = {}  # the fp16 copy of an fp32 value
        # one value for each row is a timestep; time_ids are embedded in the same way (Podell et al. 2023, micro-conditioning)
        told = {value.name for value in known.input if len(value.type.tensor_type.shape.dim) <= 1 or value.name == "time_ids"}
        self._exact = told & self._floats

    def run(self) -> None:
        """Rewrite the graph in place."""
        for value in self._graph.initializer:
            if value.data_type == self._types.FLOAT:
                if value.data_location == self._types.EXTERNAL:
                    value.data_type = self._types.FLOAT16
                else:
                    self._exact.add(value.name)
        outputs = {value.name for value in self._graph.output if value.name in self._floats}
        inputs = {value.name for value in self._graph.input if value.name in self._floats}
        nodes: list[onnx.NodeProto] = []
        fp32 = inputs | self._exact  # what is fp32 in the new graph
        for node in list(self._graph.node):
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise ModelError(f"the graph has a {node.op_type} with a subgraph; fp16 is not made of it, set dtype = 'float32'")
            mine = [name for name in node.input if name in self._floats]
            if all(name in self._exact for name in mine) and node.op_type != "Resize":
                made = {name for name in node.output if name in self._floats}
                self._exact |= made
                fp32 |= made
                nodes.append(node)
                continue
            if node.op_type == "Gather" and node.input[0] in inputs:
                # a few entries of a bank: casting what was gathered is less work than casting the bank
                fp32.add(node.output[0])
                nodes.append(node)
                continue
            for place, name in enumerate(node.input):
                if name in fp32 and name in self._floats and place not in _ALWAYS_FP32.get(node.op_type, ()):
                    nodes += self._cast(name)
                    node.input[place] = self._made[name]
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self._types.FLOAT:
                    attribute.i = self._types.FLOAT16
            nodes.append(node)
        nodes = list(self._with_outputs(nodes, outputs - fp32))
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(nodes)

    def _cast(self, name: str) -> "list[onnx.NodeProto]":
        from onnx import helper

        if name in self._made:
            return []
        self._made[name] = f"{name}:half"
        return [helper.make_node("Cast", [name], [self._made[name]], to=self._types.FLOAT16)]

    def _with_outputs(self, nodes: "list[onnx.NodeProto]", halves: set[str]) -> "Iterator[onnx.NodeProto]":
        """The nodes, with fp16 outputs of the graph cast back under their names."""
        from onnx import helper

        for node in nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name in halves:
                        names[place] = f"{name}:half"
            yield node
        for name in sorted(halves):
            yield helper.make_node("Cast", [f"{name}:half"], [name], to=self._types.FLOAT)
