"""The network that denoises, with a bank of LoRAs, called with an entry per row."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from serving.adapters.lora import Adapter
from serving.backends.torch import bank as banks
from serving.backends.torch.forms import Form, form_named
from serving.backends.torch.layers import Adapted, Switch
from serving.backends.torch.parts import Part
from serving.settings import LoraForm

Conditionings = dict[str, torch.Tensor]


class AdaptedNetwork:
    """A network whose layers add the LoRA that each row of a call names.

    Only the lines of its bank ever change: a set of layers or a rank that the bank has no room for makes another
    AdaptedNetwork (`widened`), which shares all weights with this one.
    """

    def __init__(
        self, base: Part, part: str, entries: int, form: LoraForm = "gathered", *, compiled: bool = False, tuned: bool = True
    ) -> None:
        """`base`, called `part` in adapters (`unet`); `entries`: adapters beside none.

        `compiled`: by torch.compile, at the first call. `tuned`: may Triton choose kernels by measuring?
        """
        self.base, self._part, self._entries, self._form_name = base, part, entries, form
        self._compiled, self._tuned = compiled, tuned
        self._layout: banks.Layout | None = None
        self._switch = Switch()
        self._form: Form = form_named(form, tuned=tuned)
        self.bank = torch.zeros(entries + 1, 0, device=base.device, dtype=base.dtype)
        self._call: Any = torch.compile(base.module) if compiled else base.module

    @property
    def adapted(self) -> bool:
        """Do rows of the next call have LoRAs at all?"""
        return self._switch.on

    @adapted.setter
    def adapted(self, on: bool) -> None:
        self._switch.on = on and self._layout is not None

    @property
    def entry_bytes(self) -> int:
        """What one line of the bank takes on the device."""
        return self.bank[0].nbytes

    def widened(self, adapter: Adapter) -> "AdaptedNetwork":
        """This network if `adapter` fits its bank, else one with room for it and an empty bank. Raises ModelError."""
        layout = banks.widened(self._layout, banks.wanted(self.base.module, self._part, adapter))
        if layout is self._layout:
            return self
        wider = AdaptedNetwork(self.base, self._part, self._entries, self._form_name, tuned=self._tuned)
        wider._layout, wider.bank, wider._compiled = layout, self.bank.new_zeros(len(self.bank), layout.size), self._compiled
        module = _shared(self.base.module)
        for name, (shape, at) in layout.layers.items():
            whole = banks.PREFIX + name
            layer: Any = module.get_submodule(whole)
            parent, _, last = whole.rpartition(".")
            setattr(module.get_submodule(parent), last, Adapted(layer, wider._form, shape, at, wider._switch))
        wider._call = torch.compile(module) if self._compiled else module
        return wider

    def line(self, adapter: Adapter, scale: float) -> torch.Tensor:
        """`adapter` as a line of this network's bank, in its precision, on the CPU."""
        assert self._layout is not None
        return banks.line(self._layout, self._part, adapter, scale).to(self.base.dtype)

    def take_over(self, other: "AdaptedNetwork") -> None:
        """The lines of a network that this one is wider than."""
        if other._layout is not None and self._layout is not None:
            self.bank.copy_(banks.relaid(other._layout, self._layout, other.bank))

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditionings, entries: torch.Tensor) -> torch.Tensor:
        """[rows, c, h, w] from a sample of that shape, timesteps [rows], conditionings and entries int64 [rows]."""
        inputs = self.base.ordered(sample, timestep, conditioning)
        chosen = [self._form.choose(self.bank, entries)] if self._switch.on else []
        if self._compiled:  # one graph for every number of rows
            for tensor in (*inputs, *chosen):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        output: torch.Tensor = self._call(*inputs)
        return output


class Divided:
    """A network for most rows of a call, and others for those whose adapters have networks of their own."""

    def __init__(self, shared: AdaptedNetwork, own: Sequence[tuple[Part, torch.Tensor]], rest: torch.Tensor, *, whole: bool) -> None:
        """Each of `own` with its rows, int64 on the device, and the `rest` of them. `whole`: every network is called with all rows,
        of which its own are kept, so that no result depends on who else is there."""
        self._shared, self._own, self._rest, self._whole = shared, own, rest, whole

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditionings, entries: torch.Tensor) -> torch.Tensor:
        """As AdaptedNetwork."""
        output = torch.zeros_like(sample)
        if self._whole:
            output[self._rest] = self._shared(sample, timestep, conditioning, entries)[self._rest].to(output.dtype)
        elif len(self._rest):
            some = {name: value[self._rest] for name, value in conditioning.items()}
            output[self._rest] = self._shared(sample[self._rest], timestep[self._rest], some, entries[self._rest]).to(output.dtype)
        for part, rows in self._own:
            inputs = part.ordered(sample, timestep, conditioning)
            made = part.module(*inputs)[rows] if self._whole else part.module(*(value[rows] for value in inputs))
            output[rows] = made.to(output.dtype)
        return output


def _shared(module: torch.nn.Module) -> torch.nn.Module:
    """The same modules once more, around the same weights."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
