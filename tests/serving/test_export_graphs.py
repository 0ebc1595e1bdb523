"""`salon export`: graphs compared with torch, put in place whole or not at all, published and taken back."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import serving.export
from gateway.export_command import put_in_place
from salon.cli import main
from serving.backends.onnx.network import Network
from serving.errors import ModelError
from serving.model import graphs_folder, open_model
from serving.verify import MANIFEST, TOLERANCE, Compared, compare, difference, random_inputs
from serving.verify_adapters import compare_adapters


@pytest.fixture(scope="module")
def graphs(tiny_model: Path, cache: Path) -> Path:
    return graphs_folder(open_model(str(tiny_model), cache), cache)


@pytest.fixture
def exported(graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The exporter's own graphs, made by an earlier run: the export takes half a minute. An empty folder to work in."""

    def copy(folder: Path, into: Path) -> None:
        shutil.copytree(graphs, into, dirs_exist_ok=True)

    monkeypatch.setattr(serving.export, "export_directory", copy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def damaged(graphs: Path, into: Path) -> None:
    """The UNet with one wrong normalisation: it loads, it runs, and its pictures are a little off."""
    shutil.copytree(graphs, into, dirs_exist_ok=True)
    model = onnx.load(into / "unet.onnx", load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "GroupNormalization")
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 0.1
    (into / "unet.onnx").write_bytes(model.SerializeToString())


def test_every_graph_is_compared_at_two_batches_and_two_sizes(tiny_model: Path, graphs: Path) -> None:
    compared = compare(tiny_model, graphs)
    assert [each.graph for each in compared] == ["text_encoder"] * 2 + ["unet"] * 2 + ["vae_decoder"] * 2
    assert all(each.passed and 0 < each.error < 1e-4 for each in compared)
    first, second = (each.shapes for each in compared if each.graph == "unet")
    assert first == {"sample": [1, 4, 8, 4], "timestep": [1], "encoder_hidden_states": [1, 11, 32]}
    assert second == {"sample": [3, 4, 8, 12], "timestep": [3], "encoder_hidden_states": [3, 20, 32]}


def test_adapters_in_one_call_are_compared_with_merged_weights(tiny_model: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = compare_adapters(tiny_model, graphs)
    assert [each.shapes["sample"] for each in compared] == [[4, 4, 8, 4], [5, 4, 8, 12]]
    assert all(each.passed and 0 < each.error < 1e-4 for each in compared)
    attach = Network.attach
    monkeypatch.setattr(Network, "attach", lambda self, entry, *told: attach(self, {1: 2, 2: 1}.get(entry, entry), *told))
    assert all(each.error > 0.01 for each in compare_adapters(tiny_model, graphs))  # two arms' adapters exchanged


def test_a_graph_that_computes_something_else_is_refused_and_nothing_is_written(
    tiny_model: Path, graphs: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving.export, "export_directory", lambda folder, into: damaged(graphs, into))
    assert main(["export", str(tiny_model), "--out", "out"]) == 1
    told = capsys.readouterr()
    assert "unet.out_sample" in told.err and "nothing was written" in told.err and "DIFFERENT" in told.out
    assert not list(exported.iterdir())
    assert main(["export", str(tiny_model), "--out", "out", "--no-check"]) == 0
    assert json.loads((exported / "out" / MANIFEST).read_text())["compared"] == []


def test_graphs_are_published_and_taken_where_there_is_no_torch(
    tiny_model: Path, graphs: Path, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", str(tiny_model), "--out", "out", "--publish", "tiny-graphs", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["graphs"]) == {"text_encoder", "unet", "vae_decoder"} and told["ref"].startswith("registry:tiny-graphs@sha256:")
    assert max(each["error"] for each in told["compared"]) < TOLERANCE
    manifest = json.loads((exported / "out" / MANIFEST).read_text())
    assert manifest["layout"] == "Stable Diffusion 1.x" and manifest["tolerance"] == TOLERANCE
    assert set(manifest["files"]) == {f"{name}.{kind}" for name in told["graphs"] for kind in ("onnx", "json")}
    assert len(list(exported.glob("var/registry/artefacts/tiny-graphs/*/manifest.json"))) == 1

    monkeypatch.setattr(serving.export, "export_directory", lambda *_: pytest.fail("nothing is to be exported"))
    shutil.copytree(tiny_model, exported / "elsewhere")
    assert main(["export", "elsewhere", "--from", told["ref"]]) == 0
    assert "unet" in capsys.readouterr().out
    taken = open_model("elsewhere", exported / "cache")
    assert graphs_folder(taken, exported / "cache") == taken.folder / "onnx"
    assert (taken.folder / "onnx/unet.onnx").read_bytes() == (graphs / "unet.onnx").read_bytes()


@pytest.mark.parametrize(
    ("told", "match"),
    [
        (["--from", "registry:x@sha256:" + "0" * 64], "is not in the registry"),
        (["--from", "x", "--publish", "y"], "takes graphs out of the registry"),
        (["--publish", "../y"], "use letters, digits"),
    ],
)
def test_what_cannot_be_is_told(tiny_model: Path, exported: Path, capsys: pytest.CaptureFixture[str], told, match) -> None:
    assert main(["export", str(tiny_model), "--out", "out", *(told if "--from" in told else [*told, "--no-check"])]) == 2
    assert match in capsys.readouterr().err
    assert not (exported / "out").exists()


def test_a_folder_is_replaced_whole_or_left(tmp_path: Path) -> None:
    into = tmp_path / "deep/onnx"
    put_in_place(into, lambda place: (place / "a.onnx").write_text("1") and None)
    put_in_place(into, lambda place: (place / "b.onnx").write_text("2") and None)
    assert [path.name for path in into.iterdir()] == ["b.onnx"]

    def fail(place: Path) -> None:
        (place / "c.onnx").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        put_in_place(into, fail)
    assert [path.name for path in into.iterdir()] == ["b.onnx"] and [path.name for path in into.parent.iterdir()] == ["onnx"]
    (into / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, which is no graph"):
        put_in_place(into, fail)


def test_differences_are_in_deviations_and_no_nan_passes() -> None:
    wanted = np.array([0.0, 2.0, 4.0, 6.0])  # deviation √5
    assert difference(wanted + np.array([0, 0, 0.5, 0]), wanted) == pytest.approx(0.5 / 5**0.5)
    for wrong in (wanted[:3], np.full(4, np.nan), np.array([0, 0, 0, np.inf])):
        assert not Compared("g", "o", {}, difference(wrong, wanted)).passed
    assert Compared("g", "o", {}, TOLERANCE).passed and not Compared("g", "o", {}, float("nan")).passed


def test_an_input_of_an_unknown_size_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match="input sample: its free dimension 'depth' is none of batch"):
        random_inputs({"sample": ["batch", "depth"]}, {"batch": 2}, {}, rng)
    made = random_inputs({"input_ids": ["batch", 5], "timestep": ["batch"]}, {"batch": 2}, {"vocab_size": 7}, rng)
    assert made["input_ids"].shape == (2, 5) and made["input_ids"].max() < 7 and made["timestep"].dtype == np.float32
