"""README, CHANGELOG and docs say what is there: blocks load, links lead somewhere, commands, calls, keys and defaults exist."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from analytics.experiment import Experiment, Guardrail, Metric
from analytics.settings import Document, EventsSection, WarehouseSection
from finetune.gate.checks import Limits
from finetune.gate.gate import GateSettings
from finetune.settings import FinetuneSection, round_settings
from finetune.training import Training
from gateway.app import HANDLERS
from gateway.config import EngineSection, GatewaySection, ImagesSection, RegistrySection, RouteSection, load
from gateway.problems import Problem
from serving.variant import Variant

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAGMENT = "<!-- fragment -->"
COMMAND_WORD = re.compile(r"(?:^|[\s/(|`])salon ([a-z]+)")


class Block(NamedTuple):
    where: str
    language: str
    text: str
    fragment: bool


def blocks(page: Path) -> list[Block]:
    lines = page.read_text("utf-8").splitlines()
    found: list[Block] = []
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            before = next((text for text in reversed(lines[:start]) if text.strip()), "")
            text = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(f"{page.name}:{start + 1}", lines[start][3:].strip(), text, before.strip() == FRAGMENT))
            start = None
    assert start is None, f"{page.name}: the block at line {start} is not closed"
    return found


ALL = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for block in ALL if block.language in languages]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """GitHub's: lower case, punctuation gone, blanks to hyphens."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def page_text(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize("block", of("toml"))
def test_toml_loads(block: Block, tmp_path: Path) -> None:
    assert tomllib.loads(block.text)
    if not block.fragment:
        load(Document(tmp_path / "salon.toml", block.text, {}))
        round_settings(Document(tmp_path / "salon.toml", block.text, {}))


@pytest.mark.parametrize("block", of("json"))
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.where, "exec")


@pytest.mark.parametrize(("page", "target"), [pytest.param(p, t, id=f"{p.name}->{t}") for p in PAGES for t in links(p)])
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = page if not path else page.parent / path
    assert file.exists(), f"{page.name} links to {target}, which is not there"
    if anchor:
        assert anchor in anchors(file), f"{page.name} links to {target}; {file.name} has {sorted(anchors(file))}"


def test_named_commands_exist() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["salon.commands"])
    named: dict[str, str] = {}
    for page in PAGES:
        texts = [(page.name, span) for span in re.findall(r"`([^`\n]+)`", prose(page))]
        texts += [(block.where, line) for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
        named |= {word: where for where, text in texts for word in COMMAND_WORD.findall(text.partition("#")[0])}
    assert len(named) > 5
    assert not {word: where for word, where in named.items() if word not in known}


def test_named_make_targets_exist() -> None:
    lines = re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in lines for target in line.split()}
    named = {word for page in PAGES for word in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)}
    assert named and named <= targets


def described(heading: str) -> dict[str, dict[str, str]]:
    """The table under a heading of the configuration page: key to cells by column."""
    section = page_text("configuration.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| ")]
    assert rows, heading
    return {row[0].strip("` ").rpartition(" ")[2]: dict(zip(rows[0], row, strict=False)) for row in rows[1:]}


ADDRESSES = "`[events]`, `[warehouse]`, `[images]`, `[registry]`"
SECTIONS = [
    ("`[gateway]`", GatewaySection), (ADDRESSES, EventsSection), (ADDRESSES, WarehouseSection), (ADDRESSES, ImagesSection),
    (ADDRESSES, RegistrySection), ("`[engines.NAME]`", EngineSection), ("`[variants.NAME]`", Variant), ("`[routes.NAME]`", RouteSection),
    ("`[metrics.NAME]`", Metric), ("`[experiments.NAME]`", Experiment),
]  # fmt: skip


@pytest.mark.parametrize(("heading", "section"), SECTIONS)
def test_every_key_is_described_with_its_default(heading: str, section: type[msgspec.Struct]) -> None:
    rows = described(heading)
    fields = msgspec.structs.fields(section)
    assert {field.encode_name for field in fields} <= set(rows)
    if heading != ADDRESSES:
        assert set(rows) - {field.encode_name for field in fields} <= {"extends"}
    for field in fields:
        told = rows[field.encode_name]["default"].strip("`")
        if isinstance(field.default, bool):
            assert told == str(field.default).lower()
        elif isinstance(field.default, int | float):
            assert float(told) == field.default, field.name
        elif isinstance(field.default, str) and field.default:
            assert heading == ADDRESSES or told == f'"{field.default}"', field.name
            assert heading != ADDRESSES or f'`"{field.default}"`' in page_text("configuration.md"), field.name


def test_guardrails_are_described() -> None:
    cell = described("`[experiments.NAME]`")["guardrails"]["meaning"]
    for field in msgspec.structs.fields(Guardrail):
        assert field.encode_name in cell
    assert f'`"{Guardrail(margin=0.1).direction}"` unless said' in cell


def test_finetune_defaults_are_those_of_the_code(tmp_path: Path) -> None:
    block = next(b for b in blocks(ROOT / "docs" / "finetune.md") if "[finetune.gate.limits]" in b.text)
    told = tomllib.loads(block.text)["finetune"]
    read = Document(tmp_path / "salon.toml", block.text, {}).section("finetune", FinetuneSection)
    assert read == FinetuneSection()
    optional = re.findall(r"^# (\w+) =", block.text, re.MULTILINE)
    for table, struct in (
        (told, FinetuneSection),
        (told["training"], Training),
        (told["gate"], GateSettings),
        (told["gate"]["limits"], Limits),
    ):
        names = {field.encode_name for field in msgspec.structs.fields(struct)}
        assert names - {*table, *optional} <= ({"loss", "seed"} if struct is Training else set()), struct


def test_every_call_is_described() -> None:
    text = page_text("http.md")
    for handler in HANDLERS:
        for path in handler.paths:
            plain = re.sub(r":\w+", "", path)
            assert plain in text or plain == "/schema/openapi.json", path
    named = set(re.findall(r"/v1/[a-z]+", "".join(page.read_text("utf-8") for page in PAGES)))
    assert named <= {"/".join(path.split("/")[:3]) for handler in HANDLERS for path in handler.paths}


def test_every_problem_type_is_described_with_its_status() -> None:
    def below(kind: type[Problem]) -> list[type[Problem]]:
        return [kind, *(deeper for each in kind.__subclasses__() for deeper in below(each))]

    told = set(re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", page_text("http.md"), re.MULTILINE))
    assert told == {(str(kind.status), kind.kind) for kind in below(Problem)}


def test_every_metric_is_explained() -> None:
    sources = [*(ROOT / "gateway").glob("*.py"), *(ROOT / "analytics").rglob("*.py")]
    exported = {name for path in sources for name in re.findall(r'"(salon_[a-z_]+[a-z])"', path.read_text("utf-8"))}
    explained = set(re.findall(r"salon_[a-z_]+[a-z]", page_text("watching.md")))
    assert len(exported) > 30
    assert {name for name in exported if name not in explained and f"{name}_total" not in explained} == set()
    assert {name for name in explained if name not in exported and name.removesuffix("_total") not in exported} == set()
