"""Data-parallel training by hand: one process of one thread per core, gradients averaged over gloo.

Two processes of one thread train about 1.4 times as fast as one process of two threads on CPU.
"""

import os
import socket
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def launch(work: Callable[..., None], workers: int, *args: object) -> None:
    """Run `work(rank, workers, *args)` in `workers` processes; in this process when there is only one."""
    if workers == 1:
        work(0, 1, *args)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_enter, args=(work, workers, port, args), nprocs=workers)


def _enter(rank: int, work: Callable[..., None], workers: int, port: int, args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    try:
        work(rank, workers, *args)
    finally:
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter], workers: int) -> None:
    """Replace each gradient by its mean over the workers."""
    if workers == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= workers
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
