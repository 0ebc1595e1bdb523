"""ClipTokenizer against transformers' CLIPTokenizer, id by id."""

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ModelError
from serving.tokenizer import ClipTokenizer

PIECES = (
    "a red heart", "I'm", "DON'T", "  tabs\tand\nnew\r\nlines ", "woman astronaut, dark skin tone", "étoile",
    "e\u0301toile", "東京", "🍕🍕", "2024", "3.14",
    "<|endoftext|>", "<|startoftext|>", "!!!", "a_b-c", "ﬁ", "İstanbul", "ß", "\u200b", "we've 'll", "x" * 60,
    "", "{}[]()", "naïve café", "Ⅳ½", "\x00",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(stable_diffusion: Path, tiny_model: Path):
    from transformers import CLIPTokenizer

    folders = {"vocabulary": (stable_diffusion / "tokenizer", 77), "json": (tiny_model / "tokenizer", 20)}
    return {name: (ClipTokenizer(folder, length), CLIPTokenizer.from_pretrained(folder)) for name, (folder, length) in folders.items()}


def same(pair, text: str) -> None:
    for name, (ours, theirs) in pair.items():
        expected = theirs(text, padding="max_length", truncation=True, max_length=theirs.model_max_length).input_ids
        assert ours(text).tolist() == expected, (name, text)


def test_equal_to_transformers_on_hundreds_of_texts(pair) -> None:
    draw = random.Random(0)
    for text in [*PIECES, *(" ".join(draw.choices(PIECES, k=draw.randint(1, 9))) for _ in range(400))]:
        same(pair, text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_equal_to_transformers_on_any_text(pair, text: str) -> None:
    same(pair, text)


def test_a_long_text_is_cut_and_a_short_one_padded(pair) -> None:
    ours, _ = pair["vocabulary"]
    assert ours("a " * 50_000).shape == ours("").shape == (77,)
    assert ours("a " * 50_000)[-1] == ours("")[1]  # the end token survives the cut
    assert ours("a")[0] == ours("")[0]


def test_damage_is_told_by_path(stable_diffusion: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stable_diffusion / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(ModelError, match="model_max_length 77 exceeds the text encoder's 20"):
        ClipTokenizer(folder, 20)
    (folder / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"merges\.txt: is missing"):
        ClipTokenizer(folder, 77)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        ClipTokenizer(folder, 77)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    shutil.copy(stable_diffusion / "tokenizer/merges.txt", folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="pad_token '<pad>' is not in the vocabulary"):
        ClipTokenizer(folder, 77)
