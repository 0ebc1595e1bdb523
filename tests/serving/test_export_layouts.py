"""Graphs and adapters of the larger layouts against torch, as `salon export` compares them."""

from pathlib import Path

import pytest

from serving.model import graphs_folder, open_model
from serving.verify import compare
from serving.verify_adapters import compare_adapters


@pytest.mark.parametrize("layout", ["sdxl", "dit"])
def test_every_layout_is_compared(layout: str, request: pytest.FixtureRequest, cache: Path) -> None:
    folder: Path = request.getfixturevalue(layout)
    model = open_model(str(folder), cache)
    graphs = graphs_folder(model, cache)
    compared = compare(folder, graphs)
    assert {each.graph for each in compared} == set(model.layout.graphs)
    assert all(each.passed and each.error > 0 for each in (*compared, *compare_adapters(folder, graphs)))
