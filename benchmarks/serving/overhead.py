"""What the engine adds to its network calls: per tick, everything that is not inside ONNX Runtime.

python benchmarks/serving/overhead.py [--seconds 3]

A tick's time, less the time during which at least one ONNX Runtime session was running (calls of the network, the decoder
and the text encoder, on any thread): the queue, seats, tables, sampler arithmetic, gathering rows, futures. Exit code 1
when it is not below 1 ms and 10 %. The CPU time of the engine's own thread in it is given beside: on a busy machine the rest is waiting.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import onnxruntime  # noqa: E402
from arms import write_adapters  # noqa: E402
from machine import machine  # noqa: E402
from systems import Engine, Task  # noqa: E402
from traffic import closed  # noqa: E402

from serving.lane import Lane  # noqa: E402

ALLOWED_MS, ALLOWED_SHARE = 1.0, 0.1


class Inside:
    """Seconds during which at least one wrapped call was under way, whatever the thread; how often one began.

    `cpu_seconds`: what the engine's own thread spent in them.
    """

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds, self.calls, self._running, self._began = 0.0, 0.0, 0, 0, 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            self.calls += 1
            if self._running == 1:
                self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self.seconds += time.perf_counter() - self._began

    def reset(self) -> None:
        self.seconds, self.cpu_seconds, self.calls = 0.0, 0.0, 0

    def around(self, kind: Any, *names: str) -> None:
        for name in names:
            setattr(kind, name, self._wrapped(getattr(kind, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            with self:
                try:
                    return call(*arguments, **named)
                finally:
                    if threading.current_thread().name == "salon-engine":
                        self.cpu_seconds += time.thread_time() - began

        return wrapped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    print(machine("onnxruntime", "numpy"))
    print("salon/emoji-64, 64x64 pixels, 20 steps, guidance 2, calls of at most 16 rows\n")
    print(f"{'':22}{'ticks':>7}{'tick ms':>9}{'network ms':>12}{'overhead ms':>13}{'share':>8}{'of it CPU ms':>14}")
    sessions, ticks = Inside(), Inside()
    sessions.around(onnxruntime.InferenceSession, "run", "run_with_iobinding")
    ticks.around(Lane, "tick")
    well = True
    with tempfile.TemporaryDirectory() as temporary:
        for arms in (0, 4):
            folder = Path(temporary) / str(arms)
            task = Task("salon/emoji-64", write_adapters("salon/emoji-64", arms, folder), 20, 2.0, 16, folder)
            engine = Engine(task, merged=False)
            for at_once in (1, 4, 8):
                closed(engine, range(task.arms), max(at_once, task.arms), 0.1)  # adapters are attached, sizes of call are known
                sessions.reset()
                ticks.reset()
                closed(engine, range(task.arms), at_once, given.seconds)
                over = (ticks.seconds - sessions.seconds) / ticks.calls
                share = over * ticks.calls / ticks.seconds
                well = well and 1000 * over < ALLOWED_MS and share < ALLOWED_SHARE
                times = [1000 * seconds / ticks.calls for seconds in (ticks.seconds, sessions.seconds)]
                cpu = 1000 * (ticks.cpu_seconds - sessions.cpu_seconds) / ticks.calls
                label = f"{at_once} at once, {arms or 'no'} adapters"
                print(
                    f"{label:22}{ticks.calls:7}{times[0]:9.3f}{times[1]:12.3f}{1000 * over:13.3f}{100 * share:7.1f} %{cpu:14.3f}",
                    flush=True,
                )
            engine.close()
    print(f"\nallowed: {ALLOWED_MS:g} ms and {100 * ALLOWED_SHARE:.0f} % of a tick: {'met' if well else 'MISSED'}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
