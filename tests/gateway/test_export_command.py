"""`salon export`: which directory a name means, and what a wrong name says. The export itself: tests/serving/test_export_graphs.py."""

from pathlib import Path

import pytest

from analytics.settings import Document
from gateway.export_command import model_folder

CONFIG = """
[variants.base]
model = "models/mine"
steps = 12
[variants.vivid]
extends = "base"
guidance = 3.0
[variants.loop]
extends = "loop"
[variants.lost]
extends = "bass"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "salon.toml").write_text(CONFIG)
    return tmp_path / "salon.toml"


def test_a_variant_means_its_model_relative_to_the_configuration(config: Path) -> None:
    assert model_folder("base", Document.read(config)) == model_folder("vivid", Document.read(config)) == config.parent / "models/mine"


def test_a_directory_means_itself(config: Path) -> None:
    assert model_folder(str(config.parent / "models/mine"), Document.read(config)) == config.parent / "models/mine"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("vivit", "did you mean 'vivid'"),
        ("loop", r"salon\.toml:9: variants\.loop\.extends"),
        ("lost", "did you mean 'base'"),
        ("a/b", "hf download"),
    ],
)
def test_a_wrong_name_says_what_is_right(config: Path, name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        model_folder(name, Document.read(config))
