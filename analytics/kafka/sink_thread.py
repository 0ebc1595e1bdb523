"""The thread that keeps a Kafka sink going, through every outage of broker and warehouse."""

import logging
import threading

from analytics.kafka.sink import KafkaSink

log = logging.getLogger(__name__)


class KafkaSinkThread:
    """Drains until stopped. It backs off on errors: `failures` counts them, `last_error` is None when all is well."""

    def __init__(
        self, sink: KafkaSink, *, wait_seconds: float = 0.2, backoff_seconds: float = 0.5, max_backoff_seconds: float = 30.0
    ) -> None:
        self.sink = sink
        self.failures = 0
        self.moved = 0
        self.last_error: str | None = None
        self._wait_seconds = wait_seconds
        self._backoff_seconds, self._max_backoff_seconds = backoff_seconds, max_backoff_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="salon-kafka-sink", daemon=True)

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the ranges at hand, leave the group, stop. A second call does nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        backoff = 0.0
        while not self._stopping.is_set():
            try:
                self.moved += self.sink.drain(self._wait_seconds)
                backoff, self.last_error = 0.0, None
            except Exception as error:
                # Whatever it was: the events are safe in Kafka, and a sink that gave up would let retention eat them.
                self.failures += 1
                if self.last_error != str(error):
                    log.error("the sink cannot go on for now: %s", error)
                self.last_error = str(error)
                backoff = min(max(self._backoff_seconds, 2 * backoff), self._max_backoff_seconds)
                self.sink.rest(backoff, self._stopping.is_set)
        self.sink.close()
