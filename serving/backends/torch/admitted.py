"""Adapters between being admitted, which may take long, and being attached, which is quick."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch

from serving.adapters.lora import Adapter
from serving.adapters.merge import merge
from serving.adapters.targets import check_parts, modules_of
from serving.backends.torch.network import AdaptedNetwork
from serving.backends.torch.parts import Part, load_part
from serving.model import Model
from serving.text_encoder import TextEncoder
from serving.tokenizer import Tokenizer
from serving.weights import read_part


class Ready(NamedTuple):
    """An adapter as it is put in place: a line of the bank of `network`; and what it has for itself.

    `encoder` where it changes a text encoder. `own`: the whole network merged, for a DoRA, whose norm mixes W with B A.
    """

    network: AdaptedNetwork
    line: torch.Tensor | None
    encoder: TextEncoder | None
    own: Part | None


class Admitted:
    """The latest `most` admitted adapters, and the widest network that any needed so far.

    The engine's thread never waits for an adapter that another thread prepares.
    """

    def __init__(
        self,
        model: Model,
        network: AdaptedNetwork,
        texts: dict[str, Part],
        tokenizers: dict[str, Tokenizer],
        most: int,
        warm: Callable[[AdaptedNetwork], None],
        *,
        strict: bool,
    ) -> None:
        """`warm` runs a new network without effect, so that its first real call is quick."""
        self._model, self._texts, self._tokenizers, self._most, self._strict = model, texts, tokenizers, most, strict
        self._warm = warm
        self._making, self._keeping = threading.Lock(), threading.Lock()
        self.network = network
        self._ready: OrderedDict[tuple[str, float], Ready] = OrderedDict()

    def prepare(self, adapter: Adapter, scale: float) -> Ready:
        """What attaching it takes, kept or made. Raises ModelError when it does not fit."""
        key = (adapter.digest, scale)
        with self._keeping:
            ready = self._ready.get(key)
        if ready is None:
            with self._making:
                ready = self._made(adapter, scale)
        return self._kept(key, ready)

    def fitted(self, network: AdaptedNetwork, adapter: Adapter, scale: float) -> Ready:
        """The same for `network`, which is at least as wide as it was when the adapter was prepared."""
        ready = self.prepare(adapter, scale)
        if ready.line is not None and ready.network is not network:
            ready = self._kept((adapter.digest, scale), ready._replace(network=network, line=_line(network, adapter, scale)))
        return ready

    def _kept(self, key: tuple[str, float], ready: Ready) -> Ready:
        with self._keeping:
            self._ready[key] = ready
            self._ready.move_to_end(key)
            while len(self._ready) > self._most:
                self._ready.popitem(last=False)
        return ready

    def _made(self, adapter: Adapter, scale: float) -> Ready:
        check_parts(adapter, self._model.layout.parts)
        part, base = self._model.layout.network, self.network.base
        loras = modules_of(adapter, part)
        # before the network: a text encoder that does not fit must leave the bank as it is
        encoder = self._encoder(adapter, scale)
        if any(lora.magnitude is not None for lora in loras.values()):
            merged = merge(read_part(self._model.folder / part), adapter, part, scale)
            return Ready(self.network, None, encoder, load_part(self._model, part, base.device, base.dtype, merged))
        network = self.network.widened(adapter) if loras else self.network
        line = _line(network, adapter, scale) if loras else None
        if network is not self.network:
            self._warm(network)
        if base.device.type == "cuda":  # the engine's streams do not wait for this thread's
            torch.cuda.current_stream(base.device).synchronize()
        self.network = network
        return Ready(network, line, encoder, None)

    def _encoder(self, adapter: Adapter, scale: float) -> TextEncoder | None:
        """Merged, because a prompt is encoded once and a text encoder is small beside the network."""
        changed = [part for part in self._texts if part in adapter.modules]
        if not changed:
            return None
        merged = dict(self._texts)
        for part in changed:
            weights = merge(read_part(self._model.folder / part), adapter, part, scale)
            merged[part] = load_part(self._model, part, merged[part].device, merged[part].dtype, weights)
        return TextEncoder(self._model, merged, self._tokenizers, at_once=1 if self._strict else None)


def _line(network: AdaptedNetwork, adapter: Adapter, scale: float) -> torch.Tensor:
    line = network.line(adapter, scale)
    return line.pin_memory() if network.base.device.type == "cuda" else line
