"""A file that changes below a gateway: what is refused, what waits for a restart, what stays true after one."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from analytics.settings import Document
from gateway.config import load
from gateway.running import Gateway

CONFIG = """
[gateway]
listen = "127.0.0.1:8080"
[variants.base]
model = "{model}"
steps = 2
[variants.vivid]
extends = "base"
guidance = 4.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
primary = "like_rate"
autostart = true
"""


@pytest.fixture
def file(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "salon.toml"
    path.write_text(CONFIG.format(model=model))
    return path


def with_gateway(file: Path, work: Callable[[Gateway], Awaitable[None]]) -> None:
    async def run() -> None:
        gateway = Gateway(load(Document.read(file, {})))
        await gateway.start()
        try:
            await work(gateway)
        finally:
            await gateway.stop()

    asyncio.run(run())


def test_a_variant_cannot_change_while_an_experiment_has_it_as_an_arm(file: Path) -> None:
    good = file.read_text()
    said = "variant 'vivid' is an arm of the {} experiment 'colours': its `guidance` cannot change from 4.0 to 5.0; give the new"

    async def refused_then_allowed(gateway: Gateway) -> None:
        file.write_text(good.replace("guidance = 4.0", "guidance = 5.0"))
        await gateway.reload()
        assert said.format("running") in gateway.readiness()["details"]["config"]
        assert gateway.experiments.view.variants["vivid"].guidance == 4.0
        file.write_text(good.replace("steps = 2", "steps = 3"))
        await gateway.reload()
        assert "variant 'base'" in gateway.notes["config"] and "`steps` cannot change from 2 to 3" in gateway.notes["config"]
        file.write_text(good + "[variants.vivid-2]\nextends = 'base'\nguidance = 5.0\n")
        await gateway.reload()
        assert "config" not in gateway.notes and gateway.experiments.view.variants["vivid-2"].guidance == 5.0
        await gateway.experiments.change("colours", "pause", "me", "")

    with_gateway(file, refused_then_allowed)
    file.write_text(good.replace("guidance = 4.0", "guidance = 5.0"))
    with pytest.raises(ValueError, match="salon.toml: " + said.format("paused")):
        Gateway(load(Document.read(file, {})))
    (file.parent / "var/state/experiments.json").unlink()
    with pytest.raises(ValueError, match="its `guidance` cannot change"):
        Gateway(load(Document.read(file, {})))

    async def stopped(gateway: Gateway) -> None:
        await gateway.experiments.change("colours", "stop", "me", "")
        file.write_text(good.replace("guidance = 4.0", "guidance = 5.0"))
        await gateway.reload()
        assert "config" not in gateway.notes and gateway.experiments.view.variants["vivid"].guidance == 5.0

    file.write_text(good)
    with_gateway(file, stopped)


def test_an_experiment_leaves_the_file_together_with_its_changed_variant(file: Path) -> None:
    async def work(gateway: Gateway) -> None:
        good = file.read_text()
        file.write_text(good[: good.index("[experiments")].replace("guidance = 4.0", "guidance = 5.0"))
        await gateway.reload()
        assert "config" not in gateway.notes and gateway.experiments.life("colours").state == "stopped"

    with_gateway(file, work)


def test_a_moved_folder_is_no_other_variant(tmp_path: Path, model: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "model").symlink_to(model)
    (old / "salon.toml").write_text(CONFIG.format(model="model"))

    async def nothing(gateway: Gateway) -> None:
        assert gateway.experiments.life("colours").state == "running"

    with_gateway(old / "salon.toml", nothing)
    old.rename(new)
    with_gateway(new / "salon.toml", nothing)


def test_what_waits_for_a_restart_is_forgotten_when_it_is_taken_back(file: Path) -> None:
    async def work(gateway: Gateway) -> None:
        good = file.read_text()
        file.write_text(good.replace("8080", "8081"))
        await gateway.reload()
        await gateway.reload()
        assert "[gateway]" in gateway.readiness()["details"]["restart"]
        file.write_text(good)
        await gateway.reload()
        assert "restart" not in gateway.readiness()["details"]

    with_gateway(file, work)


async def ship(gateway: Gateway) -> None:
    await gateway.experiments.change("colours", "ship", "me", "won", "vivid")


def test_a_lost_event_log_takes_no_shipped_arm_with_it(file: Path) -> None:
    with_gateway(file, ship)
    shutil.rmtree(file.parent / "var/events")

    async def goes_on(gateway: Gateway) -> None:
        assert gateway.experiments.view.plans["hero"].serve == "vivid"
        assert gateway.experiments.life("colours").state == "shipped"
        told = gateway.readiness()["details"]["experiments"]
        assert "the event log is new and empty" in told and "1 experiments" in told

    async def quietly(gateway: Gateway) -> None:
        assert gateway.experiments.view.plans["hero"].serve == "vivid" and "experiments" not in gateway.notes

    with_gateway(file, goes_on)
    with_gateway(file, quietly)


def test_another_event_log_with_events_rules_and_the_snapshot_is_put_aside(file: Path) -> None:
    with_gateway(file, ship)
    text = file.read_text()
    elsewhere = file.parent / "other"
    elsewhere.mkdir()
    (elsewhere / "salon.toml").write_text(text)
    with_gateway(elsewhere / "salon.toml", ship)
    shutil.rmtree(file.parent / "var/events")
    shutil.copytree(elsewhere / "var/events", file.parent / "var/events")
    snapshot = (file.parent / "var/state/experiments.json").read_bytes()

    async def work(gateway: Gateway) -> None:
        assert gateway.experiments.life("colours").state == "shipped"
        (aside,) = (file.parent / "var/state").glob("experiments.*.json")
        assert aside.read_bytes() == snapshot and str(aside) in gateway.readiness()["details"]["experiments"]

    with_gateway(file, work)
