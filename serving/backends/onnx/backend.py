"""Images in the making as numpy arrays, and one ONNX Runtime call for all of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter
from serving.adapters.merge import merge
from serving.adapters.targets import check_parts
from serving.backends.onnx.apart import Apart
from serving.backends.onnx.graph import Cores, Graph
from serving.backends.onnx.network import Network
from serving.backends.onnx.providers import place
from serving.backends.onnx.ranges import ranges
from serving.backends.onnx.session import Providers
from serving.backends.port import STRICT_ROWS, Seat
from serving.cores import cores
from serving.model import Model, graphs_folder
from serving.noise import initial_noise
from serving.settings import EngineSettings
from serving.text_encoder import Array, Conditioning, TextEncoder
from serving.tokenizer import open_tokenizers
from serving.weights import Weights, read_part

COMFORTABLE_AREA = 1024  # latent pixels up to which rows are cheap in memory and run apart
_PIXELS_PER_DECODE = 512 * 512


class OnnxBackend:
    """A base model's graphs, and the state of every place. See `serving.backends.port.Backend`."""

    decodes_apart = False

    def __init__(self, model: Model, settings: EngineSettings, cache: Path, places: int, *, tensorrt: bool = False) -> None:
        """Load from the model's directory, exporting it first if it has no graphs. Raises ModelError."""
        self._model, self._providers = model, Providers(place(settings, cache, tensorrt=tensorrt))
        threads = settings.threads or cores()
        self._cores = Cores(threads, by_row=model.latent_height * model.latent_width <= COMFORTABLE_AREA)
        self._padded_rows = (settings.rows or STRICT_ROWS) if settings.mode == "strict" else 0
        self._graphs = graphs_folder(model, cache)
        self._tokenizers = open_tokenizers(model)
        network = model.layout.network
        weights = read_part(model.folder / network)
        self._text_weights = {part: read_part(model.folder / part) for part in model.layout.text_encoders}
        vae = read_part(model.folder / "vae")
        self._ranges = ranges(model, settings.adapters + 1, settings.rows or self._padded_rows or None)
        # some decoders overflow fp16 (force_upcast in their configurations), and decoding is a small share of the work
        decoder, exact = self._graphs / "vae_decoder.onnx", self._providers.exactly()
        self._decoder = Graph(decoder, vae, self._cores, providers=exact, ranges=self._ranges)
        self._texts = {part: self._text_graph(part, weights) for part, weights in self._text_weights.items()}
        # strict: one text at a time, so that the text encoders too see one shape
        self._texts_at_once = 1 if self._padded_rows else None
        text = TextEncoder(model, self._texts, self._tokenizers, at_once=self._texts_at_once)
        self._text, self._texts_apart = text, Apart[TextEncoder]()
        path, strict = self._graphs / f"{network}.onnx", settings.mode == "strict"
        self._network = Network(
            path, network, weights, self._cores, settings.adapters, strict=strict, providers=self._providers, ranges=self._ranges
        )
        self.decode_at_once = max(1, _PIXELS_PER_DECODE // (model.height * model.width))
        self.model_bytes = sum(array.nbytes for part in (weights, *self._text_weights.values(), vae) for array in part.values())
        self._seats: list[Seat | None] = [None] * places
        self._positive: list[Conditioning] = [{}] * places
        self._negative: list[Conditioning] = [{}] * places
        self._step = np.zeros(places, np.int64)
        self._x = np.zeros((places, model.vae.latent_channels, model.latent_height, model.latent_width), np.float32)
        self._estimate = np.zeros_like(self._x)

    @property
    def entry_bytes(self) -> int:
        """Its part of the banks; of merged weights where an adapter needs them."""
        texts = sum(array.nbytes for weights in self._text_weights.values() for array in weights.values()) if self._texts_apart else 0
        return self._network.entry_bytes + texts

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Check that it fits the weights, and make the graph and the text encoders that it needs. Raises ModelError."""
        check_parts(adapter, self._model.layout.parts)
        self._network.admit(adapter, scale)
        if _of_texts(adapter):
            self._texts_apart.prepare((adapter.digest, scale), lambda: self._merged_text(adapter, scale))

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Into the banks; text encoders that it changes are its own, with merged weights."""
        self._network.attach(entry, adapter, scale)
        if _of_texts(adapter):
            self._texts_apart.attach(entry, (adapter.digest, scale), lambda: self._merged_text(adapter, scale))
        else:
            self._texts_apart.detach(entry)

    def _merged_text(self, adapter: Adapter, scale: float) -> TextEncoder:
        graphs = {
            part: self._text_graph(part, merge(weights, adapter, part, scale))
            for part, weights in self._text_weights.items()
            if part in adapter.modules
        }
        return TextEncoder(self._model, self._texts | graphs, self._tokenizers, at_once=self._texts_at_once)

    def _text_graph(self, part: str, weights: Weights) -> Graph:
        return Graph(self._graphs / f"{part}.onnx", weights, self._cores, providers=self._providers, ranges=self._ranges)

    def begin(self, seats: Sequence[Seat]) -> None:
        """Texts of one encoder in one call."""
        places, shape = [seat.place for seat in seats], self._x.shape[1:]
        positive: dict[int, Conditioning] = {}
        negative: dict[int, Conditioning] = {}
        encoders = [self._texts_apart.get(seat.entry) or self._text for seat in seats]
        for encoder in dict.fromkeys(encoders):
            mine = [seat for seat, own in zip(seats, encoders, strict=True) if own is encoder]
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
        """One network call for all."""
        some = list(places)
        seats = [self._seat(place) for place in some]
        guided = [i for i, seat in enumerate(seats) if seat.rows == 2]
        steps = self._step[some]
        columns = [
            [getattr(seat.table, name)[i] for seat, i in zip(seats, steps, strict=True)] for name in ("timesteps", "p", "q", "a", "b", "c")
        ]
        timesteps, p, q, a, b, c = np.array(columns, np.float32)[:, :, None, None, None]
        x, rows = self._x[some], [*range(len(some)), *guided]
        conditionings = [self._positive[place] for place in some] + [self._negative[some[i]] for i in guided]
        output = self._call([seats[row].entry for row in rows], x[rows], timesteps.reshape(-1)[rows], conditionings)
        m = output[: len(some)]
        if guided:
            strength = np.array([seats[i].guidance for i in guided], np.float32)[:, None, None, None]
            m[guided] = output[len(some) :] + strength * (m[guided] - output[len(some) :])
        estimate = p * x + q * m
        self._x[some], self._estimate[some] = a * x + b * estimate + c * self._estimate[some], estimate
        self._step[some] += 1

    def _call(self, entries: Sequence[int], sample: Array, timestep: Array, conditionings: Sequence[Conditioning]) -> Array:
        rows = len(sample)
        inputs = {name: np.stack([conditioning[name] for conditioning in conditionings]) for name in conditionings[0]}
        inputs |= {"sample": sample, "timestep": timestep}
        if self._padded_rows > rows:
            # copies of the first row: numbers that the network is used to
            fill = np.r_[np.arange(rows), np.zeros(self._padded_rows - rows, np.int64)]
            inputs, entries = {name: array[fill] for name, array in inputs.items()}, [entries[row] for row in fill]
        return self._network(entries, inputs)[:rows]

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


def _of_texts(adapter: Adapter) -> bool:
    return any(part.startswith("text_encoder") for part in adapter.modules)
