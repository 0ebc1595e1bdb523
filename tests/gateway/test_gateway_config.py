"""`salon.toml` as a whole: defaults, inheritance, and refusals with file, line, value and the nearest name."""

from pathlib import Path

import pytest

from analytics.settings import Document, SettingsError
from gateway.config import load

GOOD = """
[variants.base]
model = "models/tiny"
steps = 7
[variants.vivid]
extends = "base"
guidance = 4.0
[variants.vivid-fast]
extends = "vivid"
steps = 3
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.zooms]
kind = "mean"
event = "zoom"
[experiments.colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
guardrails = { latency_p95_ms = { margin = 0.10, direction = "down" } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models/tiny").mkdir(parents=True)
    return tmp_path


def read(folder: Path, text: str, environ=None):
    path = folder / "salon.toml"
    path.write_text(text)
    return load(Document.read(path, environ or {}))


def test_extends_chains_and_paths(folder):
    config = read(folder, GOOD)
    fast = config.variants["vivid-fast"]
    assert (fast.steps, fast.guidance, fast.model) == (3, 4.0, str(folder / "models/tiny"))
    assert config.variants["base"].guidance == 2.0
    assert config.feedback_kinds == {"like", "zoom"}
    assert config.var == folder / "var" and config.keys_path == folder / "keys.toml"
    assert config.images_url == f"file://{folder}/var/images"


def test_environment_overrides(folder):
    assert read(folder, GOOD, {"SALON_GATEWAY__LISTEN": "0.0.0.0:9"}).gateway.listen == "0.0.0.0:9"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('[variants.base]', '[variants.base]\nstepz = 7', 3, "did you mean 'steps'"),
        ("steps = 7", "steps = 0", 4, "0: Expected `int` >= 1"),
        ('model = "models/tiny"', 'model = "models/tinny"', 3, "did you mean 'tiny'"),
        ('model = "models/tiny"', 'model = "salon/emoji-46"', 3, "not packaged"),
        ('extends = "base"\nguidance', 'extends = "bass"\nguidance', 6, "did you mean 'base'"),
        ("steps = 7", 'steps = 7\nextends = "vivid-fast"', 7, "cycle: base → vivid-fast → vivid → base"),
        ('extends = "vivid"', 'extends = "vivid"\nengine = "gpuu"', 10, "unknown name 'gpuu'"),
        ('serve = "base"', 'serve = "baze"', 12, "did you mean 'base'"),
        ('route = "hero"', 'route = "herro"', 20, "did you mean 'hero'"),
        ("arms = { base = 0.5, vivid = 0.5 }", "arms = { base = 0.7, vivid = 0.7 }", 19, "sum to 1.4"),
        ("arms = { base = 0.5, vivid = 0.5 }", "arms = { base = 0.5, vivit = 0.5 }", 21, "did you mean 'vivid'"),
        ('control = "base"', 'control = "vivit"', 19, "not an arm"),
        ('primary = "like_rate"', 'primary = "like_rat"', 23, "did you mean 'like_rate'"),
        ('primary = "like_rate"', 'primary = "like_rate"\ndesign = "duel"', 24, "not built yet"),
        ('[routes.hero]', '[route.hero]', 11, "did you mean 'routes'"),
        ('[variants.base]', '[gateway]\nlisten = "8080"\n[variants.base]', 3, "HOST:PORT"),
        ('[variants.base]', '[gateway]\napi_keys = "keys.toml"\n[variants.base]', 3, "file:PATH"),
        ('steps = 7', 'steps = 7\nadapter = "lora"', 5, "no file or directory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_line(folder, old, new, line, said):
    assert old in GOOD
    with pytest.raises(SettingsError) as refusal:
        read(folder, GOOD.replace(old, new, 1))
    assert f"salon.toml:{line}:" in str(refusal.value) and said in str(refusal.value)


def test_an_inherited_value_is_refused_where_it_was_written(folder):
    child = '[variants.vivid]\nextends = "base"\nguidance = 4.0\n'
    with pytest.raises(SettingsError, match=r"salon\.toml:6: variants\.base\.steps"):
        read(folder, child + GOOD.replace(child, "").replace("steps = 7", "steps = 0").lstrip())


def test_a_remote_engine_is_refused_only_where_a_variant_uses_it(folder):
    declared = '[engines.gpu]\nurl = "http://engine:8000"\n' + GOOD
    read(folder, declared)
    with pytest.raises(SettingsError, match="remote engines are not built yet"):
        read(folder, declared.replace("steps = 7", 'steps = 7\nengine = "gpu"'))


def test_two_experiments_cannot_start_by_themselves_on_one_route(folder):
    second = GOOD[GOOD.index("[experiments.colours]") :].replace("colours", "again")
    with pytest.raises(SettingsError, match="starts by itself"):
        read(folder, (GOOD + second).replace('primary = "like_rate"', 'primary = "like_rate"\nautostart = true'))


def test_a_configuration_without_routes_is_refused(folder):
    with pytest.raises(SettingsError, match="there is no route"):
        read(folder, '[variants.base]\nmodel = "models/tiny"\n')
