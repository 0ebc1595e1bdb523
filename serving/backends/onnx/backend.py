"""Images in the making as numpy arrays, and one ONNX Runtime call for all of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter
from serving.adapters.merge import merge
from serving.backends.onnx.graph import Cores, Graph
from serving.backends.onnx.text import Array, Conditioning, TextEncoder
from serving.backends.port import STRICT_ROWS, Seat
from serving.cores import cores
from serving.errors import ModelError
from serving.model import Model, graphs_folder
from serving.noise import initial_noise
from serving.settings import EngineSettings
from serving.tokenizer import open_tokenizers
from serving.weights import Weights, read_part

COMFORTABLE_AREA = 1024  # latent pixels up to which rows are cheap in memory and run apart
_PIXELS_PER_DECODE = 512 * 512


class OnnxBackend:
    """A base model's graphs, and the state of every place. See `serving.backends.port.Backend`."""

    decodes_apart = False

    def __init__(self, model: Model, settings: EngineSettings, cache: Path, places: int, *, tensorrt: bool = False) -> None:
        """Load from the model's directory, exporting it first if it has no graphs. Raises ModelError."""
        if settings.device != "cpu" or tensorrt:
            raise ModelError(f'device {settings.device!r}: ONNX Runtime runs on the CPU here; set device = "cpu"')
        self._model = model
        threads = settings.threads or cores()
        self._cores = Cores(threads, by_row=model.latent_height * model.latent_width <= COMFORTABLE_AREA)
        self._padded_rows = (settings.rows or STRICT_ROWS) if settings.mode == "strict" else 0
        self._graphs = graphs_folder(model, cache)
        self._tokenizers = open_tokenizers(model)
        network = model.layout.network
        self._unet_weights = read_part(model.folder / network)
        self._text_weights = {part: read_part(model.folder / part) for part in model.layout.text_encoders}
        vae = read_part(model.folder / "vae")
        self._decoder = Graph(self._graphs / "vae_decoder.onnx", vae, self._cores)
        self._texts = {part: Graph(self._graphs / f"{part}.onnx", weights, self._cores) for part, weights in self._text_weights.items()}
        # strict: one text at a time, so that the text encoders too see one shape
        self._texts_at_once = 1 if self._padded_rows else None
        text = TextEncoder(model, self._texts, self._tokenizers, at_once=self._texts_at_once)
        self._networks: dict[int, tuple[Graph, TextEncoder]] = {
            0: (Graph(self._graphs / f"{network}.onnx", self._unet_weights, self._cores), text)
        }
        self.decode_at_once = max(1, _PIXELS_PER_DECODE // (model.height * model.width))
        self.model_bytes = sum(array.nbytes for part in (self._unet_weights, *self._text_weights.values(), vae) for array in part.values())
        self._seats: list[Seat | None] = [None] * places
        self._positive: list[Conditioning] = [{}] * places
        self._negative: list[Conditioning] = [{}] * places
        self._step = np.zeros(places, np.int64)
        self._x = np.zeros((places, model.vae.latent_channels, model.latent_height, model.latent_width), np.float32)
        self._estimate = np.zeros_like(self._x)

    @property
    def entry_bytes(self) -> int:
        """A merged copy of the weights per adapter."""
        return sum(array.nbytes for array in self._unet_weights.values()) if len(self._networks) > 1 else 0

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Check that it fits the weights. Raises ModelError."""
        self._merged(adapter, scale)

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Merge and load."""
        unet, text = self._merged(adapter, scale)
        encoder = self._networks[0][1]
        if text:
            merged = {part: Graph(self._graphs / f"{part}.onnx", weights, self._cores) for part, weights in text.items()}
            encoder = TextEncoder(self._model, self._texts | merged, self._tokenizers, at_once=self._texts_at_once)
        self._networks[entry] = (Graph(self._graphs / f"{self._model.layout.network}.onnx", unet, self._cores), encoder)

    def _merged(self, adapter: Adapter, scale: float) -> tuple[Weights, dict[str, Weights]]:
        unet = merge(self._unet_weights, adapter, self._model.layout.network, scale)
        texts = {part: merge(weights, adapter, part, scale) for part, weights in self._text_weights.items() if part in adapter.modules}
        return unet, texts

    def begin(self, seats: Sequence[Seat]) -> None:
        """Texts of one encoder in one call."""
        places, shape = [seat.place for seat in seats], self._x.shape[1:]
        positive: dict[int, Conditioning] = {}
        negative: dict[int, Conditioning] = {}
        for encoder in {id(encoder): encoder for encoder in (self._networks[seat.entry][1] for seat in seats)}.values():
            mine = [seat for seat in seats if self._networks[seat.entry][1] is encoder]
            guided = [seat for seat in mine if seat.rows == 2]
            made = encoder([seat.prompt for seat in mine], [seat.negative_prompt for seat in guided])
            positive |= dict(zip([seat.place for seat in mine], made[: len(mine)], strict=True))
            negative |= dict(zip([seat.place for seat in guided], made[len(mine) :], strict=True))
        noise = [initial_noise(seat.seed, shape) * np.float32(seat.table.start) for seat in seats]
        for seat, x in zip(seats, noise, strict=True):
            self._seats[seat.place], self._positive[seat.place], self._x[seat.place] = seat, positive[seat.place], x
            self._negative[seat.place] = negative.get(seat.place, {})
        self._step[places], self._estimate[places] = 0, 0.0

    def advance(self, places: Sequence[int]) -> None:
        """One call per network that the places need."""
        entries = sorted({self._seat(place).entry for place in places})
        groups = [[place for place in places if self._seat(place).entry == entry] for entry in entries]
        moved = [self._moved(self._networks[entry][0], group) for entry, group in zip(entries, groups, strict=True)]
        for group, (x, estimate) in zip(groups, moved, strict=True):
            self._x[group], self._estimate[group] = x, estimate
            self._step[group] += 1

    def _moved(self, network: Graph, places: Sequence[int]) -> tuple[Array, Array]:
        """The latents and estimates of `places` after one step."""
        seats = [self._seat(place) for place in places]
        guided = [i for i, seat in enumerate(seats) if seat.rows == 2]
        steps = self._step[list(places)]
        columns = [
            [getattr(seat.table, name)[i] for seat, i in zip(seats, steps, strict=True)] for name in ("timesteps", "p", "q", "a", "b", "c")
        ]
        timesteps, p, q, a, b, c = np.array(columns, np.float32)[:, :, None, None, None]
        x, timestep = self._x[list(places)], timesteps.reshape(-1)
        rows = [self._positive[place] for place in places] + [self._negative[places[i]] for i in guided]
        output = self._call(network, np.concatenate([x, x[guided]]), np.concatenate([timestep, timestep[guided]]), rows)
        m = output[: len(places)]
        if guided:
            strength = np.array([seats[i].guidance for i in guided], np.float32)[:, None, None, None]
            m[guided] = output[len(places) :] + strength * (m[guided] - output[len(places) :])
        estimate = p * x + q * m
        return a * x + b * estimate + c * self._estimate[list(places)], estimate

    def _call(self, network: Graph, sample: Array, timestep: Array, conditionings: Sequence[Conditioning]) -> Array:
        rows = len(sample)
        stacked = {name: np.stack([conditioning[name] for conditioning in conditionings]) for name in conditionings[0]}
        if self._padded_rows > rows:
            # copies of the first row: numbers that the network is used to
            fill = np.r_[np.arange(rows), np.zeros(self._padded_rows - rows, np.int64)]
            sample, timestep, stacked = sample[fill], timestep[fill], {name: array[fill] for name, array in stacked.items()}
        return network(sample=sample, timestep=timestep, **stacked)[:rows]

    def preview(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Decoded estimates."""
        return self._pixels(self._estimate[list(places)])

    def decode(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Decoded latents."""
        return self._pixels(self._x[list(places)])

    def _pixels(self, latents: Array) -> NDArray[np.uint8]:
        vae = self._model.vae
        latents = latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor or 0.0)
        # strict: one at a time, so that the decoder too sees one shape
        at_once = 1 if self._padded_rows else self.decode_at_once
        chunks = [self._decoder(latent_sample=latents[i : i + at_once]) for i in range(0, len(latents), at_once)]
        pixels = np.clip(np.concatenate(chunks) * np.float32(0.5) + np.float32(0.5), 0, 1)
        rgb: NDArray[np.uint8] = np.round(pixels * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(rgb)

    def _seat(self, place: int) -> Seat:
        seat = self._seats[place]
        assert seat is not None
        return seat

    def synchronize(self) -> None:
        """Calls return when they are done."""

    def close(self) -> None:
        """End the threads."""
        self._cores.close()
