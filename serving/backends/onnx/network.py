"""The network that denoises, with the adapters that were admitted beside its weights."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter, Lora
from serving.adapters.merge import merge
from serving.adapters.targets import factors, targets
from serving.backends.onnx.apart import Apart
from serving.backends.onnx.banks import Banks
from serving.backends.onnx.blocks import in_blocks, side_by_side
from serving.backends.onnx.graph import Cores, Graph, Inputs, expected_weights
from serving.backends.onnx.heap import give_back
from serving.backends.onnx.providers import Range
from serving.backends.onnx.session import Providers
from serving.backends.onnx.surgery import ADAPTER, Site, add_branches, layers
from serving.weights import Weights

Array = NDArray[np.float32]
_END = ".weight"


class Banked(msgspec.Struct, frozen=True):
    """A graph with branches, and where they are."""

    graph: Graph
    sites: dict[str, Site]


class Network:
    """One network call for rows of any adapters.

    Without adapters the exported graph runs as it is. The first adapter that is admitted brings a graph with a branch beside every layer
    that it changes; one that changes more layers brings a wider graph. A new graph is made beside the running one and takes its
    place between two calls, so that the weights lie in memory once. DoRA, whose norm mixes W with B A, and layers that no branch can be
    added to get merged weights in a graph of their own, which costs a model's memory for each such adapter.

    `admit` may be called beside the others, which share a thread.
    """

    def __init__(
        self,
        path: Path,
        part: str,
        weights: Weights,
        cores: Cores,
        entries: int,
        *,
        strict: bool,
        providers: Providers | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        """`part` of the model by its directory's name; `entries` of the bank without 0; `providers` and `ranges` as of `Graph`.

        Raises ModelError.
        """
        self._providers, self._ranges = providers or Providers(), ranges
        self._path, self._part, self._weights, self._cores, self._strict = path, part, weights, cores, strict
        self._shapes = {name.removesuffix(_END): shape for name, shape in expected_weights(path).items() if name.endswith(_END)}
        self._entries = entries + 1
        self._graph = self._opened(weights)
        self._banks: Banks | None = None
        self._merged = Apart[Graph]()
        self._lock = threading.Lock()
        self._modules: frozenset[str] = frozenset()
        self._next: Banked | None = None

    @property
    def entry_bytes(self) -> int:
        """What one entry takes: of the banks, and of merged weights where there are any."""
        merged = sum(array.nbytes for array in self._weights.values()) if self._merged else 0
        return max(merged, self._banks.entry_bytes if self._banks else 0)

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Make the graph that `adapter` needs. Raises ModelError when it does not fit the network."""
        loras = targets(adapter, self._part, self._shapes)
        if not loras or (set(loras) <= self._modules and not _dora(loras)):
            return
        import onnx

        model = onnx.load(self._path, load_external_data=False)
        if _dora(loras) or not layers(model).issuperset(loras):
            self._merged.prepare((adapter.digest, scale), lambda: self._merged_graph(adapter, scale))
            return
        modules = self._modules.union(loras)
        # Col2Im is the CPU's
        sites = add_branches(model, modules, "col2im" if self._providers.placement.device == "cpu" else "conv")
        graph = self._opened(self._weights, model.SerializeToString(), None if self._strict else in_blocks)
        with self._lock:
            self._modules, self._next = modules, Banked(graph, sites)

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Put an admitted adapter into `entry` ≥ 1, over what was there."""
        self._swap()
        loras = targets(adapter, self._part, self._shapes)
        apart = _dora(loras) or not set(loras) <= set(self._banks.sites if self._banks else ())
        if self._banks is not None:
            self._banks.attach(entry, {} if apart else {module: factors(lora, scale) for module, lora in loras.items()})
            self._graph.keep(**self._banks.arrays)
        if apart:
            self._merged.attach(entry, (adapter.digest, scale), lambda: self._merged_graph(adapter, scale))
        else:
            self._merged.detach(entry)

    def __call__(self, entries: Sequence[int], inputs: Mapping[str, Array]) -> Array:
        """The network's output for rows (first axes of `inputs`) with these entries of the bank."""
        self._swap()
        apart = {entry: graph for entry in set(entries) if (graph := self._merged.get(entry)) is not None}
        if not apart:
            return self._shared(entries, inputs)
        told = np.asarray(entries)
        outputs = []
        for entry, graph in apart.items():
            rows = np.flatnonzero(told == entry)
            outputs.append((rows, graph(**_rows(inputs, rows))))
        if len(rows := np.flatnonzero(~np.isin(told, list(apart)))):
            outputs.append((rows, self._shared(told[rows].tolist(), _rows(inputs, rows))))
        whole = np.empty((len(told), *outputs[0][1].shape[1:]), np.float32)
        for rows, output in outputs:
            whole[rows] = output
        return whole

    def _shared(self, entries: Sequence[int], inputs: Mapping[str, Array]) -> Array:
        if self._banks is None:
            return self._graph(**inputs)
        told = np.asarray(entries, np.int64)
        if self._strict:
            return self._graph(**inputs, **{ADAPTER: told})
        order = side_by_side(entries)
        output = np.empty_like(done := self._graph(**_rows(inputs, order), **{ADAPTER: told[order]}))
        output[order] = done
        return output

    def _swap(self) -> None:
        """Let the graph that was made last take over, with what lies in the banks."""
        with self._lock:
            made, self._next = self._next, None
        if made:
            self._banks = Banks(made.sites, self._entries, self._banks)
            made.graph.keep(**self._banks.arrays)
            self._graph = made.graph
            give_back()

    def _merged_graph(self, adapter: Adapter, scale: float) -> Graph:
        return self._opened(merge(self._weights, adapter, self._part, scale))

    def _opened(self, weights: Weights, data: bytes | None = None, prepare: Callable[[Inputs], Inputs] | None = None) -> Graph:
        return Graph(self._path, weights, self._cores, providers=self._providers, ranges=self._ranges, data=data, prepare=prepare)


def _dora(loras: Mapping[str, Lora]) -> bool:
    return any(lora.magnitude is not None for lora in loras.values())


def _rows(inputs: Mapping[str, Array], rows: NDArray[np.int64]) -> dict[str, Array]:
    return {name: array[rows] for name, array in inputs.items()}
