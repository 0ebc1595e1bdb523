"""Prompts to what a network is conditioned on."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.graph import Graph
from serving.tokenizer import ClipTokenizer

Array = NDArray[np.float32]
# The network's inputs that depend on the prompt, one row of each, by the input's name.
Conditioning = dict[str, Array]
_TEXTS_KEPT = 4096


class TextEncoder:
    """Prompts to conditionings; the most recent are kept. Thread-safe."""

    def __init__(self, graph: Graph, tokenizer: ClipTokenizer) -> None:
        self._graph, self._tokenizer = graph, tokenizer
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()
        self._using = threading.Lock()  # a lane is warmed by the thread that loads it

    def __call__(self, texts: Sequence[str]) -> list[Conditioning]:
        """One conditioning per text; those not kept are made in one batch."""
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

    def _encode(self, texts: Sequence[str]) -> list[Conditioning]:
        hidden = self._graph(input_ids=np.stack([self._tokenizer(text) for text in texts]))
        return [{"encoder_hidden_states": row} for row in hidden]
