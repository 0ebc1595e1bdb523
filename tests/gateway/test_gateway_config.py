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
        ('primary = "like_rate"', 'primary = "like_rate"\nswitchback = { block_minutes = 5 }', 19, "belongs to design"),
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


REMOTE = GOOD.replace('model = "models/tiny"', 'model = "models/elsewhere"\nengine = "gpu"')


def test_what_a_remote_engine_needs_is_not_looked_for_here(folder):
    config = read(folder, '[engines.gpu]\nurl = ["http://a:8000", "https://b"]\ntoken = "file:token"\ndevice = "cuda:1"\n' + REMOTE)
    base, engine = config.variants["base"], config.engines["gpu"]
    assert base.model == str(folder / "models/elsewhere") and base.served_as is None
    assert engine.remote.urls == ("http://a:8000", "https://b") and engine.remote.token == f"file:{folder}/token"
    assert engine.settings().device == "cuda:1"
    assert config.engines["local"].remote is None


def test_a_server_of_others_is_told_the_name_of_the_variant(folder):
    text = '[engines.gpu]\nurl = "http://triton:8000/v1"\nmodel = "sd15"\n' + REMOTE.replace("steps = 7", 'steps = 7\nsize = "512x512"')
    variants = read(folder, text).variants
    assert (variants["base"].model, variants["base"].served_as, variants["vivid"].served_as) == ("models/elsewhere", "base", "vivid")
    with pytest.raises(SettingsError, match=r"variants\.base\.size: is missing"):
        read(folder, text.replace('size = "512x512"', ""))
    with pytest.raises(SettingsError, match="takes none"):
        read(folder, text.replace('size = "512x512"', 'size = "512x512"\nadapter = "lora"'))


def test_several_devices_are_several_engines(folder):
    engine = read(folder, '[engines.gpu]\ndevice = ["cuda:0", "cuda:1"]\n' + GOOD).engines["gpu"]
    assert [engine.settings(device).device for device in engine.devices] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('mode = "strict"', "give `device`"),
        ('url = "engine:8000"', "url is 'engine:8000'; write \"http://HOST:PORT\""),
        ("url = []", "empty list"),
        ("device = []", "empty list"),
        ('device = ["cpu", "gpu"]', "device is 'gpu'"),
        ('url = ["http://a:1", "http://a:1/"]', "twice"),
        ('url = "http://a:99999"', "HOST:PORT"),
        ('device = "cpu"\nmodel = "sd15"', "give its `url`"),
        ('url = "http://me:hunter2@a:1"', "holds a password"),
        ('url = "http://a:1"\ntoken = "hunter2"', "not the token itself"),
    ],
)
def test_what_is_wrong_with_an_engine_is_named_and_no_secret_is_shown(folder, section, said):
    with pytest.raises(SettingsError) as refusal:
        read(folder, f"[engines.gpu]\n{section}\n{GOOD}")
    assert "engines.gpu" in str(refusal.value) and said in str(refusal.value) and "hunter2" not in str(refusal.value)


def test_two_experiments_cannot_start_by_themselves_on_one_route(folder):
    second = GOOD[GOOD.index("[experiments.colours]") :].replace("colours", "again")
    with pytest.raises(SettingsError, match="starts by itself"):
        read(folder, (GOOD + second).replace('primary = "like_rate"', 'primary = "like_rate"\nautostart = true'))


def test_a_configuration_without_routes_is_refused(folder):
    with pytest.raises(SettingsError, match="there is no route"):
        read(folder, '[variants.base]\nmodel = "models/tiny"\n')
