"""One round: examples, training, sweep, gate, publication, record, announcement. Each stage's result is a file; a killed round goes on."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.events import Event, utc_now
from finetune import latents, lora, training_task
from finetune.batches import TrainingSet
from finetune.disk import read_json, write_json
from finetune.examples import ExampleFacts, Logged, NotEnough, common_prompts, require, weigh
from finetune.features import FeatureExtractor, reward_features
from finetune.gate.gate import Gate, Sampler, Trial, Verdict, best, captions_beside
from finetune.manifest import TrainingRecord, announced_variant, announcement_of, manifest_of
from finetune.model import DiffusionModel
from finetune.outcome import Outcome, Stage, Status
from finetune.plan import Plan
from finetune.reward import RewardModel, fit
from finetune.settings import FinetuneSection
from finetune.trained import Recorded, trained_events
from finetune.training import Progress
from finetune.training_task import Task
from serving.model import locate, open_model
from serving.registry import Registry
from serving.variant import Variant

T = TypeVar("T")


class Surroundings(msgspec.Struct):
    """What a round needs of the world: logged pictures as they were at `read_at`, a sampler while it is open, a judge, the
    registry, where things are, and `record`, which appends events to the log (raises OSError)."""

    read_examples: Callable[[], Sequence[Logged]]
    open_sampler: Callable[[], AbstractContextManager[Sampler]]
    extractor: FeatureExtractor
    registry: Registry
    images_url: str
    cache: Path
    read_at: datetime
    record: Callable[[Sequence[Event]], None]


class Round:
    """A round in its folder. `run` may be called again after any interruption, and does only what is missing."""

    def __init__(self, folder: Path, plan: Plan, settings: FinetuneSection, around: Surroundings, say: Callable[[Status], None]) -> None:
        self.folder, self.plan, self._settings, self._around, self._say = folder, plan, settings, around, say
        self._seconds: dict[str, float] = read_json(folder / "seconds.json", dict[str, float]) or {}

    def run(self) -> Outcome:
        """All stages. Raises NotEnough (LookupError), ValueError, OSError, ModelError."""
        if (known := read_json(self.folder / "outcome.json", Outcome)) is not None:
            return known
        write_json(self.folder / "plan.json", self.plan)
        try:
            facts = self._once("examples", ExampleFacts, self._examples)
        except NotEnough:
            # The next attempt decides afresh: by then another variant may be champion.
            shutil.rmtree(self.folder)
            raise
        logs = self._once("training", dict[str, list[Progress]], self._train)
        verdict_file = self.folder / "gate.json"
        trials = read_json(self.folder / "sweep.json", list[Trial])
        if trials is None or not verdict_file.exists():
            with self._around.open_sampler() as sampler:
                gate = self._gate(sampler)
                trials = self._once("sweep", list[Trial], lambda: self._sweep(gate))
                chosen = best(trials, self.plan.options.loss)
                self._once("gate", Verdict, lambda: self._judge(gate, chosen))
        chosen = best(trials, self.plan.options.loss)
        verdict = self._once("gate", Verdict, _never)
        ref = experiment = None
        if verdict.ok:
            ref = self._once("publish", str, lambda: self._publish(facts, logs, trials, chosen, verdict))
            # Before anybody can meet the candidate.
            self._once("record", Recorded, lambda: self._record(str(ref)))
            experiment = self._once("announce", str, lambda: self._announce(str(ref)))
        outcome = Outcome(
            round=self.plan.name, result="announced" if verdict.ok else "refused", reason=verdict.reason, champion=self.plan.champion,
            loss=chosen.loss, scale=chosen.scale, ref=ref, experiment=experiment, gate=verdict, seconds=self._seconds,
            finished_at=utc_now(),
        )  # fmt: skip
        write_json(self.folder / "outcome.json", outcome)
        self.tell("done", outcome.result if verdict.ok else f"refused by the gate: {verdict.reason}", 1.0)
        return outcome

    def tell(self, stage: Stage, detail: str, share: float) -> None:
        """Write status.json and pass it on."""
        status = Status(
            round=self.plan.name,
            route=self.plan.options.route,
            stage=stage,
            detail=detail,
            share=share,
            updated_at=utc_now(),
            pid=os.getpid(),
        )
        write_json(self.folder / "status.json", status)
        self._say(status)

    def _once(self, stage: Stage, kind: Any, make: Callable[[], T]) -> T:
        path = self.folder / f"{stage}.json"
        known: T | None = read_json(path, kind)
        if known is not None:
            return known
        self.tell(stage, "", 0.0)
        started = utc_now()
        made = make()
        self._seconds[stage] = round(self._seconds.get(stage, 0.0) + (utc_now() - started).total_seconds(), 2)
        write_json(self.folder / "seconds.json", self._seconds)
        write_json(path, made)
        self.tell(stage, "", 1.0)
        return made

    @cached_property
    def _model(self) -> DiffusionModel:
        return DiffusionModel.read(locate(self.plan.champion_variant.model))

    def _examples(self) -> ExampleFacts:
        rows = sorted(self._around.read_examples(), key=lambda row: (row.shown_at, str(row.image_id)))[-self._settings.maximum_images :]
        self._require(len(rows), sum(row.liked for row in rows), len({row.unit for row in rows}))
        kept, rgb = latents.read_rgb(self._around.images_url, [row.image_id for row in rows])
        there = [rows[i] for i in kept]
        self._require(len(there), sum(row.liked for row in there), len({row.unit for row in there}))
        examples, facts = weigh(there)
        clean = latents.encode(self._model, rgb, lambda done, all_: self.tell("examples", f"{done} of {all_} latents", done / all_))
        features = reward_features(self._around.extractor, rgb)
        # Only hashes are kept: enough to tell whether a unit was learnt from, not who it was.
        units = np.array([self._hash(unit) for unit in examples.units], np.str_)
        data = TrainingSet(clean, examples.prompts, examples.prompt, examples.generation, examples.liked, examples.weight)
        common = np.array(common_prompts(examples), np.str_)
        training_task.save(data, self._data, features=features, units=units, common=common)
        return msgspec.structs.replace(facts, pictures_gone=len(rows) - len(there))

    def _hash(self, unit: str) -> str:
        return hashlib.sha256(f"{self.plan.name}:{unit}".encode()).hexdigest()

    def _require(self, images: int, likes: int, units: int) -> None:
        s = self._settings
        require(
            images, likes, units, minimum_images=s.minimum_images, minimum_likes=s.minimum_likes, minimum_units=s.minimum_units,
            signal=self.plan.options.signal,
        )  # fmt: skip

    @property
    def _data(self) -> Path:
        return self.folder / "examples.npz"

    def _tasks(self) -> list[Task]:
        losses = self.plan.losses()
        processes = self._processes
        limit = self.plan.training.max_seconds
        each = limit / len(losses) if limit and processes == 1 else limit
        champion = self.plan.champion_variant
        return [
            Task(
                model=str(locate(champion.model)),
                champion_adapter=str(self._champion_adapter) if champion.adapter else None,
                champion_scale=champion.adapter_scale,
                data=str(self._data),
                out=str(self.folder / loss),
                training=msgspec.structs.replace(self.plan.training, loss=loss, max_seconds=each),
            )
            for loss in losses
        ]

    @property
    def _processes(self) -> int:
        return self._settings.processes or min(len(self.plan.losses()), len(os.sched_getaffinity(0)))

    @property
    def _champion_adapter(self) -> Path:
        adapter = self.plan.champion_variant.adapter or ""
        return self._around.registry.fetch(adapter) if adapter.startswith("registry:") else Path(adapter)

    def _train(self) -> dict[str, list[Progress]]:
        tasks = self._tasks()

        def say(progress: Progress) -> None:
            detail = f"{progress.loss} step {progress.step} of {progress.steps}, loss {progress.value:.4f}"
            self.tell("training", detail, progress.step / progress.steps)

        training_task.run_all(tasks, self._processes, say)
        return {task.training.loss: training_task.log_of(task) or [] for task in tasks}

    def _reward(self) -> RewardModel:
        data = training_task.load(self._data)
        with np.load(self._data, allow_pickle=False) as columns:
            features, units = columns["features"], [str(u) for u in columns["units"]]
        kappa = self.plan.gate.limits.kappa
        return fit(features, data.prompt, data.liked, data.weight, units, kappa=kappa, seed=self.plan.options.seed)

    def _gate(self, sampler: Sampler) -> Gate:
        with np.load(self._data, allow_pickle=False) as columns:
            prompts = [str(p) for p in columns["common"]][: self.plan.gate.prompts]

        def encode(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
            encoded: NDArray[np.float32] = self._model.encode(rgb).numpy()
            return encoded

        return Gate(
            self.plan.champion_variant,
            prompts,
            captions_beside(prompts),
            sampler,
            self._around.extractor,
            encode,
            self._reward(),
            self.plan.gate,
        )

    def _candidate(self, adapter: Path) -> Variant:
        return msgspec.structs.replace(self.plan.champion_variant, adapter=str(adapter), adapter_scale=1.0)

    def _sweep(self, gate: Gate) -> list[Trial]:
        champion: lora.Adapter = {}
        if self.plan.champion_variant.adapter:
            champion = lora.scaled(lora.read(self._champion_adapter), self.plan.champion_variant.adapter_scale)
        trials: list[Trial] = []
        plans = [(task, scale) for task in self._tasks() for scale in self.plan.gate.scales]
        for done, (task, scale) in enumerate(plans):
            self.tell("sweep", f"{task.training.loss} at strength {scale:g}", done / len(plans))
            folder = self.folder / "adapters" / f"{task.training.loss}-{scale:g}"
            lora.write(lora.stacked(champion, lora.scaled(training_task.adapter_of(task), scale)), folder)
            trials.append(gate.trial(self._candidate(folder), task.training.loss, scale, folder))
        return trials

    def _judge(self, gate: Gate, chosen: Trial) -> Verdict:
        return gate.judge(self._candidate(Path(chosen.adapter)))

    def _publish(
        self, facts: ExampleFacts, logs: Mapping[str, list[Progress]], trials: list[Trial], chosen: Trial, verdict: Verdict
    ) -> str:
        model_digest = self._model_digest
        trained: dict[str, TrainingRecord] = {
            t.training.loss: TrainingRecord(settings=t.training, last=logs[t.training.loss][-1]) for t in self._tasks()
        }
        manifest = manifest_of(self.plan, facts, trained, trials, chosen, verdict, model_digest, self._reward().held_out)
        write_json(self.folder / "manifest.json", manifest)
        return self._around.registry.publish(self.plan.name, Path(chosen.adapter), msgspec.to_builtins(manifest))

    @property
    def _model_digest(self) -> str:
        return open_model(self.plan.champion_variant.model, self._around.cache).digest

    def _record(self, ref: str) -> Recorded:
        with np.load(self._data, allow_pickle=False) as columns:
            learnt_from = {str(unit) for unit in columns["units"]}
        units = {row.unit for row in self._around.read_examples() if row.unit and self._hash(row.unit) in learnt_from}
        digest = announced_variant(self.plan, ref).digest(self._model_digest)
        self._around.record(trained_events(self.plan, units, digest, self._around.read_at))
        gone = len(learnt_from - {self._hash("")}) - len(units)
        return Recorded(units=len(units), gone=gone, variant_digest=digest)

    def _announce(self, ref: str) -> str:
        known = {str(a.get("experiment")) for a in self._around.registry.announcements()}
        if self.plan.name not in known:
            self._around.registry.announce(announcement_of(self.plan, ref, utc_now()))
        return self.plan.name


def _never() -> Verdict:
    raise AssertionError("the gate's verdict was written before this point")
