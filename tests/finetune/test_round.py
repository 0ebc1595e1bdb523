"""A whole round on the nano model: real store, registry, files and training; pictures drawn by diffusers' own pipeline."""

import io
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import jsonschema
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from analytics.appending import append_events
from analytics.event_log import open_log
from analytics.event_schema.files import read
from analytics.events import derived_id, encode, new_id
from analytics.experiment import Experiment, Guardrail
from analytics.settings import EventsSettings
from finetune import lora
from finetune.disk import read_json
from finetune.examples import NotEnough
from finetune.gate.checks import Limits
from finetune.gate.gate import GateSettings
from finetune.manifest import Manifest
from finetune.outcome import Status
from finetune.pictures_store import stored_path
from finetune.plan import Options, Plan, unfinished
from finetune.round import Round, Surroundings
from finetune.settings import FinetuneSection
from finetune.trained import trained_events
from finetune.training import Training
from serving.model import open_model
from serving.registry import Registry
from serving.variant import Variant

PROMPTS = [f"a {c}" for c in "bcdefghijklm"]
START = datetime(2026, 11, 1, tzinfo=UTC)
WIDE = Limits(alignment_margin=2.0, distance=9.0, diversity=0.0, colour_sds=1e6, bias=1.0, resamples=500)


class Row(msgspec.Struct):
    image_id: object
    generation_id: object
    unit: str
    experiment: str
    arm: str
    prompt: str
    position: int
    grid: int
    propensity: float | None
    liked: bool
    shown_at: datetime


class PixelProjection:
    """A fixed random projection of pixels: a real extractor that knows nothing of meaning."""

    name, digest = "random-projection", "sha256:test"

    def __init__(self):
        self._matrix = np.random.default_rng(0).normal(size=(16 * 16 * 3, 24)).astype(np.float32)

    def image_features(self, rgb):
        small = rgb.reshape(len(rgb), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(rgb), -1).astype(np.float32) / 127.5 - 1
        out = small @ self._matrix
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def text_features(self, captions):
        rows = np.stack([np.random.default_rng(list(c.encode())).normal(size=24) for c in captions]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class PipelineSampler:
    """Draws with diffusers' DDIM: the independent implementation of what serving does."""

    def __init__(self, folder, registry):
        self._folder, self._registry, self.drawn = folder, registry, 0

    def render(self, variant, prompts, seeds):
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import logging

        logging.set_verbosity_error()
        pipe = StableDiffusionPipeline.from_pretrained(self._folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        if variant.adapter:
            lora.merge(pipe.unet, lora.read(self._registry.fetch(variant.adapter) if ":" in variant.adapter else _path(variant.adapter)))
        asked = [(p, s) for p in prompts for s in seeds]
        noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for _, s in asked])
        images = pipe(
            [p for p, _ in asked], latents=noise, num_inference_steps=variant.steps, guidance_scale=variant.guidance, output_type="np"
        ).images
        self.drawn += len(asked)
        return (images * 255).round().astype(np.uint8).reshape(len(prompts), len(list(seeds)), 32, 32, 3)


def slope(rgb):
    """How much brighter the left half is."""
    return rgb[..., :16, :].mean() - rgb[..., 16:, :].mean()


def _path(text):
    from pathlib import Path

    return Path(text)


