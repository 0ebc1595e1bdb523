"""Forgetting what another gateway erased: only what is this gateway's own, only what came before, also after a restart."""

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analytics.events import Event, new_id, utc_now
from analytics.local_log import LocalLog
from analytics.settings import Document
from gateway.adopted import AdoptedFile
from gateway.answers import Answers, Kept
from gateway.config import load
from gateway.control_log import DiskControl
from gateway.erased import Erased
from gateway.experiments import Experiments
from gateway.forgetting import CLOCKS, Forgetting
from gateway.images_store import ImagesStore
from gateway.recent import Recent
from gateway.reports import Reports
from gateway.sticky import Sticky
from gateway.tokens import Claims

KEY = bytes(range(32))


class House:
    """The places of one gateway."""

    def __init__(self, folder: Path) -> None:
        self.log = LocalLog(folder / "spool")
        self.erased = Erased(folder / "erased.jsonl", KEY)
        self.answers = Answers(folder / "answers.sqlite", self.erased.hash)
        self.recent = Recent()
        self.sticky = Sticky(folder / "sticky.sqlite", self.erased.hash)
        config = load(Document(None, "", {}))
        experiments = Experiments(
            DiskControl(self.log, folder / "experiments.json"), self.log, AdoptedFile(folder / "adopted.json"), config
        )
        reports, store = Reports(self.log, f"chdb://{folder}/warehouse"), ImagesStore(f"file://{folder}/images")
        self.forgetting = Forgetting(self.erased, experiments, self.log, store, self.answers, self.recent, self.sticky, reports)

    def like(self, unit: str) -> None:
        now = utc_now()
        self.log.submit([Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, unit=unit)]).result()

    def units(self) -> list[str]:
        return [event.unit for _, event in self.log.read(0, 100)]

    def follow(self) -> None:
        asyncio.run(self.forgetting.follow())

    def close(self) -> None:
        self.answers.close()
        self.sticky.close()
        self.log.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_what_came_before_goes_and_what_came_later_stays(tmp_path: Path, house: House) -> None:
    for unit in ("ada", "bob", "ada"):
        house.like(unit)
    kept = Kept("f", 200, [], b"{}")
    asyncio.run(house.answers.put("owner", "one", kept, "ada"))
    asyncio.run(house.answers.put("owner", "two", kept, "bob"))
    claims = Claims(new_id(), utc_now(), "hero", "", "", "ada", None, ())
    house.recent.put(claims)
    at = utc_now()
    house.erased.follow(house.erased.hash("ada"), at)
    # At once, before anything is deleted: nothing of theirs is taken any more.
    assert house.erased.covers("ada", at) and house.erased.to_do() == {house.erased.hash("ada"): at}
    house.follow()
    assert house.units() == ["bob"] and house.recent.generation(claims.generation_id) is None
    assert asyncio.run(house.answers.get("owner", "one")) is None and asyncio.run(house.answers.get("owner", "two")) == kept
    assert house.erased.to_do() == {} and Erased(tmp_path / "erased.jsonl", KEY).to_do() == {}
    # They came back: an old erasure that is heard of again, or for the first time, leaves what is new.
    house.like("ada")
    house.erased.follow(house.erased.hash("ada"), at)
    house.follow()
    assert house.units() == ["bob", "ada"]


def test_an_erasure_that_is_heard_of_late_spares_what_came_after_it(house: House) -> None:
    house.like("ada")
    house.erased.follow(house.erased.hash("ada"), utc_now() - CLOCKS - timedelta(hours=1))
    house.follow()
    assert house.units() == ["ada"] and house.erased.to_do() == {}


def test_what_fails_is_tried_again_also_by_the_next_process(tmp_path: Path, house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.like("ada")
    at = utc_now()
    house.erased.follow(house.erased.hash("ada"), at)
    with sqlite3.connect(tmp_path / "spool/events.sqlite") as other:
        other.execute("CREATE TRIGGER keep BEFORE DELETE ON events BEGIN SELECT RAISE(FAIL, 'kept'); END")
        other.commit()
        house.follow()
        assert house.erased.to_do() and "not yet deleted here" in caplog.text and "ada" not in caplog.text
        assert Erased(tmp_path / "erased.jsonl", KEY).to_do() == {house.erased.hash("ada"): at}
        other.execute("DROP TRIGGER keep")
        other.commit()
    house.close()
    again = House(tmp_path)
    again.follow()
    assert again.units() == [] and again.erased.to_do() == {}
    again.close()


def test_the_list_reads_the_last_release_and_the_last_release_reads_it(tmp_path: Path) -> None:
    path, at = tmp_path / "erased.jsonl", datetime(2026, 11, 23, 12, tzinfo=UTC)
    unit = Erased(path, KEY).hash("ada")
    path.write_text(f'["{unit}","2026-11-23T12:00:00Z"]\n')
    erased = Erased(path, KEY)
    assert erased.covers("ada", at) and erased.to_do() == {}
    erased.follow(unit, at)
    assert erased.to_do() == {}
    erased.follow(unit, at + timedelta(seconds=1))
    erased.follow(unit, at)
    assert erased.to_do() == {unit: at + timedelta(seconds=1)} == erased.everyone()
    erased.done(unit, at)
    assert erased.to_do() != {}
    erased.done(unit, at + timedelta(seconds=1))
    assert Erased(path, KEY).to_do() == {} and Erased(path, KEY).covers("ada", at + timedelta(seconds=1))
