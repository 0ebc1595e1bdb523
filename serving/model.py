"""A model directory in diffusers layout: where it is, what it says, its digest and its graphs."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from serving.backends.onnx.graph import GRAPH_FORMAT
from serving.errors import ModelError
from serving.layouts import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout, read_layout
from serving.samplers import SchedulerConfig
from serving.weights import weight_files

PACKAGED = Path(__file__).parent / "models"
_EXPORT_NEEDS = ("torch", "accelerate", "diffusers", "transformers", "onnx", "onnxscript")
LARGEST_SIDE = 4096
T = TypeVar("T")


class NetworkConfig(msgspec.Struct, frozen=True):
    """What serving reads of `unet/config.json` or `transformer/config.json`.

    `sample_size` is in latent pixels, one number or [height, width]. A UNet halves them between its blocks, a transformer cuts
    them into patches, of which it knows `pos_embed_max_size` a side.
    """

    in_channels: int = 4
    sample_size: int | list[int] | None = None
    block_out_channels: tuple[int, ...] = (64,)
    addition_embed_type: str | None = None
    patch_size: int = 1
    pos_embed_max_size: int | None = None
    joint_attention_dim: int = 4096

    @property
    def unit(self) -> int:
        """Sides must be a multiple of so many latent pixels."""
        return int(self.patch_size * 2 ** (len(self.block_out_channels) - 1))


class VaeConfig(msgspec.Struct, frozen=True):
    """What serving reads of `vae/config.json`."""

    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: list[float] | None = None


class TextConfig(msgspec.Struct, frozen=True):
    """What serving reads of the configuration of a text encoder; T5's has no number of positions."""

    max_position_embeddings: int = 77


class Model(msgspec.Struct, frozen=True):
    """A checked model directory. `digest` is over the files that decide the pixels; `height` and `width` are in pixels.

    `texts` by part. `zero_when_no_negative`: without a negative prompt the network is conditioned on zeros, not on an empty text.
    """

    folder: Path
    digest: str
    layout: Layout
    scheduler: SchedulerConfig
    network: NetworkConfig
    vae: VaeConfig
    texts: dict[str, TextConfig]
    latent_height: int
    latent_width: int
    zero_when_no_negative: bool = False

    @property
    def text(self) -> TextConfig:
        """The first text encoder's."""
        return self.texts["text_encoder"]

    @property
    def magnification(self) -> int:
        """Pixels per latent pixel."""
        return int(2 ** (len(self.vae.block_out_channels) - 1))

    @property
    def height(self) -> int:
        return self.latent_height * self.magnification

    @property
    def width(self) -> int:
        return self.latent_width * self.magnification


def locate(name: str) -> Path:
    """The directory of `salon/NAME` (packaged) or of a path. Raises ModelError, which says how to get a hub model."""
    if name.startswith("salon/"):
        folder = PACKAGED / name.removeprefix("salon/")
        known = sorted(f"salon/{p.parent.name}" for p in PACKAGED.glob("*/model_index.json"))
        if f"salon/{folder.name}" not in known or folder.parent != PACKAGED:
            raise ModelError(f"model {name!r} is not packaged; packaged models: {', '.join(known) or 'none'}")
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(
            f"model {name!r} is no directory here; if it is a hub id, download it first: "
            f'`hf download {name} --local-dir models/{folder.name}`, then set model = "models/{folder.name}"'
        )
    raise ModelError(f"model {name!r}: there is no such directory; name a directory in diffusers layout, or a packaged model")


