"""What a round made and from what: the record beside an adapter in the registry."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from finetune.examples import ExampleFacts
from finetune.gate.gate import GateSettings, Trial, Verdict
from finetune.plan import Plan
from finetune.training import Progress, Training
from serving.variant import Variant

PACKAGES = ("salon", "torch", "diffusers", "transformers", "peft", "numpy")


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a candidate comes from. `champion_digest` is the variant's, `model_digest` that of the base model's files."""

    route: str
    champion: str
    champion_variant: Variant
    champion_digest: str
    model_digest: str
    signal: str
    examples: ExampleFacts
    reward_held_out: float


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One loss: its settings and how it ended."""

    settings: Training
    last: Progress


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to repeat or to doubt a round."""

    round: str
    created_at: datetime
    lineage: Lineage
    seed: int
    trainings: dict[str, TrainingRecord]
    chosen_loss: str
    chosen_scale: float
    sweep: list[Trial]
    gate_settings: GateSettings
    gate: Verdict
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def manifest_of(
    plan: Plan,
    facts: ExampleFacts,
    trained: Mapping[str, TrainingRecord],
    trials: Sequence[Trial],
    chosen: Trial,
    verdict: Verdict,
    model_digest: str,
    reward_held_out: float,
) -> Manifest:
    """A round's record, once its gate has spoken."""
    lineage = Lineage(
        route=plan.options.route,
        champion=plan.champion,
        champion_variant=plan.champion_variant,
        champion_digest=plan.champion_variant.digest(model_digest),
        model_digest=model_digest,
        signal=plan.options.signal,
        examples=facts,
        reward_held_out=round(reward_held_out, 4),
    )
    return Manifest(
        round=plan.name,
        created_at=plan.created_at,
        lineage=lineage,
        seed=plan.options.seed,
        trainings=dict(trained),
        chosen_loss=chosen.loss,
        chosen_scale=chosen.scale,
        sweep=[msgspec.structs.replace(trial, adapter=Path(trial.adapter).name) for trial in trials],
        gate_settings=plan.gate,
        gate=verdict,
        versions=versions(),
    )


def announced_variant(plan: Plan, ref: str) -> Variant:
    """The candidate: the champion with the round's adapter `ref`."""
    return msgspec.structs.replace(plan.champion_variant, adapter=ref, adapter_scale=1.0)


def announcement_of(plan: Plan, ref: str, now: datetime) -> dict[str, Any]:
    """What the gateway needs to let the candidate meet the champion by itself: the experiment and the variant."""
    record = {
        "name": plan.name,
        "experiment": plan.name,
        "route": plan.options.route,
        "champion": plan.champion,
        "weight": plan.options.weight,
        "definition": plan.definition(),
        "variant_name": plan.name,
        "variant": announced_variant(plan, ref),
        "round": {"name": plan.name, "ref": ref},
        "created_at": now,
    }
    built: dict[str, Any] = msgspec.to_builtins(record)
    return built
