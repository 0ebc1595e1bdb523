"""Images in the making as tensors on one device."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from serving.adapters.lora import Adapter
from serving.adapters.merge import merge
from serving.backends.onnx.text import TextEncoder
from serving.backends.port import STRICT_ROWS, Backend, Seat
from serving.backends.torch.network import AdaptedNetwork
from serving.backends.torch.parts import Decoder, Part, load_part, read_config
from serving.backends.torch.places import Places
from serving.backends.torch.rows import arrange, bucket
from serving.backends.torch.stream import CudaStream, Immediate, Stream
from serving.conditioning import Conditioning
from serving.cores import cores
from serving.errors import ModelError
from serving.model import Model
from serving.settings import EngineSettings
from serving.tokenizer import open_tokenizers
from serving.weights import read_part

_PIXELS_PER_DECODE = 512 * 512
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_torch(model: Model, settings: EngineSettings, cache: Path, places: int) -> Backend:
    """Raises ModelError."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f'device {settings.device!r}: torch finds no CUDA device on this machine; set device = "cpu"')
    return TorchBackend(model, settings, device, places)


class _Prepared(NamedTuple):
    """An adapter as it is put in place: a line of the bank of `network`, and text encoders of its own if it changes them."""

    network: AdaptedNetwork
    line: torch.Tensor
    encoder: TextEncoder | None