def open_model(name: str, cache: Path) -> Model:
    """Read and check the directory's small files, and its digest (kept under `cache` by size and time of change).

    Raises ModelError that names the path, or the package that is not installed, and the fix.
    """
    for package in ("onnxruntime", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"model {name!r} needs the package {package!r} to be served in this process; pip install 'salon[local]'")
    folder = locate(name)
    index = _json(folder / "model_index.json", dict[str, object])
    layout = read_layout(index, f"{folder}/model_index.json")
    tokenizers = [tokenizer for tokenizer, _ in layout.tokenizers.values()]
    for part in (*layout.parts, *tokenizers, "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(f"{folder / part}: is missing, though model_index.json names it; copy the whole model directory")
    network, vae = _json(folder / layout.network / "config.json", NetworkConfig), _json(folder / "vae/config.json", VaeConfig)
    _check(folder, layout, network, vae)
    side = network.sample_size if network.sample_size is not None else 64
    height, width = side if isinstance(side, list) else (side, side)
    scheduler = _json(folder / "scheduler/scheduler_config.json", SchedulerConfig)
    if layout.pipeline == STABLE_DIFFUSION.pipeline:
        # diffusers' StableDiffusionPipeline sets the offset to 1 whatever the file says
        scheduler = msgspec.structs.replace(scheduler, steps_offset=1)
    return Model(
        folder,
        _digest(folder, layout, cache),
        layout,
        scheduler,
        network,
        vae,
        {part: _json(folder / part / "config.json", TextConfig) for part in layout.text_encoders},
        height,
        width,
        # StableDiffusionXLPipeline: true where the file says nothing
        layout.pipeline == STABLE_DIFFUSION_XL.pipeline and bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _check(folder: Path, layout: Layout, network: NetworkConfig, vae: VaeConfig) -> None:
    told = f"{folder / layout.network}/config.json"
    if network.in_channels != vae.latent_channels:
        raise ModelError(f"{told}: in_channels {network.in_channels} is not the vae's {vae.latent_channels} latent channels")
    wanted = "text_time" if layout.pipeline == STABLE_DIFFUSION_XL.pipeline else None
    if network.addition_embed_type != wanted:
        raise ModelError(f"{told}: addition_embed_type is {network.addition_embed_type!r}; {layout.name} has {wanted!r}")
    if vae.latents_mean is not None:
        raise ModelError(f"{folder}/vae/config.json: latents_mean is not served; name a model whose latents are not shifted by channel")


def at_size(model: Model, size: str | None) -> Model:
    """The model drawing `size`, WIDTHxHEIGHT in pixels; None: its own. Raises ModelError for a size that its network cannot halve."""
    if size is None:
        return model
    width, height = (int(side) for side in size.split("x"))
    unit = model.magnification * model.network.unit
    known = model.network.pos_embed_max_size
    largest = LARGEST_SIDE if known is None else min(LARGEST_SIDE, unit * known)
    for name, side in (("width", width), ("height", height)):
        if side % unit or not unit <= side <= largest:
            near = min(max(unit, round(side / unit) * unit), largest // unit * unit)
            raise ModelError(f"size {size!r}: the {name} {side} is not a multiple of {unit} between {unit} and {largest}; {near} would be")
    return msgspec.structs.replace(model, latent_height=height // model.magnification, latent_width=width // model.magnification)


def graphs_folder(model: Model, cache: Path) -> Path:
    """Where the model's ONNX graphs are: in its directory, else under `cache`, exported there if they must be.

    Graphs hold no weights, so models of one architecture share those in the cache. The export runs in a process of
    its own, so that torch never enters this one. Raises ModelError.
    """
    for folder in (model.folder / "onnx", exported := cache / "graphs" / _architecture(model)):
        if all((folder / f"{graph}.{kind}").is_file() for graph in model.layout.graphs for kind in ("onnx", "json")):
            return folder
    if lacking := [package for package in _EXPORT_NEEDS if importlib.util.find_spec(package) is None]:
        raise ModelError(
            f"{model.folder / 'onnx'}: there are no ONNX graphs, and making them needs {', '.join(lacking)}; "
            "pip install 'salon[train]', or run `salon export` where that is installed and copy the onnx folder"
        )
    exported.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=exported.parent, prefix="exporting-"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serving.export", str(model.folder), str(partial)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ModelError(f"{model.folder}: cannot be exported to ONNX ({reason})")
        if not exported.exists():
            partial.replace(exported)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return exported


def _architecture(model: Model) -> str:
    """A digest of what decides the graphs: the configurations of the parts without notes of origin."""
    notes = {"_name_or_path", "_diffusers_version", "_commit_hash", "transformers_version", "torch_dtype", "dtype"}
    configs = [_json(model.folder / part / "config.json", dict[str, object]) for part in model.layout.parts]
    facts = [GRAPH_FORMAT, *(sorted((key, value) for key, value in config.items() if key not in notes) for config in configs)]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def weight_paths(model: Model) -> list[Path]:
    """Every weight file of the model. Raises ModelError."""
    return [path for part in model.layout.parts for path in weight_files(model.folder / part)]


def _files(folder: Path, layout: Layout) -> list[Path]:
    small = ["model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in layout.parts)]
    files = [folder / name for name in small]
    for tokenizer, _ in layout.tokenizers.values():
        names = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]
        files += [path for name in names if (path := folder / tokenizer / name).is_file()]
    for part in layout.parts:
        files += weight_files(folder / part)
    return files


def _digest(folder: Path, layout: Layout, cache: Path) -> str:
    files = _files(folder, layout)
    try:
        seen = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
        kept = cache / "digests" / hashlib.sha256(msgspec.json.encode(seen)).hexdigest()
        if kept.is_file() and re.fullmatch(r"sha256:[0-9a-f]{64}", text := kept.read_text()):
            return text
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read ({error.strerror}); copy the whole model directory") from None
    text = f"sha256:{digest.hexdigest()}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(kept)
    return text


def _json(path: Path, into: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=into)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); copy the whole model directory") from None
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: {error}; the directory must be in diffusers layout") from None
