"""Several gateways, each with its own file: a file speaks where it changes, once, and two files never take turns."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from analytics.local_log import LocalLog
from analytics.settings import Document
from gateway import changes
from gateway.changes import Draft
from gateway.config import Config, load
from gateway.control_log import DiskControl
from gateway.control_records import ERASED, EXPERIMENT, SHIPPED, TOKEN_KEY, Unreadable, put, read_record, records_of, whole
from gateway.ledger import Ledger
from gateway.plans import look
from gateway.problems import Conflict

FILE = """
[variants.base]
model = "salon/emoji-64"
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
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
autostart = true
"""
EXTRA = """
[experiments.extra]
route = "hero"
arms = { base = 0.9, vivid = 0.1 }
control = "base"
primary = "like_rate"
"""


def config(text: str = FILE) -> Config:
    return load(Document(None, text, {}))


class Gateway:
    """A gateway's file and its memory of it."""

    def __init__(self, text: str) -> None:
        self.text, self.said, self.first = text, dict[str, object](), True

    def adopt(self, ledger: Ledger, text: str | None = None) -> tuple[Ledger, list[str]]:
        """The shared state after this gateway has read its file, and what it did to whom."""
        self.text = text or self.text
        draft = Draft(ledger)
        changes.adopt(draft, config(self.text), "config", self.said, self.first)  # type: ignore[arg-type]
        self.said, self.first = dict(config(self.text).experiments), False
        return draft.ledger, [f"{event.attributes['action']} {event.experiment}" for event in draft.events]


def test_the_second_gateway_with_the_same_file_adds_nothing() -> None:
    ledger, done = Gateway(FILE + EXTRA).adopt(Ledger())
    assert done == ["create colours", "create extra", "start colours"]
    assert Gateway(FILE + EXTRA).adopt(ledger) == (ledger, [])


def test_different_files_neither_stop_each_others_experiments_nor_take_turns() -> None:
    one, two = Gateway(FILE + EXTRA), Gateway(FILE.replace("base = 0.5, vivid = 0.5", "base = 0.2, vivid = 0.8"))
    ledger, _ = one.adopt(Ledger())
    # Fresh: what exists is not redefined, and what this file lacks is not stopped.
    ledger, done = two.adopt(ledger)
    assert done == [] and ledger.lives["colours"].allocation.weights == {"base": 0.5, "vivid": 0.5}
    # Restarts with the same files change nothing, in any order.
    for gateway in (one, two, two, one):
        assert gateway.adopt(ledger)[1] == []
    # A change of a file is taken, once; the other gateway does not take it back.
    ledger, done = two.adopt(ledger, two.text.replace("0.2", "0.3").replace("0.8", "0.7"))
    assert done == ["redefine colours", "weights colours"]
    assert one.adopt(ledger)[1] == [] and two.adopt(ledger)[1] == []
    # A rolling change: the first gateway with the new file makes it true, for the others it is true already.
    ledger, done = one.adopt(ledger, two.text)
    assert done == ["stop extra"] and ledger.lives["extra"].state == "stopped"
    assert ledger.lives["colours"].allocation.weights == {"base": 0.3, "vivid": 0.7}
    assert two.adopt(ledger, two.text)[1] == []
    # An old file that still has it, on a gateway that starts late, brings nothing back to life.
    assert Gateway(FILE + EXTRA).adopt(ledger)[1] == []


def test_weights_set_by_hand_outlive_restarts_of_every_gateway() -> None:
    one = Gateway(FILE)
    ledger, _ = one.adopt(Ledger())
    draft = Draft(ledger)
    changes.reweigh(draft, "colours", {"base": 0.1, "vivid": 0.9}, "me", "")
    for gateway in (one, Gateway(FILE)):
        assert gateway.adopt(draft.ledger) == (draft.ledger, [])


def test_a_running_experiment_is_protected_from_the_file_that_changes_only() -> None:
    one = Gateway(FILE)
    ledger, _ = one.adopt(Ledger())
    other_control = FILE.replace('control = "base"', 'control = "vivid"')
    assert Gateway(other_control).adopt(ledger)[1] == []
    with pytest.raises(Conflict, match="`control` cannot change"):
        one.adopt(ledger, other_control)


def test_a_gateway_whose_variant_is_another_leaves_the_experiment_alone() -> None:
    ledger, _ = Gateway(FILE).adopt(Ledger())
    assert look(ledger, config()).plans["hero"].life is not None
    for text, reason in (
        (FILE.replace("4.0", "5.0"), "`guidance` cannot change from 4.0 to 5.0"),
        (FILE[: FILE.index("[experiments")].replace("vivid", "pale"), "no variant 'vivid'"),
    ):
        view = look(ledger, config(text))
        assert view.plans["hero"].life is None and view.plans["hero"].serve == "base"
        assert reason in view.left_out["colours"] and "takes no part" in view.left_out["colours"]


def test_records_hold_the_whole_state_of_their_key() -> None:
    draft = Draft(Ledger())
    changes.adopt(draft, config(FILE + EXTRA), "config", {}, True)
    changes.reweigh(draft, "colours", {"base": 0.1, "vivid": 0.9}, "me", "")
    changes.act(draft, config(), "colours", "ship", "me", "won", "vivid")
    draft.erased["ab"] = draft.events[0].occurred_at
    draft.token_key = "0123"
    records = records_of(Ledger(), draft, "local:1")
    assert set(records) == {
        f"{EXPERIMENT}colours".encode(),
        f"{EXPERIMENT}extra".encode(),
        f"{SHIPPED}hero".encode(),
        f"{ERASED}ab".encode(),
        b"token-key",
    }
    rebuilt = Ledger()
    for key, value in records.items():
        record = read_record(key, value)
        assert record is not None
        rebuilt = put(put(rebuilt, key, record), key, record)
    assert rebuilt == msgspec.structs.replace(draft.ledger, token_key="0123")
    again = Ledger()
    for key, value in whole(rebuilt, draft.erased, "local:2").items():
        record = read_record(key, value)
        assert record is not None
        again = put(again, key, record)
    assert again == rebuilt and whole(rebuilt, draft.erased, "local:2").keys() == records.keys()
    assert read_record(b"policy:hero", b"anything") is None and TOKEN_KEY == "token-key"
    with pytest.raises(Unreadable, match="experiment:colours"):
        read_record(b"experiment:colours", b"{}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskControl]:
    event_log = LocalLog(tmp_path / "log")
    yield DiskControl(event_log, tmp_path / "experiments.json")
    event_log.close()


def test_on_disk_a_change_is_its_events_and_survives_without_the_snapshot(tmp_path: Path, disk: DiskControl) -> None:
    seen: list[int] = []
    disk.start(lambda: seen.append(len(disk.ledger.lives)))
    disk.change(lambda draft: changes.adopt(draft, config(), "config", None, False))
    with pytest.raises(Conflict):
        disk.change(lambda draft: changes.act(draft, config(), "colours", "resume", "me", "", None))
    assert disk.change(lambda draft: None).empty and seen == [1]
    (tmp_path / "experiments.json").unlink()
    event_log = LocalLog(tmp_path / "log")
    again = DiskControl(event_log, tmp_path / "experiments.json")
    assert again.ledger.lives == disk.ledger.lives and again.ledger.position == disk.ledger.position
    event_log.close()
