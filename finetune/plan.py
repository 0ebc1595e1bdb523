"""A round's plan: all that was decided when it began, so that a run after a kill goes on with the same."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from analytics.events import utc_now
from analytics.experiment import Experiment, Metric
from analytics.settings import nearest
from analytics.warehouse.client import Warehouse
from finetune.champion import champion_of, changes_of, known_variants, last_experiment
from finetune.disk import read_json
from finetune.gate.gate import GateSettings
from finetune.settings import RoundSettings
from finetune.training import Loss, Training
from serving.variant import Variant

Chosen = Literal["kto", "rwr", "dpo", "best"]
BASELINE: Loss = "rwr"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line. `weight` is the candidate's share of its experiment."""

    route: str
    signal: str = "like"
    loss: Chosen = "best"
    weight: float = 0.1
    seed: int = 0
    steps: int | None = None
    max_seconds: float | None = None
    champion: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(f"--weight is {self.weight:g}; give the candidate a share above 0 and below 1, such as 0.1")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions. `template` is the experiment whose metrics and guardrails the candidate's takes over."""

    name: str
    options: Options
    champion: str
    champion_variant: Variant
    template: Experiment
    training: Training
    gate: GateSettings
    created_at: datetime

    def losses(self) -> list[Loss]:
        """What to train: the loss asked for and the baseline beside it."""
        main: Loss = "kto" if self.options.loss == "best" else self.options.loss
        return [main] if main == BASELINE else [main, BASELINE]

    def definition(self) -> Experiment:
        """The experiment in which the candidate meets the champion: people are split, harm is rolled back, and somebody ships it."""
        share = self.options.weight
        return msgspec.structs.replace(
            self.template, arms={self.champion: 1 - share, self.name: share}, control=self.champion, design="ab", salt="", autostart=True,
            bandit=None, duel=None, switchback=None, ramp=None, on_win="ask", on_harm=None,
        )  # fmt: skip


def make(options: Options, settings: RoundSettings, warehouse: Warehouse, announcements: Sequence[Mapping[str, Any]]) -> Plan:
    """Decide everything. Raises LookupError for an unknown route or champion, ValueError when no metric fits the signal."""
    if options.route not in settings.routes:
        raise LookupError(f"route {options.route!r} is not in the configuration; {nearest(options.route, settings.routes)}")
    changes = changes_of(warehouse, options.route)
    variants = known_variants(settings.variants, announcements)
    champion = champion_of(changes, settings.routes[options.route].serve, variants, options.champion)
    last = last_experiment(changes, settings.analytics.experiments, options.route)
    template = last[1] if last else _fresh(options, settings.analytics.metrics, champion)
    training = settings.finetune.training
    changed: dict[str, Any] = {"seed": options.seed}
    if options.steps is not None:
        changed["steps"] = options.steps
    if options.max_seconds is not None:
        changed["max_seconds"] = options.max_seconds
    return Plan(
        name=_next_name(options.route, Path(settings.finetune.rounds), announcements),
        options=options,
        champion=champion,
        champion_variant=variants[champion],
        template=template,
        training=msgspec.structs.replace(training, **changed),
        gate=settings.finetune.gate,
        created_at=utc_now(),
    )


def unfinished(options: Options, rounds: Path) -> Plan | None:
    """The newest plan of the same options that has no outcome."""
    for folder in sorted(rounds.glob(f"{options.route}-r*"), key=lambda f: _number(f.name), reverse=True):
        plan = read_json(folder / "plan.json", Plan)
        if plan is not None and plan.options == options and not (folder / "outcome.json").exists():
            return plan
    return None


def _fresh(options: Options, metrics: Mapping[str, Metric], champion: str) -> Experiment:
    primary = next((name for name, metric in metrics.items() if metric.event == options.signal), None)
    if primary is None:
        raise ValueError(
            f"no experiment ran on route {options.route!r} and no [metrics.NAME] has event = {options.signal!r}; add one to judge by"
        )
    return Experiment(route=options.route, arms={champion: 0.5, "candidate": 0.5}, control=champion, primary=primary)


def _next_name(route: str, rounds: Path, announcements: Sequence[Mapping[str, Any]]) -> str:
    used = [_number(f.name) for f in rounds.glob(f"{route}-r*")]
    used += [_number(str(a.get("experiment"))) for a in announcements if str(a.get("experiment")).startswith(f"{route}-r")]
    return f"{route}-r{max(used, default=0) + 1}"


def _number(name: str) -> int:
    match = re.search(r"-r(\d+)$", name)
    return int(match[1]) if match else 0
