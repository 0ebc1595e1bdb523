"""`salon export VARIANT`: ONNX graphs for a model directory, so that it is served where torch is not installed."""

import argparse
import json
from pathlib import Path

from analytics.command import Command
from analytics.settings import Document, nearest
from serving.model import GRAPHS, locate
from serving.variant import ExtendsError, Variant, inherit


def model_folder(name: str, config: Path | None) -> Path:
    """The directory of variant `name` of the configuration, or of the model `name` itself. Raises ValueError."""
    document = Document.read(config)
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


def _run(arguments: argparse.Namespace) -> int:
    from serving.export import export_directory

    folder = model_folder(arguments.variant, Path(arguments.config) if arguments.config else None)
    into = arguments.out or folder / "onnx"
    export_directory(folder, into)
    files = {graph: str(into / f"{graph}.onnx") for graph in GRAPHS}
    if arguments.format == "json":
        print(json.dumps({"model": str(folder), "graphs": files}))
    else:
        print(f"{folder}: exported {', '.join(GRAPHS)} to {into}; the weights stay in the model's safetensors")
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "variant", help="a variant of the configuration, a packaged model (salon/emoji-64), or a directory in diffusers layout"
    )
    parser.add_argument("--out", type=Path, help="where to write (default: the folder onnx in the model's directory)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


COMMAND = Command("Write the ONNX graphs of a variant's model.", "salon export models/my-model", _arguments, _run)