def world(tmp_path, nano_folder, likes=True, images=240):
    """Two pictures per generation, bright left or right; people like the former, and look at the first place twice as often."""
    rng = np.random.default_rng(3)
    rows = []
    for g in range(images // 2):
        shown_at = START + timedelta(minutes=g)
        generation, prompt = new_id(), PROMPTS[g % len(PROMPTS)]
        for position in range(2):
            bright = rng.random() < 0.5
            half = np.where(np.arange(32) < 16, 60, -60) * (1 if bright else -1)
            rgb = np.clip(128 + half[None, :, None] + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
            image_id = derived_id(shown_at, str(g), str(position))
            path = _path(stored_path(str(tmp_path / "images"), image_id))
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.fromarray(rgb).save(file, "PNG")
            path.write_bytes(file.getvalue())
            liked = likes and bool(rng.random() < (0.9 if bright else 0.1) * (1.0 if position == 0 else 0.5))
            rows.append(Row(image_id, generation, f"u{g % 40}", "warm", "base", prompt, position, 2, 0.5, liked, shown_at))
    registry = Registry(str(tmp_path / "registry"))
    sampler = PipelineSampler(nano_folder, registry)

    @contextmanager
    def open_sampler():
        yield sampler

    log = EventsSettings(log=f"local:{tmp_path}/events", spool=tmp_path / "spool", spool_max_bytes=1 << 20, spool_max_age_hours=1)
    around = Surroundings(
        lambda: rows, open_sampler, PixelProjection(), registry, f"file://{tmp_path}/images", tmp_path / "cache",
        START + timedelta(days=1), lambda events: append_events(log, events),
    )  # fmt: skip
    template = Experiment(
        route="hero",
        arms={"base": 0.5, "vivid": 0.5},
        control="base",
        primary="like_rate",
        guardrails={"latency_p95_ms": Guardrail(margin=0.1)},
    )
    plan = Plan(
        name="hero-r1",
        options=Options(route="hero", loss="best"),
        champion="base",
        champion_variant=Variant(model=str(nano_folder), steps=3, guidance=2.0),
        template=template,
        training=Training(steps=25, batch=16, learning_rate=4e-3, checkpoint_seconds=0.0),
        gate=GateSettings(prompts=12, seeds=2, sweep_prompts=8, roles=2, role_seeds=4, scales=(1.0,), limits=WIDE),
        created_at=START,
    )
    return around, plan, sampler


SECTION = FinetuneSection(minimum_images=100, minimum_likes=20, minimum_units=10, processes=1)


def test_a_round_from_likes_to_an_announced_candidate_survives_kills(tmp_path, nano_folder):
    around, plan, sampler = world(tmp_path, nano_folder)
    folder = tmp_path / "rounds" / plan.name

    class Killed(BaseException):
        pass

    def kill_at(stage, share):
        def say(status):
            if status.stage == stage and status.share >= share:
                raise Killed

        return say

    for stage, share in (("training", 0.5), ("sweep", 0.4), ("gate", 0.0), ("publish", 1.0), ("record", 0.0)):
        with pytest.raises(Killed):
            ended = Round(folder, plan, SECTION, around, kill_at(stage, share)).run()
            pytest.fail(f"not killed in {stage}: {ended.reason}")
        assert unfinished(plan.options, folder.parent) == plan
    seen = []
    outcome = Round(folder, plan, SECTION, around, seen.append).run()
    assert outcome.result == "announced", outcome.reason
    assert {s.stage for s in seen} == {"record", "announce", "done"}
    assert unfinished(plan.options, folder.parent) is None
    assert Round(folder, plan, SECTION, around, seen.append).run() == outcome

    # the candidate is published once, with its lineage, and announced once
    manifest = msgspec.convert(
        {k: v for k, v in around.registry.manifests()[0].items() if k not in ("ref", "name", "files", "published_at")}, Manifest
    )
    assert manifest == read_json(folder / "manifest.json", Manifest)
    assert manifest.lineage.examples.units == 40 and manifest.lineage.examples.likes > 40
    seen_places = manifest.lineage.examples.examination
    rate = manifest.lineage.examples.likes / 240
    first, second = ((seen_places.liked[k] + 20 * rate) / (seen_places.shown[k] + 20) for k in ("2:0", "2:1"))
    assert seen_places.by_place["2:0"] == 1.0 and seen_places.by_place["2:1"] == pytest.approx(second / first) and second < 0.85 * first
    assert set(manifest.trainings) == {"kto", "rwr"} and manifest.gate.ok
    [record] = around.registry.announcements()
    definition = msgspec.convert(record["definition"], Experiment)
    assert definition.arms == {"base": 0.9, "hero-r1": 0.1} and definition.autostart and definition.control == "base"
    assert definition.primary == "like_rate" and "latency_p95_ms" in definition.guardrails
    candidate = msgspec.convert(record["variant"], Variant)
    assert candidate.adapter == outcome.ref and candidate.steps == 3

    # the units that it learnt from are in the log, each once, under the digest that the engine will serve it by
    trained = logged(tmp_path)
    model = open_model(str(nano_folder), tmp_path / "cache")
    assert sorted(event.unit for event in trained) == sorted({f"u{g}" for g in range(40)})
    assert {event.variant_digest for event in trained} == {candidate.digest(model.digest)} != {plan.champion_variant.digest(model.digest)}
    assert {(e.kind, e.route, e.attributes["round"], e.experiment) for e in trained} == {("trained", "hero", "hero-r1", "")}
    for event in trained:
        jsonschema.validate(json.loads(encode(event)), json.loads(read("trained")), cls=jsonschema.Draft202012Validator)

    # and it draws what people liked
    fresh = range(5000, 5004)
    before, after = (slope(sampler.render(v, PROMPTS, fresh)) for v in (plan.champion_variant, candidate))
    assert after > before + 1.0

    status = read_json(folder / "status.json", Status)
    assert status is not None and status.stage == "done"
    assert not any(b"u39" in path.read_bytes() for path in folder.rglob("*.json"))


def logged(tmp_path):
    log = open_log(f"local:{tmp_path}/events")
    try:
        return [event for _, event in log.read(0, 10_000)]
    finally:
        log.close()


def test_recording_again_adds_nobody_and_leaves_out_who_is_gone(tmp_path, nano_folder):
    """A round that was killed while it recorded reads the warehouse again: ids repeat, the erased are not brought back."""
    _, plan, _ = world(tmp_path, nano_folder, images=4)
    log = EventsSettings(log=f"local:{tmp_path}/events", spool=tmp_path / "spool", spool_max_bytes=1 << 20, spool_max_age_hours=1)
    first = trained_events(plan, ["b", "a", "a"], "sha256:1", START + timedelta(hours=1))
    again = trained_events(plan, ["b"], "sha256:1", START + timedelta(hours=2))
    assert [e.unit for e in first] == ["a", "b"] and again[0].event_id == first[1].event_id
    assert trained_events(plan, ["b"], "sha256:2", START)[0].event_id != again[0].event_id
    # an erasure after the reading covers the event, whenever it is written
    assert {e.received_at for e in first} == {START + timedelta(hours=1)}
    for events in (first, again):
        append_events(log, events)
    assert [e.unit for e in logged(tmp_path)] == ["a", "b"]
    opened = open_log(f"local:{tmp_path}/events")
    assert opened.erase("a") == 1
    opened.close()
    assert [e.unit for e in logged(tmp_path)] == ["b"]


def test_the_gate_refuses_and_nothing_is_announced(tmp_path, nano_folder):
    around, plan, _ = world(tmp_path, nano_folder)
    strict = msgspec.structs.replace(plan.gate, limits=msgspec.structs.replace(WIDE, distance=-1.0))
    plan = msgspec.structs.replace(plan, gate=strict, options=Options(route="hero", loss="kto"), training=Training(steps=4, batch=8))
    outcome = Round(tmp_path / "rounds" / plan.name, plan, SECTION, around, lambda _: None).run()
    assert outcome.result == "refused" and "distance is" in outcome.reason and "the limit is -1.000" in outcome.reason
    assert logged(tmp_path) == []
    assert outcome.ref is None and around.registry.announcements() == [] and around.registry.manifests() == []


def test_too_little_feedback_is_refused_with_the_numbers(tmp_path, nano_folder):
    around, plan, _ = world(tmp_path, nano_folder, likes=False, images=60)
    folder = tmp_path / "rounds" / plan.name
    with pytest.raises(NotEnough, match=r"60 shown pictures of the 100 needed; 0 pictures with the signal 'like' of the 20 needed"):
        Round(folder, plan, SECTION, around, lambda _: None).run()
    assert not folder.exists()


def test_a_store_that_is_not_the_gateways_is_named(tmp_path, nano_folder):
    around, plan, _ = world(tmp_path, nano_folder)
    around.images_url = f"file://{tmp_path}/elsewhere"
    with pytest.raises(LookupError, match="none of 240 logged pictures"):
        Round(tmp_path / "rounds" / plan.name, plan, SECTION, around, lambda _: None).run()
