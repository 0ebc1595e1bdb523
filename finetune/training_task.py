"""One training as a process of its own: kto and its baseline side by side, a core each, is faster than one with two threads."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from finetune import lora
from finetune.batches import TrainingSet
from finetune.disk import read_json, replace_file, write_json
from finetune.model import DiffusionModel
from finetune.trainer import train
from finetune.training import Progress, Training

Say = Callable[[Progress], None]
_LOG, _ADAPTER, _PROGRESS = "log.json", "adapter", "progress.json"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to train: the model's folder, the champion's adapter (None: the bare model) at its scale, `save`d data, folder for results."""

    model: str
    champion_adapter: str | None
    champion_scale: float
    data: str
    out: str
    training: Training


def save(data: TrainingSet, path: Path, **more: NDArray[Any]) -> None:
    """Write a training set (and `more` columns) as one .npz, atomically."""
    with replace_file(path) as fresh, fresh.open("wb") as file:
        columns: dict[str, Any] = {
            "latents": data.latents.numpy(), "prompts": np.array(data.prompts, np.str_), "prompt": data.prompt,
            "generation": data.generation, "liked": data.liked, "weight": data.weight, **more,
        }  # fmt: skip
        np.savez(file, **columns)


def load(path: Path) -> TrainingSet:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as a:
        return TrainingSet(
            torch.from_numpy(a["latents"]), [str(p) for p in a["prompts"]], a["prompt"], a["generation"], a["liked"], a["weight"]
        )


def adapter_of(task: Task) -> lora.Adapter:
    """The LoRA that a finished task trained."""
    return lora.read(Path(task.out) / _ADAPTER)


def log_of(task: Task) -> list[Progress] | None:
    """The log of a finished task; None before it is finished."""
    return read_json(Path(task.out) / _LOG, list[Progress])


def run(task: Task, say: Say = lambda _: None) -> None:
    """Train, or go on, or do nothing when it is finished. The log is written last."""
    if log_of(task) is not None:
        return
    out, told = Path(task.out), 0.0
    torch.set_num_threads(task.training.threads)
    model = DiffusionModel.read(Path(task.model))
    if task.champion_adapter is not None:
        lora.merge(model.unet, lora.scaled(lora.read(Path(task.champion_adapter)), task.champion_scale))

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5 or progress.step == progress.steps:
            write_json(out / _PROGRESS, progress)
            told = time.monotonic()
        say(progress)

    found = train(model, load(Path(task.data)), task.training, out / "checkpoint.pt", tell)
    lora.write(found.adapter, out / _ADAPTER)
    write_json(out / _LOG, found.log)


def run_all(tasks: Sequence[Task], processes: int, say: Say) -> None:
    """Run every unfinished task, side by side where `processes` > 1. Raises what a task raised."""
    waiting = [task for task in tasks if log_of(task) is None]
    if processes == 1 or len(waiting) < 2:
        for task in waiting:
            run(task, say)
        return
    # spawn: an embedded warehouse and ONNX Runtime do not survive a fork
    with ProcessPoolExecutor(min(processes, len(waiting)), multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[None]] = [pool.submit(_run_as_child, task, os.getpid()) for task in waiting]
        while any(not future.done() for future in futures):
            time.sleep(0.3)
            for task in waiting:
                if progress := read_json(Path(task.out) / _PROGRESS, Progress):
                    say(progress)
            if any(future.done() and future.exception() for future in futures):
                break
        for future in futures:
            future.result()


def _run_as_child(task: Task, parent: int) -> None:
    def watch(_: Progress) -> None:
        # A killed parent cannot stop its children; the checkpoint keeps what was done.
        if os.getppid() != parent:
            os._exit(1)

    run(task, watch)
