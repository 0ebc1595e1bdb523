"""Prompts to what a network is conditioned on."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.conditioning import Array, Conditioning, condition, without_negative
from serving.model import Model
from serving.tokenizer import Tokenizer

__all__ = ["Array", "Conditioning", "TextEncoder"]
_TEXTS_KEPT = 4096


class Encoder(Protocol):
    """One text encoder, an ONNX graph or a torch module."""

    def outputs(self, **inputs: NDArray[Any]) -> dict[str, Array]:
        """What it says of `input_ids`, int64 [n, tokens], by name, in the order of serving.traced."""
        ...


class TextEncoder:
    """Prompts to conditionings; the most recent are kept. Thread-safe."""

    def __init__(
        self, model: Model, graphs: Mapping[str, Encoder], tokenizers: Mapping[str, Tokenizer], *, at_once: int | None = None
    ) -> None:
        """`graphs` and `tokenizers` by the part, one of each text encoder of the layout. `at_once`: texts of one call at most."""
        self._model, self._graphs, self._tokenizers, self._at_once = model, graphs, tokenizers, at_once
        self._kept: OrderedDict[tuple[str, bool], Conditioning] = OrderedDict()
        self._using = threading.Lock()  # a lane is warmed by the thread that loads it

    def __call__(self, prompts: Sequence[str], negatives: Sequence[str] = ()) -> list[Conditioning]:
        """One conditioning per prompt, then one per negative prompt; those not kept are made in one batch.

        An empty negative prompt is one that nobody wrote: some models are conditioned on zeros then.
        """
        zero = self._model.zero_when_no_negative
        texts = [(text, False) for text in prompts] + [(text, zero and not text) for text in negatives]
        with self._using:
            new = [text for text in dict.fromkeys(texts) if text not in self._kept]
            made = dict(zip(new, self._encode(new), strict=True)) if new else {}
            found = [made[text] if text in made else self._kept[text] for text in texts]
            for text, conditioning in zip(texts, found, strict=True):
                self._kept[text] = conditioning
                self._kept.move_to_end(text)
            while len(self._kept) > _TEXTS_KEPT:
                self._kept.popitem(last=False)
            return found

    def _encode(self, texts: Sequence[tuple[str, bool]]) -> list[Conditioning]:
        at_once = self._at_once or len(texts)
        made = [one for i in range(0, len(texts), at_once) for one in self._together([text for text, _ in texts[i : i + at_once]])]
        return [without_negative(self._model, one) if zero else one for one, (_, zero) in zip(made, texts, strict=True)]

    def _together(self, texts: Sequence[str]) -> list[Conditioning]:
        said = {
            part: tuple(graph.outputs(input_ids=np.stack([self._tokenizers[part](text) for text in texts])).values())
            for part, graph in self._graphs.items()
        }
        return condition(self._model, said)
