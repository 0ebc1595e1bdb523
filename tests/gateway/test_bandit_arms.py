"""Arms that join or leave a running bandit: what was learned stays, the fewest units move, and the log alone tells it again."""

import math

import pytest

from analytics.settings import Document
from gateway import changes
from gateway.assignment import Split
from gateway.bandit_arms import joined
from gateway.changes import Draft
from gateway.config import load
from gateway.control_records import put, read_record, records_of
from gateway.ledger import Ledger, apply
from gateway.problems import Conflict, InvalidRequest

FILE = """
[variants.base]
model = "salon/emoji-64"
[variants.vivid]
extends = "base"
guidance = 4.0
[variants.pale]
extends = "base"
guidance = 1.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
design = "bandit"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
autostart = true
"""
UNITS = [f"unit-{number}" for number in range(2000)]


def config(arms="base = 0.5, vivid = 0.5", more=""):
    return load(Document(None, FILE.replace("base = 0.5, vivid = 0.5", arms) + more, {}))


def adopt(ledger, configuration):
    draft = Draft(ledger)
    changes.adopt(draft, configuration, "config", None, False)
    return draft


def learned():
    """A running bandit that has learned to prefer vivid."""
    draft = Draft(adopt(Ledger(), config()).ledger)
    changes.reweigh(draft, "colours", {"base": 0.2, "vivid": 0.8}, "policy", "P(best): vivid 0.83, base 0.17")
    return draft.ledger


def weights_in(ledger):
    return ledger.lives["colours"].allocation.weights


def test_a_new_arm_takes_its_declared_weight_and_the_others_keep_what_they_learned():
    before = learned()
    draft = adopt(before, config("base = 0.45, vivid = 0.45, pale = 0.1"))
    assert [event.attributes["action"] for event in draft.events] == ["redefine", "weights"]
    life = draft.ledger.lives["colours"]
    assert weights_in(draft.ledger) == pytest.approx({"base": 0.18, "vivid": 0.72, "pale": 0.1})
    assert life.variants["pale"].guidance == 1.0 and set(life.variants) == {"base", "vivid", "pale"}
    old, new = Split(before.lives["colours"].allocation), Split(life.allocation)
    moves = {(old.assign(unit).arm, new.assign(unit).arm) for unit in UNITS}
    assert moves == {("base", "base"), ("vivid", "vivid"), ("base", "pale"), ("vivid", "pale")}
    # The file is taken once: a restart changes nothing.
    assert adopt(draft.ledger, config("base = 0.45, vivid = 0.45, pale = 0.1")).empty


def test_the_log_alone_and_the_control_topic_tell_the_same():
    before = learned()
    draft = adopt(before, config("base = 0.45, vivid = 0.45, pale = 0.1"))
    folded = before
    for event in draft.events:
        folded = apply(folded, event)
    assert folded.lives == draft.ledger.lives
    rebuilt = before
    for key, value in records_of(before, draft, "local:1").items():
        rebuilt = put(rebuilt, key, read_record(key, value))
    assert rebuilt.lives == draft.ledger.lives


def test_an_arm_is_retired_by_the_weight_0_and_comes_back_when_the_file_says_so_again():
    three = adopt(learned(), config("base = 0.45, vivid = 0.45, pale = 0.1")).ledger
    gone = adopt(three, config("base = 0.5, vivid = 0.0, pale = 0.5")).ledger
    assert weights_in(gone) == pytest.approx({"base": 0.18 / 0.28, "vivid": 0.0, "pale": 0.1 / 0.28})
    back = adopt(gone, config("base = 0.4, vivid = 0.2, pale = 0.4")).ledger
    assert weights_in(back) == pytest.approx({"base": 0.8 * 0.18 / 0.28, "vivid": 0.2, "pale": 0.8 * 0.1 / 0.28})


