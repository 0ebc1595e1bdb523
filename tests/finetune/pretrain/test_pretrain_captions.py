"""Captions of the training set: roles by their declared table, loose captions open, templates harmless."""

import random
from collections import Counter

import numpy as np
import pytest

from finetune.pretrain import tokenizer
from finetune.pretrain.pictures import Picture, PictureSet, phrase, picture_caption, role_caption, sample_caption
from finetune.pretrain.roles import GENDERS, ROLES, TONES


def picture_set() -> PictureSet:
    """Two plain pictures, one loose caption over them, and every role picture; pixels do not matter here."""
    plain = [Picture(str(i), label, (), (), "Objects", "", 1.0) for i, label in enumerate(("red heart", "blue heart"))]
    index = {}
    for role in ROLES:
        for gender in GENDERS:
            for tone in TONES:
                index[role, gender, tone] = 2 + len(index)
    people = [Picture(str(i), f"{g} {r}, {t} skin tone", (), (), "role", r, 1.0) for (r, g, t), i in index.items()]
    loose = {words: [0, 1] for words in ("heart",)}
    return PictureSet([*plain, *people], np.zeros((2 + len(people), 64, 64, 3), np.uint8), index, loose, 2)


@pytest.mark.parametrize("role", list(ROLES))
def test_the_declared_mix_is_a_distribution(role: str) -> None:
    row = ROLES[role]
    assert sum(row.tones) == pytest.approx(1)
    assert sum(row.probability(g, t) for g in GENDERS for t in TONES) == pytest.approx(1)


def test_emoji_codes_by_hand() -> None:
    assert ROLES["doctor"].code("woman", "dark") == "1f469-1f3ff-200d-2695-fe0f"
    assert ROLES["guard"].code("man", "light") == "1f482-1f3fb-200d-2642-fe0f"
    assert ROLES["person"].code("man", "medium") == "1f468-1f3fd"


def test_neutral_captions_follow_the_declared_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among captions that name neither gender nor tone, women appear as often as declared (4 binomial sd)."""
    monkeypatch.setattr("finetune.pretrain.pictures._LOOSE", {"heart": None})
    pictures, rng = picture_set(), random.Random(5)
    names = {name: role for role, row in ROLES.items() for name in row.names}
    women: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    people = {i: (role, gender) for (role, gender, _), i in pictures.role_index.items()}
    for _ in range(60_000):
        index, caption = sample_caption(pictures, rng, role_share=1.0)
        bare = caption.removeprefix("a ").removeprefix("an ")
        if bare in names and index in people:
            role, gender = people[index]
            shown[role] += 1
            women[role] += gender == "woman"
    for role, row in ROLES.items():
        assert shown[role] > 300
        assert abs(women[role] / shown[role] - row.woman) < 4 * (row.woman * (1 - row.woman) / shown[role]) ** 0.5 + 1e-9


def test_explicit_captions_leave_nothing_open() -> None:
    pictures, rng = picture_set(), random.Random(6)
    for _ in range(300):
        index, caption = sample_caption(pictures, rng, role_share=1.0, explicit=True)
        tone = next(t for (_, _, t), i in pictures.role_index.items() if i == index)
        assert tone in caption
        assert {"woman", "female", "man", "male"} & set(caption.replace(",", "").split())


def test_phrases_keep_the_words() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert "orange cat" in phrase("orange cat", rng)
    picture = Picture("x", "dog", ("puppy",), ("pet",), "Animals & Nature", "animal-mammal", 1.0)
    said = [picture_caption(picture, rng) for _ in range(200)]
    assert all("dog" in s or "puppy" in s for s in said)
    assert "dark" in role_caption("judge", "woman", "dark", rng)


def test_the_tokenizer_keeps_every_character_apart_from_the_end_of_text(tmp_path: object) -> None:
    """A character outside the alphabet would become <|endoftext|> in mid-prompt and hide the words behind it."""
    made = tokenizer.build(["a red heart", "woman astronaut, dark skin tone"], tmp_path)  # type: ignore[arg-type]
    assert made.convert_ids_to_tokens(made("a red heart")["input_ids"]) == [
        "<|startoftext|>",
        "a</w>",
        "red</w>",
        "heart</w>",
        "<|endoftext|>",
    ]
    for text in ("a zebra's hat!", "étoile", "東京", "#1 & 50%"):
        inner = made(text)["input_ids"][1:-1]
        assert inner and made.eos_token_id not in inner
