"""Pictures of the packaged model do not change unnoticed: diffusers drew the golden files alike when they were made (goldens/make.py)."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from serving.engine import LocalEngine
from serving.registry import Registry
from serving.settings import EngineSettings

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory):
    sys.path.insert(0, str(GOLDENS))
    import cases

    sys.path.remove(str(GOLDENS))
    folder = tmp_path_factory.mktemp("golden")
    cases.write_adapter(folder)
    return cases.cases(folder)


# torch on a CPU is slow, so it draws the shortest and the one with an adapter
@pytest.mark.parametrize(("backend", "names"), [("onnx", ["ddim", "euler", "dpm", "adapter"]), ("torch", ["dpm", "adapter"])])
def test_the_golden_pictures_are_drawn_together(backend, names, cases, cache: Path, tmp_path: Path) -> None:
    """All in one batch, whatever their sampler, steps, guidance and adapter; one level for other processors' rounding."""
    engine = LocalEngine(Registry(str(tmp_path)), cache=cache, settings=EngineSettings(rows=8, threads=2))
    jobs = [msgspec.structs.replace(job, variant=msgspec.structs.replace(job.variant, backend=backend)) for job in map(cases.get, names)]
    for job in jobs:
        engine.load(job.variant)
    pictures = dict(zip(names, engine.submit_all(jobs), strict=True))
    found = {name: future.result(60).rgb.astype(int) for name, future in pictures.items()}
    engine.close()
    golden = {name: np.asarray(Image.open(GOLDENS / f"{name}.png")).astype(int) for name in cases}
    assert {name: int(np.abs(found[name] - golden[name]).max()) for name in names if np.abs(found[name] - golden[name]).max() > 1} == {}
    assert np.abs(golden["adapter"] - golden["ddim"]).max() > 40  # the adapter shows