def test_an_arm_that_was_rolled_back_is_not_revived_by_a_file_that_adds_another():
    draft = Draft(adopt(learned(), config("base = 0.45, vivid = 0.45, pale = 0.1")).ledger)
    changes.reweigh(draft, "colours", {"base": 0.9, "vivid": 0.0, "pale": 0.1}, "policy", "a guardrail")
    more = '[variants.loud]\nextends = "base"\nguidance = 6.0\n'
    wider = load(Document(None, more + FILE.replace("base = 0.5, vivid = 0.5", "base = 0.4, vivid = 0.4, pale = 0.1, loud = 0.1"), {}))
    assert weights_in(adopt(draft.ledger, wider).ledger) == pytest.approx({"base": 0.81, "vivid": 0.0, "pale": 0.09, "loud": 0.1})


def test_weights_that_the_file_changes_for_the_same_arms_are_meant():
    assert weights_in(adopt(learned(), config("base = 0.3, vivid = 0.7")).ledger) == {"base": 0.3, "vivid": 0.7}
    assert joined({"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.0, "c": 0.4}) == {"a": 0.0, "b": 0.0, "c": 1.0}
    three = joined({"a": 0.1, "b": 0.9}, {"a": 0.5, "b": 0.5}, {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.1})
    assert math.fsum(three.values()) == 1.0


def test_arms_do_not_vanish_and_only_a_bandits_may_be_added():
    running = learned()
    with pytest.raises(Conflict, match="its arm 'vivid' cannot vanish; give it the weight 0"):
        adopt(running, config("base = 0.5, pale = 0.5"))
    split = FILE.replace('design = "bandit"\n', "")
    ledger = adopt(Ledger(), load(Document(None, split, {}))).ledger
    with pytest.raises(Conflict, match="for others stop it and take a new name"):
        adopt(ledger, load(Document(None, split.replace("base = 0.5, vivid = 0.5", "base = 0.45, vivid = 0.45, pale = 0.1"), {})))


def test_caps_that_the_weights_of_now_cannot_meet_are_refused_with_nothing_changed():
    draft = Draft(adopt(learned(), config("base = 0.45, vivid = 0.45, pale = 0.1")).ledger)
    changes.reweigh(draft, "colours", {"base": 0.0, "vivid": 0.9, "pale": 0.1}, "me", "")
    capped = config("base = 0.45, vivid = 0.45, pale = 0.1", "bandit = { caps = { vivid = 0.5, pale = 0.4 } }\n")
    with pytest.raises(Conflict, match=r"leave room for 0\.9"):
        adopt(draft.ledger, capped)


def test_a_file_that_changes_weights_moves_no_ramp():
    text = FILE.replace('"bandit"', '"ab"\nramp = { shares = [0.05, 0.5] }')
    running = adopt(Ledger(), load(Document(None, text, {}))).ledger
    draft = adopt(running, load(Document(None, text.replace("base = 0.5, vivid = 0.5", "base = 0.1, vivid = 0.9"), {})))
    assert [event.attributes["action"] for event in draft.events] == ["redefine"]
    assert weights_in(draft.ledger) == {"base": 0.95, "vivid": 0.05}


def test_weights_by_hand_must_fit_the_design():
    draft = Draft(adopt(Ledger(), load(Document(None, FILE.replace('"bandit"', '"interleave"'), {}))).ledger)
    with pytest.raises(InvalidRequest, match='arms of design = "interleave" meet alike'):
        changes.reweigh(draft, "colours", {"base": 0.3, "vivid": 0.7}, "me", "")


def test_blocks_of_a_running_switchback_keep_their_length():
    text = FILE.replace('"bandit"', '"switchback"\nswitchback = { block_minutes = 30 }')
    running = adopt(Ledger(), load(Document(None, text, {}))).ledger
    with pytest.raises(Conflict, match="its `switchback` cannot change"):
        adopt(running, load(Document(None, text.replace("30", "60"), {})))
