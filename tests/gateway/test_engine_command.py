"""Which engine `salon engine` runs, and its wrong usage."""

from pathlib import Path

import pytest

from analytics.settings import Document, SettingsError
from gateway.config import load
from gateway.engine_command import choose
from salon.cli import main

VARIANTS = '[variants.base]\nmodel = "salon/emoji-64"\nengine = "{engine}"\n[routes.hero]\nserve = "base"\n'


def chosen(text: str, name: str | None = None, *, engine: str = "local") -> str:
    document = Document(Path("salon.toml"), text + VARIANTS.format(engine=engine), {})
    return choose(document, load(document), name)


def test_the_only_engine_needs_no_name() -> None:
    assert chosen("") == "local"
    gpu = '[engines.gpu]\nurl = "http://gpu:8000"\ndevice = "cuda"\n'
    assert chosen(gpu, engine="gpu") == "gpu"
    assert chosen(gpu, "local", engine="gpu") == "local"
    two = gpu + '[engines.other]\ndevice = "cpu"\n'
    assert chosen(two, "other") == "other"
    with pytest.raises(SettingsError, match="there are several; name one: salon engine gpu"):
        chosen(two)


def test_a_name_that_is_not_there_and_a_server_of_others_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown name 'gpo'.*'gpu'"):
        chosen('[engines.gpu]\ndevice = "cpu"\n', "gpo")
    with pytest.raises(SettingsError, match="is another server's"):
        chosen('[engines.triton]\nurl = "http://triton:8000"\nmodel = "sdxl"\n', "triton")


def test_wrong_usage_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    (tmp_path / "salon.toml").write_text('[engines.w]\nurl = "http://h:8000"\ntoken = "env:NO_SUCH_TOKEN"\n' + VARIANTS.format(engine="w"))
    command = ["engine", "--config", str(tmp_path / "salon.toml"), "--listen"]
    assert main([*command, "127.0.0.1:0"]) == 2
    assert "NO_SUCH_TOKEN is not set" in capsys.readouterr().err
    assert main([*command, "8000"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
