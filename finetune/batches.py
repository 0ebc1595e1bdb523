"""Which pictures a training step sees, at which noise. A batch is a pure function of data, seed and step."""

from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from finetune.losses.rwr import softmax_within


class TrainingSet(msgspec.Struct):
    """Logged pictures as the losses want them.

    `latents` float32 [n, c, h, w]; `prompt` int64 [n] into `prompts`; `generation` int64 [n] (pictures shown together
    share a number); `liked` bool [n]; `weight` float64 [n] with mean 1 (propensity.example_weights).
    """

    latents: torch.Tensor
    prompts: list[str]
    prompt: NDArray[np.int64]
    generation: NDArray[np.int64]
    liked: NDArray[np.bool_]
    weight: NDArray[np.float64]


class Batch(NamedTuple):
    """One step's tensors, n rows: `prompt` int64 into the prompts (the empty prompt is last), `level` in [0, 1), the rest as named.

    For pairs the first half are winners and the second half their losers, with the same noise and level.
    """

    latents: torch.Tensor
    prompt: torch.Tensor
    liked: torch.Tensor
    weight: torch.Tensor
    share: torch.Tensor
    group_size: torch.Tensor
    noise: torch.Tensor
    level: torch.Tensor


class Batches:
    """Draws batches for a loss: `kto` a fixed share of likes, `rwr` all alike, `dpo` pairs."""

    def __init__(
        self, data: TrainingSet, loss: str, size: int, liked_share: float, empty_prompt_share: float, seed: int, temperature: float = 0.4
    ) -> None:
        self._data, self._loss, self._size, self._seed = data, loss, size, seed
        self._liked_share, self._empty = liked_share, empty_prompt_share
        self._yes, self._no = np.flatnonzero(data.liked), np.flatnonzero(~data.liked)
        if not len(self._yes) or not len(self._no):
            raise ValueError(
                f"{len(self._yes)} liked and {len(self._no)} other pictures; a round learns from the difference and needs both"
            )
        self._pairs = pairs(data) if loss == "dpo" else np.zeros((0, 2), np.int64)
        if loss == "dpo" and not len(self._pairs):
            raise ValueError("no prompt has both a liked and another picture, so there is no pair for dpo; use --loss kto")
        group = torch.from_numpy(data.prompt)
        self._share = softmax_within(torch.from_numpy(data.liked.astype(np.float32)), group, temperature)
        self._group_size = torch.bincount(group)[group].float()

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng((self._seed, step))
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if self._loss == "dpo":
            chosen = self._pairs[rng.integers(len(self._pairs), size=max(1, self._size // 2))]
            index, fresh = chosen.T.reshape(-1), len(chosen)
            pair_weight = np.sqrt(self._data.weight[chosen].prod(1))
            weight = np.concatenate([pair_weight, pair_weight])
        else:
            index = self._mixed(rng) if self._loss == "kto" else rng.integers(len(self._data.liked), size=self._size)
            fresh, weight = len(index), self._data.weight[index]
        rows = torch.from_numpy(index)
        latents = self._data.latents[rows]
        noise = torch.randn((fresh, *latents.shape[1:]), generator=torch_rng)
        # One level per stratum of [0, 1), shuffled: less variance than independent draws, and no stratum belongs to a class.
        level = (torch.randperm(fresh, generator=torch_rng) + torch.rand(fresh, generator=torch_rng)) / fresh
        prompt = torch.from_numpy(self._data.prompt)[rows]
        silent = torch.rand(fresh, generator=torch_rng) < self._empty
        repeat = len(index) // fresh
        prompt = torch.where(silent.repeat(repeat), len(self._data.prompts), prompt)
        return Batch(
            latents, prompt, torch.from_numpy(self._data.liked)[rows], torch.from_numpy(weight).float(),
            self._share[rows], self._group_size[rows],
            noise.repeat(repeat, *[1] * (latents.dim() - 1)), level.repeat(repeat).clamp(max=1 - 1e-6),
        )  # fmt: skip

    def _mixed(self, rng: np.random.Generator) -> NDArray[np.int64]:
        likes = min(max(1, round(self._liked_share * self._size)), self._size - max(1, int(np.ceil(0.2 * self._size))))
        return np.concatenate([_take(self._yes, likes, rng), _take(self._no, self._size - likes, rng)])


def pairs(data: TrainingSet) -> NDArray[np.int64]:
    """int64 [m, 2] of (liked, other): every such two within one generation; where a liked picture has none there, within its prompt."""
    found: list[tuple[int, int]] = []
    others = np.flatnonzero(~data.liked)
    for winner in np.flatnonzero(data.liked):
        near = others[data.generation[others] == data.generation[winner]]
        if not len(near):
            near = others[data.prompt[others] == data.prompt[winner]]
        found.extend((int(winner), int(loser)) for loser in near)
    return np.array(found, np.int64).reshape(-1, 2)


def _take(pool: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `pool`: without repeats while there are enough."""
    if count <= len(pool):
        return rng.choice(pool, count, replace=False)
    return np.concatenate([rng.permutation(pool), _take(pool, count - len(pool), rng)])
