"""Images in the making as tensors on one device."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.adapters.lora import Adapter
from serving.backends.port import STRICT_ROWS, Backend, Seat
from serving.backends.torch.admitted import Admitted
from serving.backends.torch.forms import check_form
from serving.backends.torch.network import AdaptedNetwork, Divided
from serving.backends.torch.parts import Decoder, Part, load_part, read_config
from serving.backends.torch.places import Places
from serving.backends.torch.rows import arrange, bucket
from serving.backends.torch.stream import CudaStream, Immediate, Stream
from serving.conditioning import Conditioning
from serving.cores import cores
from serving.errors import ModelError
from serving.model import Model
from serving.settings import EngineSettings
from serving.text_encoder import TextEncoder
from serving.tokenizer import open_tokenizers

_PIXELS_PER_DECODE = 512 * 512
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_torch(model: Model, settings: EngineSettings, cache: Path, places: int) -> Backend:
    """Raises ModelError."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f'device {settings.device!r}: torch finds no CUDA device on this machine; set device = "cpu"')
    return TorchBackend(model, settings, device, places)


class TorchBackend:
    """A base model's modules, and the state of every place. See `serving.backends.port.Backend`."""

    def __init__(self, model: Model, settings: EngineSettings, device: torch.device, places: int) -> None:
        """Load from the model's directory. Raises ModelError.

        Mode strict on CUDA turns torch's deterministic algorithms on for the whole process.
        """
        self._model, self._device = model, device
        self._strict = settings.mode == "strict"
        self._padded_rows = (settings.rows or STRICT_ROWS) if self._strict else 0
        cuda, self._dtype = device.type == "cuda", _DTYPES[settings.precision]
        self._compiled = settings.compile
        self._bucketed = (cuda and settings.cuda_graphs) or settings.compile
        if cuda and self._strict:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        if not cuda:
            torch.set_num_threads(settings.threads or cores())
        self._tokenizers = open_tokenizers(model)
        self._texts = {part: load_part(model, part, device, self._dtype) for part in model.layout.text_encoders}
        self._encoder = TextEncoder(model, self._texts, self._tokenizers, at_once=1 if self._strict else None)
        base = load_part(model, model.layout.network, device, self._dtype)
        check_form(settings.lora, device, self._dtype)
        self._network = AdaptedNetwork(
            base, model.layout.network, settings.adapters, settings.lora, compiled=settings.compile, tuned=not self._strict
        )
        # diffusers says so of decoders that overflow in half precision
        upcast = self._dtype is torch.float16 and bool(read_config(model.folder / "vae").get("force_upcast"))
        vae = load_part(model, "vae", device, torch.float32 if upcast else self._dtype)
        self.decodes_apart, self.decode_at_once = cuda, max(1, _PIXELS_PER_DECODE // (model.height * model.width))
        self._decoder = Decoder(vae, model.vae, 1 if self._strict else self.decode_at_once)
        self.model_bytes = sum(part.bytes for part in (*self._texts.values(), base, vae))
        latent = (model.vae.latent_channels, model.latent_height, model.latent_width)
        self._places = Places(places, latent, model.scheduler.num_train_timesteps, device, self._dtype)
        self._stream: Stream = CudaStream(device, graphs=settings.cuda_graphs) if cuda else Immediate()
        self._admitted = Admitted(model, self._network, self._texts, self._tokenizers, settings.adapters, self._warm, strict=self._strict)
        # what single entries have for themselves
        self._encoders: dict[int, TextEncoder] = {}
        self._own: dict[int, Part] = {}
        # the last call: which places, with which indices
        self._seats: dict[int, Seat] = {}
        self._called: tuple[int, ...] = ()
        self._adapted = False
        self._indices: dict[int, torch.Tensor] = {}
        self._rows = 0
        self._divided: Divided | None = None
        if cuda:
            torch.cuda.synchronize(device)

    @property
    def entry_bytes(self) -> int:
        """One line of the bank; and the text encoders or the network that an adapter has for itself, where any has."""
        texts = sum(part.bytes for part in self._texts.values()) if self._encoders else 0
        return self._admitted.network.entry_bytes + texts + (self._network.base.bytes if self._own else 0)

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Check that it fits, and make a network with room for it, which is taken up before the next step. Raises ModelError."""
        self._admitted.prepare(adapter, scale)

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Copy one line."""
        self._admitted.prepare(adapter, scale)
        self._take_up()
        ready = self._admitted.fitted(self._network, adapter, scale)
        # in the order of steps: the last one may still read the line that goes
        with self._stream.here(), torch.no_grad():
            if ready.line is None:
                self._network.bank[entry] = 0
            else:
                self._network.bank[entry].copy_(ready.line, non_blocking=True)
        self._encoders.pop(entry, None)
        self._own.pop(entry, None)
        if ready.encoder is not None:
            self._encoders[entry] = ready.encoder
        if ready.own is not None:
            self._own[entry] = ready.own
        self._called = ()

    def _take_up(self) -> None:
        """A wider network replaces the present one, between two steps."""
        wider = self._admitted.network
        if wider is not self._network:
            with self._stream.here(), torch.no_grad():
                wider.take_over(self._network)
            self._stream.forget()
            self._network = wider

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
        index, network = self._indices[self._rows], self._divided or self._network
        # strict: the same operations for everyone, whoever has an adapter; compiled: no code for calls without is made while others wait
        self._network.adapted = self._adapted or self._strict or self._compiled
        key = (self._rows, self._network.adapted) if self._divided is None else None
        with torch.no_grad():
            self._stream.step(key, lambda: self._places.step(index, network), lambda: self._places.rehearse(index, network))

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
        self._divided = self._division(index[3].tolist()) if any(seat.entry in self._own for seat in seats) else None

    def _division(self, places: Sequence[int]) -> Divided:
        """`places` of the rows of a call in which some have networks of their own."""
        entries = [self._seats[place].entry if place in self._seats else 0 for place in places]
        rows = {entry: [row for row, other in enumerate(entries) if other == entry] for entry in set(entries) & set(self._own)}
        rest = [row for row, entry in enumerate(entries) if entry not in rows]
        own = [(self._own[entry], torch.tensor(some, device=self._device)) for entry, some in sorted(rows.items())]
        return Divided(self._network, own, torch.tensor(rest, dtype=torch.int64, device=self._device), whole=self._strict)

    def _warm(self, network: AdaptedNetwork) -> None:
        """torch.compile makes code for calls of one size, then for all sizes."""
        if self._compiled:
            network.adapted = True
            with torch.no_grad():
                for rows in (2, 4):
                    network(*self._places.blank(rows))

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
