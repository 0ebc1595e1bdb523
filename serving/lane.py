"""A lane: one base model in memory. A session: the lane with one adapter merged. All variants of a session share its batch."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.adapters import Adapter, merge
from serving.errors import ModelError
from serving.graph import Cores, Graph
from serving.model import Model, graphs_folder
from serving.tokenizer import ClipTokenizer
from serving.weights import read_part

COMFORTABLE_AREA = 1024  # latent pixels up to which rows are cheap in memory and run apart
_TEXTS_KEPT = 4096
_PIXELS_PER_DECODE = 512 * 512
Array = NDArray[np.float32]


class TextEncoder:
    """Prompts to embeddings [tokens, width]; the most recent are kept. Thread-safe."""

    def __init__(self, graph: Graph, tokenizer: ClipTokenizer) -> None:
        self._graph, self._tokenizer = graph, tokenizer
        self._kept: OrderedDict[str, Array] = OrderedDict()
        self._using = threading.Lock()  # a session is warmed by the thread that loads it

    def __call__(self, texts: Sequence[str]) -> list[Array]:
        """One array [tokens, width] per text; those not kept are made in one batch."""
        with self._using:
            new = [text for text in dict.fromkeys(texts) if text not in self._kept]
            made = dict(zip(new, self._graph(input_ids=np.stack([self._tokenizer(t) for t in new])), strict=True)) if new else {}
            found = [made[text] if text in made else self._kept[text] for text in texts]
            for text, array in zip(texts, found, strict=True):
                self._kept[text] = array
                self._kept.move_to_end(text)
            while len(self._kept) > _TEXTS_KEPT:
                self._kept.popitem(last=False)
            return found


class Session:
    """One UNet and its text encoder."""

    def __init__(self, lane: "Lane", unet: Graph, text: TextEncoder) -> None:
        self.lane, self.unet, self.text = lane, unet, text


class Lane:
    """A base model: tokenizer, text encoder, decoder, and a UNet session per adapter and scale."""

    def __init__(self, model: Model, cache: Path, threads: int) -> None:
        """Load from the model's directory, exporting it first if it has no graphs. Raises ModelError."""
        self.model = model
        self._cores = Cores(threads, by_row=model.latent_height * model.latent_width <= COMFORTABLE_AREA)
        self._graphs = graphs_folder(model, cache)
        self._tokenizer = ClipTokenizer(model.folder / "tokenizer", model.text.max_position_embeddings)
        self._unet_weights, self._text_weights = read_part(model.folder / "unet"), read_part(model.folder / "text_encoder")
        self._decoder = Graph(self._graphs / "vae_decoder.onnx", read_part(model.folder / "vae"), self._cores)
        self._text = TextEncoder(Graph(self._graphs / "text_encoder.onnx", self._text_weights, self._cores), self._tokenizer)
        self._sessions: dict[tuple[str, float], Session] = {}
        self._loading = threading.Lock()
        # predictions for the queue, in seconds, corrected by every call
        self.row_seconds, self.decode_seconds = 0.0, 0.0

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.model.vae.latent_channels, self.model.latent_height, self.model.latent_width

    def session(self, adapter: Adapter | None, scale: float) -> Session:
        """The session of `adapter` at `scale`, made once. Raises ModelError. Thread-safe."""
        key = (adapter.digest, scale) if adapter else ("", 1.0)
        with self._loading:
            if key not in self._sessions:
                unet, text = self._unet_weights, self._text
                if adapter:
                    unet = merge(unet, adapter, "unet", scale)
                    if "text_encoder" in adapter.modules:
                        merged = merge(self._text_weights, adapter, "text_encoder", scale)
                        text = TextEncoder(Graph(self._graphs / "text_encoder.onnx", merged, self._cores), self._tokenizer)
                session = Session(self, Graph(self._graphs / "unet.onnx", unet, self._cores), text)
                self._warm(session)
                self._sessions[key] = session
            return self._sessions[key]

    def _warm(self, session: Session) -> None:
        """The first calls allocate and prove that the parts fit each other; those after are timed, once per lane."""
        try:
            embedding = session.text([""])[0]
            sample = np.zeros((2, *self.latent_shape), np.float32)
            inputs = {"sample": sample, "timestep": np.zeros(2, np.float32), "encoder_hidden_states": np.stack([embedding] * 2)}
            session.unet(**inputs)
            if self.row_seconds:
                return
            self.decode(sample[:1])
            started = time.perf_counter()
            session.unet(**inputs)
            self.row_seconds = (time.perf_counter() - started) / 2
            started = time.perf_counter()
            self.decode(sample[:1])
            self.decode_seconds = time.perf_counter() - started
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"{self.model.folder}: its parts do not fit each other ({error}); copy the whole model directory") from None

    def decode(self, latents: Array) -> NDArray[np.uint8]:
        """Latents [n, c, h, w] to RGB [n, H, W, 3], a few at a time when they are large."""
        vae = self.model.vae
        latents = latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor or 0.0)
        at_once = max(1, _PIXELS_PER_DECODE // (self.model.height * self.model.width))
        chunks = [self._decoder(latent_sample=latents[i : i + at_once]) for i in range(0, len(latents), at_once)]
        pixels = np.clip(np.concatenate(chunks) * np.float32(0.5) + np.float32(0.5), 0, 1)
        rgb: NDArray[np.uint8] = np.round(pixels * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(rgb)

    def close(self) -> None:
        """End the lane's threads."""
        self._cores.close()