class TorchBackend:
    """A base model's modules, and the state of every place. See `serving.backends.port.Backend`."""

    def __init__(self, model: Model, settings: EngineSettings, device: torch.device, places: int) -> None:
        """Load from the model's directory. Raises ModelError.

        Mode strict turns torch's deterministic algorithms on for the whole process.
        """
        self._model, self._device = model, device
        self._strict = settings.mode == "strict"
        self._padded_rows = (settings.rows or STRICT_ROWS) if self._strict else 0
        cuda, self._dtype = device.type == "cuda", _DTYPES[settings.precision]
        self._bucketed = (cuda and settings.cuda_graphs) or settings.compile
        if self._strict:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        if not cuda:
            torch.set_num_threads(settings.threads or cores())
        self._tokenizers = open_tokenizers(model)
        self._texts = {part: load_part(model, part, device, self._dtype) for part in model.layout.text_encoders}
        self._encoder = TextEncoder(model, self._texts, self._tokenizers, at_once=1 if self._strict else None)
        self._encoders: dict[int, TextEncoder] = {}
        base = load_part(model, model.layout.network, device, self._dtype)
        self._network = AdaptedNetwork(base, model.layout.network, settings.adapters, compiled=settings.compile, tuned=not self._strict)
        self._wider: AdaptedNetwork | None = None
        # diffusers says so of decoders that overflow in half precision
        upcast = self._dtype is torch.float16 and bool(read_config(model.folder / "vae").get("force_upcast"))
        vae = load_part(model, "vae", device, torch.float32 if upcast else self._dtype)
        self.decodes_apart, self.decode_at_once = cuda, max(1, _PIXELS_PER_DECODE // (model.height * model.width))
        self._decoder = Decoder(vae, model.vae, 1 if self._strict else self.decode_at_once)
        self.model_bytes = sum(part.bytes for part in (*self._texts.values(), base, vae))
        latent = (model.vae.latent_channels, model.latent_height, model.latent_width)
        self._places = Places(places, latent, model.scheduler.num_train_timesteps, device, self._dtype)
        self._stream: Stream = CudaStream(device, graphs=settings.cuda_graphs) if cuda else Immediate()
        # adapters as they will be put in place, the latest as many as the bank holds
        self._prepared: OrderedDict[tuple[str, float], _Prepared] = OrderedDict()
        self._most_prepared = settings.adapters
        # the last call: which places, with which indices
        self._seats: dict[int, Seat] = {}
        self._called: tuple[int, ...] = ()
        self._adapted = False
        self._indices: dict[int, torch.Tensor] = {}
        self._rows = 0
        if cuda:
            torch.cuda.synchronize(device)

    @property
    def entry_bytes(self) -> int:
        """One line of the bank, and the text encoders of those adapters that have their own."""
        own = sum(part.bytes for part in self._texts.values()) if self._encoders else 0
        return (self._wider or self._network).entry_bytes + own

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Check that it fits, and make a network with room for it, which is taken up before the next step. Raises ModelError."""
        self._prepare(adapter, scale)

    def _prepare(self, adapter: Adapter, scale: float) -> _Prepared:
        network = (self._wider or self._network).widened(adapter)
        line = network.line(adapter, scale)
        if self._device.type == "cuda":
            line = line.pin_memory()
            torch.cuda.synchronize(self._device)
        prepared = _Prepared(network, line, self._own_encoder(adapter, scale))
        if network is not self._network:
            self._wider = network
        self._prepared[adapter.digest, scale] = prepared
        while len(self._prepared) > self._most_prepared:
            self._prepared.popitem(last=False)
        return prepared

    def _own_encoder(self, adapter: Adapter, scale: float) -> TextEncoder | None:
        """Merged, because a prompt is encoded once and a text encoder is small beside the network."""
        changed = {part for part in adapter.modules if part in self._texts}
        if not changed:
            return None
        merged: dict[str, Part] = dict(self._texts)
        for part in changed:
            weights = merge(read_part(self._model.folder / part), adapter, part, scale)
            merged[part] = load_part(self._model, part, self._device, self._dtype, weights)
        return TextEncoder(self._model, merged, self._tokenizers, at_once=1 if self._strict else None)

    def _take_up(self) -> None:
        """A wider network replaces the present one, between two steps."""
        wider, self._wider = self._wider, None
        if wider is not None and wider is not self._network:
            with self._stream.here(), torch.no_grad():
                wider.take_over(self._network)
            self._stream.forget()
            self._network = wider

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Copy one line."""
        prepared = self._prepared.get((adapter.digest, scale))
        self._take_up()
        if prepared is None or prepared.network is not self._network:
            prepared = self._prepare(adapter, scale)
            self._take_up()
        # in the order of steps: the last one may still read the line that goes
        with self._stream.here(), torch.no_grad():
            self._network.bank[entry].copy_(prepared.line, non_blocking=True)
        self._encoders.pop(entry, None)
        if prepared.encoder is not None:
            self._encoders[entry] = prepared.encoder

    def begin(self, seats: Sequence[Seat]) -> None:
        """Texts of one encoder in one call."""
        positive: dict[int, Conditioning] = {}
        negative: dict[int, Conditioning] = {}
        with self._stream.here(), torch.no_grad():
            encoders = [self._encoders.get(seat.entry, self._encoder) for seat in seats]
            for encoder in dict.fromkeys(encoders):
                mine = [seat for seat, other in zip(seats, encoders, strict=True) if other is encoder]
                guided = [seat for seat in mine if seat.rows == 2]
                made = encoder([seat.prompt for seat in mine], [seat.negative_prompt for seat in guided])
                positive |= dict(zip([seat.place for seat in mine], made[: len(mine)], strict=True))
                negative |= dict(zip([seat.place for seat in guided], made[len(mine) :], strict=True))
            self._places.begin(seats, [positive[seat.place] for seat in seats], [negative.get(seat.place) for seat in seats])
        self._seats |= {seat.place: seat for seat in seats}
        self._called = ()

    def advance(self, places: Sequence[int]) -> None:
        """One call. Indices travel only when the batch has changed."""
        self._take_up()
        if self._called != tuple(places):
            self._arrange(places)
        network, index = self._network, self._indices[self._rows]
        # strict: the same operations for everyone, whoever has an adapter
        network.adapted = self._adapted or self._strict
        with torch.no_grad():
            self._stream.step(
                (self._rows, network.adapted),
                lambda: self._places.step(index, network),
                lambda: self._places.rehearse(index, network),
            )

    def _arrange(self, places: Sequence[int]) -> None:
        seats = [self._seats[place] for place in places]
        rows = max(sum(seat.rows for seat in seats), self._padded_rows)
        if self._bucketed:
            # a size of one would be compiled apart
            rows = bucket(max(rows, 2))
        index = torch.from_numpy(arrange(places, [seat.rows == 2 for seat in seats], self._places.scratch, rows))
        with self._stream.here():
            if rows not in self._indices:
                self._indices[rows] = index.to(self._device)
            else:
                # a CUDA graph reads where it read before
                self._indices[rows].copy_(index.pin_memory() if self._device.type == "cuda" else index, non_blocking=True)
        self._rows, self._adapted, self._called = rows, any(seat.entry for seat in seats), tuple(places)

    def preview(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Decoded estimates."""
        with self._stream.aside(), torch.no_grad():
            return self._decoder(self._places.estimate[list(places)])

    def decode(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Decoded latents."""
        with self._stream.aside(), torch.no_grad():
            return self._decoder(self._places.x[list(places)])

    def synchronize(self) -> None:
        """Wait for the last step."""
        self._stream.wait()

    def close(self) -> None:
        """Wait; memory goes with the last reference."""
        self._stream.wait()
