import msgspec
import pytest

from analytics.designs import Bandit
from analytics.experiment import Experiment
from analytics.settings import Document, SettingsError
from finetune.champion import Change, champion_of, known_variants, last_experiment
from finetune.command import seconds_of
from finetune.plan import Options, Plan, make
from finetune.settings import FinetuneSection, round_settings
from serving.variant import Variant

TOML = """
[variants.base]
model = "salon/emoji-64"
steps = 12
[variants.warm]
extends = "base"
guidance = 3.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[finetune]
minimum_likes = 7
[finetune.training]
steps = 50
[finetune.gate]
prompts = 10
limits = { distance = 0.2 }
"""


def settings(tmp_path, text=TOML):
    (tmp_path / "salon.toml").write_text(text)
    return round_settings(Document.read(tmp_path / "salon.toml", {}))


def ship(arm, over="base"):
    return Change(experiment="e", action="ship", changed={"arm": arm, "over": over})


def test_settings_resolve_variants_places_and_nested_knobs(tmp_path):
    found = settings(tmp_path)
    assert found.variants["warm"] == Variant(model="salon/emoji-64", steps=12, guidance=3.0)
    assert found.images_url == f"file://{tmp_path}/var/images" and found.finetune.rounds == str(tmp_path / "var/rounds")
    assert found.finetune.minimum_likes == 7 and found.finetune.training.steps == 50
    assert found.finetune.gate.limits.distance == 0.2 and found.finetune.gate.seeds == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps = 50", "stepz = 50", "stepz"),
        ('extends = "base"', 'extends = "bose"', "did you mean 'base'"),
        ('model = "salon/emoji-64"', 'extends = "warm"', "cycle"),
        ('serve = "base"', 'serve = "bass"', "did you mean 'base'"),
        ("distance = 0.2", 'distance = "far"', "distance"),
    ],
)
def test_wrong_settings_are_named(tmp_path, old, new, said):
    with pytest.raises(SettingsError, match=said):
        settings(tmp_path, TOML.replace(old, new))


def test_champion_is_what_was_shipped_last_unless_the_file_changed_since():
    variants = {"base": Variant(model="m"), "warm": Variant(model="m", guidance=3.0), "r1": Variant(model="m", adapter="x")}
    assert champion_of([], "base", variants, None) == "base"
    assert champion_of([ship("warm"), ship("r1")], "base", variants, None) == "r1"
    assert champion_of([ship("r1", over="other")], "base", variants, None) == "base"
    assert champion_of([ship("gone")], "base", variants, None) == "base"
    assert champion_of([ship("r1")], "base", variants, "warm") == "warm"
    with pytest.raises(LookupError, match="did you mean 'warm'"):
        champion_of([], "base", variants, "worm")


def test_variants_of_earlier_rounds_are_known():
    announced = {"variant_name": "hero-r1", "variant": msgspec.to_builtins(Variant(model="m", adapter="registry:hero-r1@sha256:0"))}
    assert set(known_variants({"base": Variant(model="m")}, [announced, {}])) == {"base", "hero-r1"}


def test_the_template_is_the_experiment_that_ran_last():
    def define(primary):
        return Experiment(route="hero", arms={"a": 0.5, "b": 0.5}, control="a", primary=primary)

    configured = {"first": define("x"), "second": define("y"), "elsewhere": msgspec.structs.replace(define("z"), route="other")}
    created = Change(experiment="hero-r1", action="create", changed={"definition": msgspec.to_builtins(define("w"))})
    started = Change(experiment="first", action="start", changed={})
    assert last_experiment([], configured, "hero") == ("second", define("y"))
    assert last_experiment([created], configured, "hero") == ("hero-r1", define("w"))
    assert last_experiment([created, started], configured, "hero") == ("first", define("x"))
    redefined = msgspec.structs.replace(created, action="redefine", changed={"definition": msgspec.to_builtins(define("v"))})
    assert last_experiment([created, started, redefined], configured, "hero") == ("first", define("x"))
    assert last_experiment([created, redefined], configured, "hero") == ("hero-r1", define("v"))
    assert last_experiment([], {}, "hero") is None


def test_a_plan_from_a_real_warehouse(tmp_path):
    from analytics.events import control_event
    from analytics.warehouse.client import Warehouse

    found = settings(tmp_path)
    warehouse = Warehouse.open(f"chdb://{tmp_path}/warehouse")
    try:
        warehouse.migrate()
        with pytest.raises(LookupError, match="did you mean 'hero'"):
            make(Options(route="hera"), found, warehouse, [])
        definition = Experiment(route="hero", arms={"base": 0.5, "warm": 0.5}, control="base", primary="like_rate", planned_units=77)
        events = [
            control_event("e", "hero", "create", "me", "", {"definition": definition}),
            control_event("e", "hero", "ship", "me", "", {"arm": "warm", "over": "base"}),
        ]
        warehouse.insert("log", 1, 2, events)
        plan = make(Options(route="hero", weight=0.2, steps=9), found, warehouse, [{"experiment": "hero-r4"}])
    finally:
        warehouse.close()
    assert plan.name == "hero-r5" and plan.champion == "warm" and plan.training.steps == 9 and plan.losses() == ["kto", "rwr"]
    candidate = plan.definition()
    assert candidate.arms == {"warm": 0.8, "hero-r5": 0.2} and candidate.control == "warm"
    assert candidate.planned_units == 77 and candidate.autostart
    bandit = msgspec.structs.replace(plan.template, design="bandit", bandit=Bandit(), on_win="ship", on_harm="ask")
    again = msgspec.structs.replace(plan, template=bandit).definition()
    assert (again.design, again.bandit, again.on_win, again.on_harm) == ("ab", None, "ask", None)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_options_and_durations():
    with pytest.raises(ValueError, match="--weight is 1"):
        Options(route="hero", weight=1.0)
    assert [seconds_of(t) for t in ("90s", "30m", "24h", "7d")] == [90, 1800, 86400, 604800]
    for wrong in ("24", "0h", "h", "-1h"):
        with pytest.raises(ValueError, match="--every"):
            seconds_of(wrong)


def test_a_typo_in_the_gates_limits_gets_its_line_and_the_nearest_name(tmp_path):
    text = "[finetune.gate.limits]\ndistanc = 1\n"
    with pytest.raises(SettingsError, match=r"salon.toml:2: finetune.gate.limits.distanc: unknown name .*did you mean 'distance'"):
        Document(tmp_path / "salon.toml", text, {}).section("finetune", FinetuneSection)
