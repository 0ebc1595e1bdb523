"""How work reaches a device: at once on the CPU; on CUDA through a stream, a step ahead, and as one graph per size of call."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

Work = Callable[[], None]


class Stream(Protocol):
    """The engine's own order of work on a device."""

    def step(self, key: tuple[int, ...] | None, work: Work, rehearse: Work) -> None:
        """Do `work`; the same `key` promises the same operations on the same tensors, None promises nothing.

        `rehearse` runs it without effect.
        """
        ...

    def here(self) -> AbstractContextManager[None]:
        """Work in this block comes after all steps so far, and before the next."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Work in this block comes after all steps so far, and delays none."""
        ...

    def forget(self) -> None:
        """Tensors have been replaced: no earlier key holds."""
        ...

    def wait(self) -> None:
        """Until all steps so far are done."""
        ...


class Immediate:
    """The CPU: everything is done when it returns."""

    def step(self, key: tuple[int, ...] | None, work: Work, rehearse: Work) -> None:
        work()

    def here(self) -> AbstractContextManager[None]:
        return nullcontext()

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forget(self) -> None: ...

    def wait(self) -> None: ...


class CudaStream:
    """One stream for steps and one for pictures. Steps return when the step before is done, so the host is one step ahead."""

    def __init__(self, device: torch.device, *, graphs: bool) -> None:
        self._device = device
        self._steps, self._aside = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._done: torch.cuda.Event | None = None
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] | None = {} if graphs else None
        # graphs never run side by side, so they share their scratch memory
        self._pool = torch.cuda.graph_pool_handle() if graphs else None

    def step(self, key: tuple[int, ...] | None, work: Work, rehearse: Work) -> None:
        before = self._done
        with torch.cuda.stream(self._steps):
            if self._graphs is None or key is None:
                work()
            else:
                if key not in self._graphs:
                    self._graphs[key] = self._captured(work, rehearse)
                self._graphs[key].replay()
            self._done = torch.cuda.Event()
            self._done.record()
        if before is not None:
            before.synchronize()

    def _captured(self, work: Work, rehearse: Work) -> torch.cuda.CUDAGraph:
        for _ in range(2):  # libraries choose kernels and take workspace at their first calls
            rehearse()
        graph = torch.cuda.CUDAGraph()
        # other threads may load and decode meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._steps, capture_error_mode="thread_local"):
            work()
        return graph

    @contextmanager
    def here(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._steps):
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._aside):
            if self._done is not None:
                self._aside.wait_event(self._done)
            yield

    def forget(self) -> None:
        self.wait()
        if self._graphs is not None:
            self._graphs = {}

    def wait(self) -> None:
        self._steps.synchronize()
