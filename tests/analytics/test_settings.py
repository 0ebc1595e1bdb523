"""What `salon.toml` is refused for before anything is opened: file, line, value and the fix."""

from pathlib import Path

import pytest

from analytics.settings import Document, SettingsError, analytics_settings

PATH = Path("salon.toml")


def read(text: str) -> None:
    analytics_settings(Document(PATH, text, {}))


@pytest.mark.parametrize("section", ["variants", "routes", "metrics", "experiments"])
@pytest.mark.parametrize("name", ["two words", "a/b", "-first", "é", "", "x" * 64, "a\\n"])
def test_names_that_do_not_fit_a_url_are_refused(section: str, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"salon\.toml:3: {section}\..*take letters, digits"):
        Document(PATH, f'# a comment\n\n[{section}."{name}"]\nx = 1\n', {})


@pytest.mark.parametrize("name", ["a", "0", "vivid-colours_2", "a.b", "x" * 63])
def test_other_names_are_taken(name: str) -> None:
    assert name in Document(PATH, f'[metrics."{name}"]\nkind = "mean"\nevent = "like"\n', {}).tables["metrics"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[events]\nlog = "var/events"', "salon.toml:2: events.log: .*write local:DIR"),
        ('[events]\nlog = "locale:var/events"', "salon.toml:2: events.log: .*write local:DIR"),
        ('[events]\nlog = "kafka:broker/topic"', "salon.toml:2: events.log: .*write kafka://host:port"),
        ('[events]\n\nlog = "local:var/events?max_byte=1"', "salon.toml:3: events.log: .*the only one is max_bytes"),
        ('[events]\nlog = "local:var/events?max_bytes=10"', "salon.toml:2: events.log: .*at least 262144"),
        ('[warehouse]\nurl = "duckdb://x"', "salon.toml:2: warehouse.url: .*write chdb://DIR or clickhouse://"),
        ('[warehouse]\nurl = "var/warehouse"', "salon.toml:2: warehouse.url: .*write chdb://DIR or clickhouse://"),
        ('[warehouse]\nurl = "clickhouse://u:secret@h:99999/d"', "salon.toml:2: warehouse.url: .*port"),
    ],
)
def test_addresses_that_cannot_be_opened_anywhere_are_refused_at_load(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refusal:
        read(text)
    assert "secret" not in str(refusal.value)


EXPERIMENT = """
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
[experiments.colours.guardrails.failure_rate]
margin = 0.1
"""


def test_a_typo_in_a_nested_table_gets_its_line_and_the_nearest_name() -> None:
    read(EXPERIMENT)
    with pytest.raises(SettingsError) as refusal:
        read(EXPERIMENT + 'directoin = "down"\n')
    where = "salon.toml:12: experiments.colours.guardrails.failure_rate.directoin"
    assert str(refusal.value) == f"{where}: unknown name 'directoin'; did you mean 'direction'?"


METRIC = '[metrics.spend]\nkind = "mean"\nevent = "convert"\ncovariate_days = 7\ncovariates = ["{}"]\n[metrics.slow]\nkind = "quantile"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (METRIC.format("slow") + 'event = "convert"\nquantile = 0.5', "salon.toml:5: metrics.spend.covariates: 'slow' is a quantile"),
        (METRIC.format("spend") + 'event = "convert"\nquantile = 0.5', "metrics.spend.covariates.spend: unknown name 'spend'"),
        (METRIC.format("slwo") + 'event = "convert"\nquantile = 0.5', "did you mean 'slow'"),
        ('[metrics.failure_rate]\nkind = "mean"\nevent = "x"', "salon.toml:1: metrics.failure_rate: .*built in"),
        (
            EXPERIMENT.replace("[experiments.colours.g", 'breakdowns = ["country", "country"]\n[experiments.colours.g'),
            "'country' is there twice",
        ),
    ],
)
def test_metrics_and_experiments_that_make_no_sense_together_are_refused_at_load(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read(text)
