"""How large the free dimensions of a lane's graphs may be, which TensorRT must know before it builds."""

from serving.backends.onnx.providers import Range
from serving.conditioning import T5_TOKENS
from serving.knee import LARGEST_ROWS
from serving.layouts import STABLE_DIFFUSION_3
from serving.model import Model

_USUAL_ROWS = 8
_RANKS: Range = (1, 8, 128)
_SHARING = 4  # layers that may read one bank: q, k, v, and one to spare
_TAPS = 9


def ranges(model: Model, entries: int, rows: int | None = None) -> dict[str, Range]:
    """By the dimensions' names, or their first words: batches up to `rows`, or to the most that is measured.

    `entries` of a bank, with the one that is no adapter.
    """
    tokens = model.text.max_position_embeddings + (T5_TOKENS if model.layout.pipeline == STABLE_DIFFUSION_3.pipeline else 0)
    largest = rows or LARGEST_ROWS
    batch = (1, min(_USUAL_ROWS, largest), largest)
    low, usual, high = _RANKS
    return {
        "batch": batch,
        "blocks": batch,
        "height": (model.latent_height,) * 3,
        "width": (model.latent_width,) * 3,
        "tokens": (1, tokens, tokens),
        "entries": (entries,) * 3,
        "rank": _RANKS,
        "ranks": (low, usual * 3, high * _SHARING),
        "taps": (low, usual * _TAPS, high * _TAPS),
    }
