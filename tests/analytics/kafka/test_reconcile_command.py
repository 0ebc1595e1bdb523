"""`salon sink --reconcile`: what people, programs and exit codes are told."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_sink_cases import likes, produce, topics

from analytics.kafka.reconcile_once import period
from analytics.sink_command import COMMAND
from analytics.warehouse.client import Warehouse


def run(folder: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    COMMAND.arguments(parser)
    return COMMAND.run(parser.parse_args(["--config", str(folder / "salon.toml"), *words]))


@pytest.fixture
def folder(tmp_path: Path, kafka_url: str) -> Iterator[Path]:
    (tmp_path / "salon.toml").write_text(f'[events]\nlog = "{kafka_url}"\n[warehouse]\nurl = "chdb://wh"\n')
    yield tmp_path


def test_the_command_says_what_is_missing(folder: Path, kafka_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    address, made = topics(kafka_url), likes(9)
    with pytest.raises(LookupError, match="run `salon migrate`"):
        produce(address, made)
        run(folder, "--reconcile")
    assert run(folder, "--once") == 0
    capsys.readouterr()
    assert run(folder, "--reconcile") == 0
    assert "9 events of" in (said := capsys.readouterr().out) and "0 missing in the warehouse, 0 too much" in said
    warehouse = Warehouse.open(f"chdb://{folder}/wh")
    warehouse.query("DELETE FROM events WHERE event_id = {id:UUID}", {"id": str(made[3].event_id)})
    # Left out by the group: what is not committed.
    produce(address, made[:2])
    warehouse.close()
    assert run(folder, "--reconcile", "--hours", "0.5") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "1 missing in the warehouse" in first and "2 records no sink has finished yet" in first
    assert f"1 missing: {made[3].event_id}" in second and second.startswith("partition ")
    assert run(folder, "--reconcile", "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["events"], found["missing"], found["extra"]) == (False, 9, 1, 0)
    assert [b["missing_ids"] for b in found["buckets"] if b["missing"]] == [[str(made[3].event_id)]]


def test_wrong_usage(tmp_path: Path) -> None:
    config = tmp_path / "salon.toml"
    config.write_text('[events]\nlog = "kafka://127.0.0.1:1/"\n[warehouse]\nurl = "chdb://wh"\n')
    with pytest.raises(ValueError, match="--hours is -1"):
        run(tmp_path, "--reconcile", "--hours", "-1")
    with pytest.raises(ValueError, match="--reconcile-every is 'often'; write a number"):
        run(tmp_path, "--reconcile-every", "often")
    config.write_text("")
    with pytest.raises(ValueError, match="log is local"):
        run(tmp_path, "--reconcile")


def test_periods() -> None:
    assert [period(text) for text in ("90s", "30m", "1h", "1.5d", "never")] == [90, 1800, 3600, 129_600, None]
    for text in ("0h", "1", "h", "-1h", "1w", ""):
        with pytest.raises(ValueError):
            period(text)
