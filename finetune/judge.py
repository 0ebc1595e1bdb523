"""The retrieval judge: a small two-tower model that scores how well a 64 × 64 picture fits a caption.

Trained on real pictures only, apart from the generator (finetune.pretrain.judge_training), so that it can judge it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

HOME = Path(__file__).parent / "judge_model"
DIM = 128
_WORD = re.compile(r"[a-z0-9]+")


def words_of(caption: str) -> list[str]:
    """Lower-case words and digits."""
    return _WORD.findall(caption.lower())


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, stride, 1)
        self.norm = nn.GroupNorm(8, outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.conv(x)))


class Towers(nn.Module):
    """Image tower: five convolutions; text tower: a bag of words. Both end in R^128."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            _Block(3, 32, 2), _Block(32, 64, 2), _Block(64, 96, 2), _Block(96, 160, 1), _Block(160, 160, 2),
            nn.Flatten(), nn.Linear(160 * 16, DIM),
        )  # fmt: skip
        self.words = nn.EmbeddingBag(vocabulary, DIM, mode="mean", padding_idx=0)
        self.text = nn.Sequential(nn.Linear(DIM, 256), nn.SiLU(), nn.Linear(256, DIM))
        self.log_scale = nn.Parameter(torch.tensor(2.7))

    def embed_images(self, x: torch.Tensor) -> torch.Tensor:
        """float [n, 3, 64, 64] in [-1, 1] to unit vectors [n, 128]."""
        return F.normalize(self.image(x), dim=-1)

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [n, words], 0 = padding, to unit vectors [n, 128]."""
        bag = self.words(ids)
        return F.normalize(bag + self.text(bag), dim=-1)


class Judge:
    """A trained judge. Features are unit vectors: their dot product is the alignment of picture and caption."""

    name = "salon-retrieval-judge"

    def __init__(self, towers: Towers, vocabulary: dict[str, int], digest: str) -> None:
        self.towers, self.vocabulary, self.digest, self.dim = towers.eval(), vocabulary, digest, DIM

    @classmethod
    def load(cls, folder: Path | None = None) -> "Judge":
        """Read the packaged judge, or another. Raises FileNotFoundError."""
        folder = folder or HOME
        vocabulary = json.loads((folder / "vocabulary.json").read_text())
        weights = folder / "judge.safetensors"
        towers = Towers(len(vocabulary) + 1)
        towers.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        return cls(towers, vocabulary, "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest())

    def save(self, folder: Path) -> None:
        """Write weights (fp16) and vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.towers.state_dict().items()}, folder / "judge.safetensors")
        (folder / "vocabulary.json").write_text(json.dumps(self.vocabulary, sort_keys=True))

    def ids(self, captions: Sequence[str]) -> torch.Tensor:
        """Word numbers, int64 [n, longest], 0 where there is no word; words that the judge never met are left out."""
        rows = [[self.vocabulary[w] for w in words_of(c) if w in self.vocabulary] or [0] for c in captions]
        out = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int64)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out

    @torch.no_grad()
    def image_features(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, 64, 64, 3] to float32 [n, 128], unit vectors."""
        x = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1
        out: NDArray[np.float32] = torch.cat([self.towers.embed_images(part) for part in x.split(128)]).numpy()
        return out

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Captions to float32 [n, 128], unit vectors."""
        out: NDArray[np.float32] = self.towers.embed_text(self.ids(captions)).numpy()
        return out
