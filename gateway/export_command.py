"""`salon export VARIANT`: ONNX graphs for a model directory, compared with torch, so that it is served where torch is not installed."""

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from analytics.command import Command
from analytics.settings import Document, nearest
from gateway.config import RegistrySection
from serving.errors import ModelError
from serving.model import locate
from serving.registry import Registry, check_name
from serving.variant import ExtendsError, Variant, inherit
from serving.verify import MANIFEST, TOLERANCE, Compared, compare, record
from serving.verify_adapters import compare_adapters


def model_folder(name: str, document: Document) -> Path:
    """The directory of variant `name` of the configuration, or of the model `name` itself. Raises ValueError."""
    tables = document.tables.get("variants", {})
    if name not in tables:
        try:
            return locate(name)
        except ValueError as error:
            if tables and "/" not in name:
                raise ValueError(f"variant {name!r} is not in {document.path}; {nearest(name, tables)}") from None
            raise error from None
    try:
        full = inherit(tables, [name])[name]
    except ExtendsError as error:
        raise document.wrong(error.keys, error.reason) from None
    variant = document.convert(("variants", name), full, Variant)
    relative = document.folder / variant.model
    return relative if relative.is_dir() else locate(variant.model)


def put_in_place(into: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill an empty folder, and put it in the place of `into`: all of it or, when `make` raises, nothing.

    Raises ValueError where `into` holds other things than graphs.
    """
    into = into.absolute()
    if into.exists() and (others := [path.name for path in into.iterdir() if path.suffix not in (".onnx", ".json")]):
        raise ValueError(f"--out {into}: holds {others[0]}, which is no graph; name a folder that may be replaced")
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=into.parent, prefix=".exporting-"))
    old = partial.with_name(partial.name.replace("exporting", "replaced"))
    try:
        make(partial)
        partial.chmod(0o755)
        if into.exists():
            into.rename(old)
        partial.rename(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _run(arguments: argparse.Namespace) -> int:
    document = Document.read(Path(arguments.config) if arguments.config else None)
    folder = model_folder(arguments.variant, document)
    into = arguments.out or folder / "onnx"
    url = document.resolve(document.section("registry", RegistrySection).url)
    if arguments.publish:
        check_name(arguments.publish)
    if arguments.source:
        if arguments.publish or not arguments.check:
            raise ValueError("--from takes graphs out of the registry; it goes with --out and --format only")
        put_in_place(into, lambda place: _copy(Registry(url).fetch(arguments.source), place, arguments.source))
        compared: list[Compared] = []
    else:
        compared = _export(folder, into, arguments)
    ref = Registry(url).publish(arguments.publish, into, {"kind": "graphs", **_told(into)}) if arguments.publish else arguments.source
    files = {path.stem: str(path) for path in sorted(into.glob("*.onnx"))}
    if arguments.format == "json":
        print(msgspec.json.encode({"model": str(folder), "graphs": files, "compared": compared, "ref": ref}).decode())
    else:
        print(f"{folder}: {', '.join(files)} are in {into}; the weights stay in the model's safetensors")
        if arguments.publish:
            print(ref)
    return 0


def _export(folder: Path, into: Path, arguments: argparse.Namespace) -> list[Compared]:
    from serving.export import export_directory

    # the exporter warns of optional packages that no part of a model needs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    compared: list[Compared] = []

    def make(place: Path) -> None:
        export_directory(folder, place)
        if arguments.check:
            compared.extend([*compare(folder, place), *compare_adapters(folder, place)])
            _show(compared, arguments.format)
        (place / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(record(folder, place, compared)), indent=2) + b"\n")
        if failed := [each for each in compared if not each.passed]:
            raise LookupError(
                f"{failed[0].graph}.{failed[0].output} is {failed[0].error:.1e} standard deviations from torch, allowed are {TOLERANCE}; "
                "nothing was written. Other versions of torch, diffusers or onnxruntime may do better"
            )

    put_in_place(into, make)
    return compared


def _show(compared: Sequence[Compared], kind: str) -> None:
    """The figures, beside the result: they are wanted when the comparison fails, too."""
    for each in compared:
        shapes = " ".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in each.shapes.items())
        told = f"{each.graph}.{each.output}: {each.error:.1e} of {TOLERANCE} allowed, {'same' if each.passed else 'DIFFERENT'} ({shapes})"
        print(told, file=sys.stderr if kind == "json" else sys.stdout)


def _told(folder: Path) -> dict[str, Any]:
    return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=dict[str, Any])


def _copy(source: Path, place: Path, ref: str) -> None:
    if not (source / MANIFEST).is_file():
        raise ModelError(f"{ref}: is no set of graphs, which `salon export --publish` makes; name another reference")
    for path in source.iterdir():
        shutil.copyfile(path, place / path.name)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "variant", help="a variant of the configuration, a packaged model (salon/emoji-64), or a directory in diffusers layout"
    )
    parser.add_argument("--out", type=Path, help="where to write (default: the folder onnx in the model's directory)")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="compare with torch (default: yes)")
    parser.add_argument("--publish", metavar="NAME", help="put the graphs into the registry under this name, and print the reference")
    parser.add_argument("--from", dest="source", metavar="REF", help="take published graphs instead of making them; needs no torch")
    parser.add_argument("--format", choices=("text", "json"), default="text")


COMMAND = Command(
    "Write the ONNX graphs of a variant's model, and compare them with torch.", "salon export models/my-model", _arguments, _run
)
