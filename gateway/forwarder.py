"""The forwarder: one thread that owns the Kafka producer and moves the spool's events to the topic, at least once, in order."""

import logging
import threading
import time
from contextlib import suppress

from kafka.errors import KafkaError, KafkaTimeoutError

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import BrokerUnreachable, open_producer
from analytics.kafka.probe import explain
from analytics.kafka.topics import TopicDiffers, check_topics
from analytics.local_log import LocalLog
from gateway.flight import FAULTS, Failed, Flight, Message, messages

log = logging.getLogger(__name__)
READ_ROWS = 2_000
IDLE_SECONDS, ACK_SECONDS, MARK_SECONDS = 0.05, 0.02, 0.25
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.25, 5.0
STALL_SECONDS, STUCK_SECONDS = 5.0, 60.0
BLOCK_MS = 3_000
# Kept by us (`_stalled`): a record that the client gave up by itself would be overtaken by those behind it.
NEVER_MS = 7 * 24 * 3600 * 1000


class Forwarder:
    """Runs from `start` to `stop`. It backs off on errors, and never gives an event up: what Kafka lacks stays in the spool.

    `sent`: events that the broker has acknowledged; `errors`: failed attempts; `set_aside`: events that Kafka will never take,
    kept among the spool's dead letters; `last_error`: why nothing moves now, None when all is well; `warning`: what is not as
    configured, though events move.
    """

    def __init__(self, spool: LocalLog, address: KafkaAddress) -> None:
        self._spool, self._address = spool, address
        self.sent = self.errors = self.set_aside = 0
        self.last_error: str | None = None
        self.warning: str | None = None
        self._flight: Flight | None = None
        # Rows up to here were handed to the producer, are acknowledged, are marked so in the spool; None: not looked up yet.
        self._read = self._acked = 0
        self._marked: int | None = None
        # A message to be tried alone; rows up to here that do not share messages.
        self._suspect: Message | None = None
        self._single_until = 0
        self._moved_at = self._marked_at = self._asked_at = 0.0
        self._stopping, self._deadline = threading.Event(), float("inf")
        self._thread = threading.Thread(target=self._run, name="salon-forwarder", daemon=True)

    def start(self) -> None:
        """Begin to forward. Whether Kafka can be reached shows in `last_error`."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Forward what Kafka takes within the time, then stop: the rest stays in the spool. A second call does nothing."""
        self._deadline = min(self._deadline, time.monotonic() + timeout_seconds)
        self._stopping.set()
        if self._thread.ident is not None:
            # A probe of the broker may be under way; the thread is a daemon, and what it holds is in the spool.
            self._thread.join(timeout_seconds + 1)

    def _run(self) -> None:
        backoff = 0.0
        while not self._over(idle=backoff > 0):
            try:
                if self._marked is None:
                    self._read = self._acked = self._marked = self._spool.consumed_position()
                if not self._step():
                    break
                if self.last_error is None:
                    backoff = 0.0
            except Exception as error:
                # Whatever it was: the events are safe in the spool, and a forwarder that gave up would fill it.
                self._note(error)
                backoff = min(max(BACKOFF_SECONDS, 2 * backoff), MAX_BACKOFF_SECONDS)
                self._stopping.wait(backoff)
        self._land()
        with suppress(OSError, ValueError):
            self._mark(at_once=True)

    def _over(self, idle: bool) -> bool:
        return self._stopping.is_set() and (idle or time.monotonic() >= self._deadline)

    def _step(self) -> bool:
        """Take acknowledgements, send what there is, rest where there is nothing to do. False: stopped, with all forwarded."""
        flight = self._flight = self._flight or self._open()
        self._collect(flight)
        self._mark()
        if self._suspect is not None:
            self._try_alone(flight, self._suspect)
            return True
        rows = self._spool.read_spooled(self._read, READ_ROWS) if flight.room else []
        for message in messages(rows, self._single_until):
            if not flight.room:
                break
            self._send(flight, message)
        if flight.empty and not rows:
            if self.last_error is not None:
                # Nothing is left that could fail, or go well: so ask.
                self.last_error = self._why(None)
            if self._stopping.is_set():
                return False
            self._stopping.wait(STALL_SECONDS if self.last_error else IDLE_SECONDS)
        elif len(rows) < READ_ROWS or not flight.room:
            self._look_for_stall()
            time.sleep(ACK_SECONDS)
        return True

    def _open(self) -> Flight:
        # The client would try for seconds, loudly, and then not know why.
        if reason := explain(self._address):
            raise BrokerUnreachable(reason)
        # One request in flight: with more, batches of one partition that fail together are sent again in reverse.
        producer = open_producer(
            self._address, max_in_flight_requests_per_connection=1, delivery_timeout_ms=NEVER_MS, max_block_ms=BLOCK_MS
        )
        flight = Flight(producer, self._address.topic)
        try:
            # Asked now, so that a missing topic is known before the first event is sent.
            producer.partitions_for(self._address.topic)
        except BaseException:
            flight.close()
            raise
        self._compare()
        return flight

    def _compare(self) -> None:
        """Other settings than ours are somebody's mistake, and no reason to keep events back."""
        self.warning = None
        try:
            check_topics(self._address)
        except TopicDiffers as error:
            self.warning = str(error)
            log.warning("%s", error)
        except OSError:
            # What else is missing concerns others, or will show when something is sent.
            return

    def _land(self) -> None:
        """Let the producer go, and begin again behind what is acknowledged."""
        if self._flight is not None:
            self._flight.close()
        self._flight = None
        self._read = self._acked

    def _send(self, flight: Flight, message: Message) -> None:
        if flight.empty:
            self._moved_at = time.monotonic()
        flight.send(message)
        self._read = message.last

    def _collect(self, flight: Flight) -> None:
        position, events = flight.acknowledged()
        if position:
            self._acked, self.sent = position, self.sent + events
            self._moved_at = time.monotonic()
            if self.last_error is not None:
                log.info("events go to Kafka again")
            self.last_error = None

    def _mark(self, at_once: bool = False) -> None:
        """Tell the spool what is in Kafka: now and then, since each time is a commit."""
        now = time.monotonic()
        if self._marked is not None and self._acked > self._marked and (at_once or now - self._marked_at >= MARK_SECONDS):
            self._spool.consumed(self._acked)
            self._marked, self._marked_at = self._acked, now

    def _try_alone(self, flight: Flight, suspect: Message) -> None:
        """Send one message and nothing else: what fails then is its own fault."""
        self._send(flight, suspect)
        while not self._over(idle=False):
            self._collect(flight)
            if flight.empty:
                self._suspect = None
                return
            self._look_for_stall()
            time.sleep(ACK_SECONDS)

    def _note(self, error: Exception) -> None:
        """Remember what went wrong, and what to do about it."""
        self.errors += 1
        cause = error.__cause__ if isinstance(error, Failed) else error
        if isinstance(error, Failed):
            self._land()
            if isinstance(cause, FAULTS):
                self._blame(error.message, cause)
                return
        elif not isinstance(error, (KafkaTimeoutError, OSError)):
            # After a time-out for the topic's metadata the client goes on; after what it should never say it does not.
            self._land()
        self._tell(self._why(cause) or f"{type(cause).__name__}: {cause}")

    def _blame(self, message: Message, fault: BaseException) -> None:
        """Of the messages of a partition one too large takes those behind it along: so it is tried alone, then in single events."""
        if message != self._suspect:
            self._suspect = message
        elif len(message.rows) > 1:
            self._single_until, self._suspect = message.last, Message(message.rows[:1])
        else:
            position = message.last
            self._spool.set_aside(position, f"Kafka does not take it: {fault}")
            self.set_aside += 1
            log.error("the event at position %d of the spool is set aside: Kafka does not take it: %s", position, fault)
            self._read = self._acked = position
            self._suspect = None
            self._mark(at_once=True)

    def _look_for_stall(self) -> None:
        """Nothing was acknowledged for some time: find out why; where nothing is wrong with Kafka, the client is."""
        now = time.monotonic()
        if now - max(self._moved_at, self._asked_at) < STALL_SECONDS or self._stopping.is_set():
            return
        reason = self._why(None)
        self._asked_at = time.monotonic()
        if reason is not None:
            self.errors += 1
            self._tell(reason)
        elif now - self._moved_at >= STUCK_SECONDS:
            self._land()
            raise TimeoutError(f"Kafka has acknowledged nothing for {STUCK_SECONDS:.0f} s, though it can be reached; connecting anew")

    def _why(self, error: BaseException | None) -> str | None:
        """What is wrong with the way to the topic, by a look of our own; without that, what the client said."""
        if isinstance(error, OSError) and not isinstance(error, KafkaError):
            return str(error)
        try:
            found = explain(self._address)
            if found is None:
                check_topics(self._address)
        except TopicDiffers:
            found = None
        except Exception as failure:
            # The look only explains; a look that fails must not end the thread that forwards.
            found = str(failure) or type(failure).__name__
        return found or (None if error is None else f"{type(error).__name__}: {error}")

    def _tell(self, reason: str) -> None:
        if reason != self.last_error:
            log.error("events wait in the spool: %s", reason)
        self.last_error = reason
