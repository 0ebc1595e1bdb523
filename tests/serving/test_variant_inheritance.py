"""`extends`: what a variant takes over, in which order, and what is refused at which key."""

import pytest

from serving.variant import ExtendsError, inherit

TABLES = {
    "fast": {"extends": "vivid", "steps": 3},
    "vivid": {"extends": "base", "guidance": 4.0},
    "base": {"model": "m", "steps": 7},
    "alone": {"model": "n"},
}


def test_the_nearest_word_counts_and_ancestors_come_first() -> None:
    full = inherit(TABLES)
    assert full == {
        "base": {"model": "m", "steps": 7},
        "vivid": {"model": "m", "steps": 7, "guidance": 4.0},
        "fast": {"model": "m", "steps": 3, "guidance": 4.0},
        "alone": {"model": "n"},
    }
    assert list(full) == ["base", "vivid", "fast", "alone"]
    assert TABLES["fast"] == {"extends": "vivid", "steps": 3}


def test_only_what_is_asked_for_must_be_right() -> None:
    assert list(inherit({**TABLES, "lost": {"extends": "bass"}}, ["vivid"])) == ["base", "vivid"]
    assert inherit({}) == {}


@pytest.mark.parametrize(
    ("change", "keys", "said"),
    [
        ({"vivid": {"extends": "bass"}}, "variants.vivid.extends", "unknown name 'bass'; did you mean 'base'?"),
        ({"vivid": {"extends": "x"}}, "variants.vivid.extends", "unknown name 'x'; known: alone, base, fast, vivid"),
        ({"vivid": {"extends": 3}}, "variants.vivid.extends", "is 3; write the name"),
        ({"base": {"extends": "fast"}}, "variants.base.extends", "cycle: fast → vivid → base → fast"),
        ({"base": {"extends": "base"}}, "variants.base.extends", "cycle: fast → vivid → base → base"),
        ({"base": {"steps": 7}}, "variants.base", "`model` is missing"),
        ({"base": "m"}, "variants.base", r"is 'm'; write \[variants.base\]"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(change: dict[str, object], keys: str, said: str) -> None:
    with pytest.raises(ExtendsError, match=said) as refusal:
        inherit({**TABLES, **change})
    assert ".".join(refusal.value.keys) == keys


def test_variants_that_are_no_tables_are_refused() -> None:
    with pytest.raises(ExtendsError, match=r"variants: is 3; write \[variants.NAME\] tables"):
        inherit(3)
