"""The packaged model as it is served: it draws what it is asked, the judge agrees, seeds decide."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.judge import Judge
from serving.engine import Job, LocalEngine
from serving.registry import Registry
from serving.variant import Variant

CAPTIONS = (
    "red heart", "pizza", "grinning face", "crying face", "rocket", "bear", "house", "deciduous tree", "woman astronaut, dark skin tone",
    "man judge, light skin tone", "guitar", "penguin", "sunflower", "automobile", "hot beverage", "butterfly",
)  # fmt: skip
VARIANT = Variant(model="salon/emoji-64", steps=20, guidance=2.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    folder: Path = tmp_path_factory.mktemp("engine")
    made = LocalEngine(Registry(str(folder / "registry")), cache=folder / "cache", max_queue_seconds=600)
    made.load(VARIANT)
    yield made
    made.close()


def draw(engine: LocalEngine, prompts: list[str], seeds: list[int]) -> np.ndarray:
    jobs = [engine.submit(Job(variant=VARIANT, prompt=p, seed=s)) for p, s in zip(prompts, seeds, strict=True)]
    return np.stack([job.result(300).rgb for job in jobs])


def test_the_judge_finds_the_caption_of_what_was_drawn(engine: LocalEngine) -> None:
    """The card measures 200 captions among 64; here 16 among 16, of which at most one may be missed."""
    judge = Judge.load()
    scores = judge.image_features(draw(engine, list(CAPTIONS), [7] * len(CAPTIONS))) @ judge.text_features(CAPTIONS).T
    assert (scores.argmax(1) == np.arange(len(CAPTIONS))).sum() >= len(CAPTIONS) - 1


def test_colours_are_true(engine: LocalEngine) -> None:
    """The mean colour of what is drawn: the asked channel leads."""
    rgb = draw(engine, ["a red heart", "a green circle", "a blue square"], [1, 2, 3]).astype(float)
    for picture, channel in zip(rgb, range(3), strict=True):
        ink = picture[picture.min(-1) < 220].mean(0)
        assert ink.argmax() == channel


def test_free_paraphrases_draw_alike(engine: LocalEngine) -> None:
    """`a smiling face` and `grinning face` both smile: the judge prefers smiling captions to sad ones for both."""
    judge = Judge.load()
    seen = judge.image_features(draw(engine, ["a smiling face", "grinning face"], [4, 4]))
    happy, sad = judge.text_features(["grinning face", "smiling face"]), judge.text_features(["crying face", "angry face", "frowning face"])
    assert ((seen @ happy.T).max(1) > (seen @ sad.T).max(1)).all()


def test_neutral_roles_vary_from_seed_to_seed(engine: LocalEngine) -> None:
    rgb = draw(engine, ["a teacher"] * 10, list(range(10))).astype(float)
    apart = [np.abs(a - b).mean() for i, a in enumerate(rgb) for b in rgb[:i]]
    assert np.mean(apart) > 8


def test_the_seed_decides_and_nothing_else(engine: LocalEngine) -> None:
    alone = draw(engine, ["a rocket"], [5])[0]
    crowd = draw(engine, ["a rocket", "pizza", "a rocket", "bear"], [5, 6, 7, 8])
    assert np.abs(alone.astype(int) - crowd[0]).max() <= 1
    assert np.abs(crowd[0].astype(int) - crowd[2]).max() > 30
