from collections.abc import Iterator

import pytest

from analytics.warehouse.client import Warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """One chDB for a module: a process holds one folder at a time, and opening takes over a second."""
    opened = Warehouse.open(f"chdb://{tmp_path_factory.mktemp('warehouse')}")
    opened.migrate()
    yield opened
    opened.close()
