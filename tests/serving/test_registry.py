"""The registry: content addresses, atomic publication, verification, names that cannot leave it."""

import multiprocessing
from pathlib import Path

import pytest

from serving.errors import ModelError
from serving.registry import Registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    (made / "deep").mkdir(parents=True)
    (made / "weights.safetensors").write_bytes(b"\x00\x01")
    (made / "deep/card.txt").write_text("hello")
    return made


@pytest.fixture(params=["path", "file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = {"path": str(tmp_path / "reg"), "file": f"file://{tmp_path}/reg", "memory": f"memory://{tmp_path.name}/reg"}[request.param]
    return Registry(url, cache=tmp_path / "cache")


def test_what_is_published_comes_back(registry: Registry, folder: Path) -> None:
    ref = registry.publish("vivid", folder, {"route": "hero"})
    fetched = registry.fetch(ref)
    assert {p.relative_to(fetched).as_posix(): p.read_bytes() for p in fetched.rglob("*") if p.is_file()} == {
        "weights.safetensors": b"\x00\x01", "deep/card.txt": b"hello",
    }  # fmt: skip
    manifest = registry.manifests()[-1]
    assert (manifest["ref"], manifest["route"], manifest["name"]) == (ref, "hero", "vivid")


def test_the_reference_is_the_content(registry: Registry, folder: Path) -> None:
    first = registry.publish("vivid", folder, {"n": 1})
    assert registry.publish("vivid", folder, {"n": 2}) == first
    assert [m["n"] for m in registry.manifests()] == [1]
    (folder / "deep/card.txt").write_text("changed")
    second = registry.publish("vivid", folder, {"n": 3})
    assert second != first
    assert [m["n"] for m in registry.manifests()] == [1, 3]
    assert (registry.fetch(first) / "deep/card.txt").read_text() == "hello"


def test_damage_is_found(registry: Registry, folder: Path) -> None:
    ref = registry.publish("vivid", folder, {})
    (registry.fetch(ref) / "weights.safetensors").write_bytes(b"\x00\x02")
    with pytest.raises(ModelError, match="do not have this digest"):
        registry.fetch(ref)


@pytest.mark.parametrize(
    "ref", ["vivid", "registry:../x@sha256:" + "0" * 64, "registry:vivid@sha256:../../etc", "registry:vivid@sha256:" + "0" * 64]
)
def test_unknown_and_malformed_references(registry: Registry, ref: str) -> None:
    with pytest.raises(ModelError, match=r"write registry:NAME|is not in the registry"):
        registry.fetch(ref)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "a" * 129])
def test_names_cannot_leave_the_registry(registry: Registry, folder: Path, name: str) -> None:
    with pytest.raises(ModelError, match="letters, digits"):
        registry.publish(name, folder, {})


def test_announcements_keep_their_order(registry: Registry) -> None:
    for i in range(5):
        registry.announce({"name": f"round-{i}", "variant": {"steps": i}})
    assert [r["name"] for r in registry.announcements()] == [f"round-{i}" for i in range(5)]


def test_an_empty_folder_is_not_published(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no files"):
        registry.publish("vivid", tmp_path / "empty", {})


def _publish(url: str, folder: str) -> str:
    return Registry(url).publish("vivid", Path(folder), {})


def test_several_processes_publish_the_same_content(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "reg")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        refs = pool.starmap(_publish, [(url, str(folder))] * 6)
    assert len(set(refs)) == 1
    assert len(Registry(url).manifests()) == 1
    assert not list((tmp_path / "reg").rglob(".partial*"))


def test_a_bad_url_is_told() -> None:
    with pytest.raises(ModelError, match="registry url 'nonsense://x'"):
        Registry("nonsense://x")
