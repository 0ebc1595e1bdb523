"""The house: imports run one way, files stay small, every folder says what it is for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "serving", "analytics", "finetune", "salon")
MAY_IMPORT = {
    "serving": {"serving"},
    "analytics": {"analytics"},
    "gateway": {"gateway", "serving", "analytics"},
    "finetune": {"finetune", "serving", "analytics"},
    "salon": set(ROOMS),
}


def imported_rooms(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        wrong = imported_rooms(ast.parse(file.read_text())) - MAY_IMPORT[room]
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_salon_enters_a_room_only_when_it_is_entered() -> None:
    """At module level, salon/__init__, cli and client import no room."""
    for name in ("__init__.py", "cli.py", "client.py"):
        top = ast.Module(
            [n for n in ast.parse((ROOT / "salon" / name).read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))], []
        )
        assert not imported_rooms(top) - {"salon"}


@pytest.mark.parametrize("room", ROOMS)
def test_folders_say_what_they_are_for_and_files_have_one_job(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        text = file.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{file.relative_to(ROOT)} has no docstring"
        assert len(text.splitlines()) <= 400, f"{file.relative_to(ROOT)} has more than 400 lines"
        if file.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(text)).splitlines()) <= 2
    for folder in {f.parent for f in (ROOT / room).rglob("*.py")}:
        assert (folder / "__init__.py").exists(), f"{folder.relative_to(ROOT)} has no __init__.py"


def test_a_gateway_starts_without_what_reports_and_pictures_need() -> None:
    """Statistics, engines and an embedded warehouse are loaded when they are first needed: a start is quick and small."""
    heavy = ("scipy", "chdb", "torch", "onnxruntime", "clickhouse_connect")
    program = f"import sys, gateway.serve; found = [name for name in {heavy} if name in sys.modules]; assert not found, found"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
