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
