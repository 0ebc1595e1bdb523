"""The control log of several gateways: a thread that follows the control topic, and changes it when asked.

What the topic says is folded into a ledger; a snapshot file keeps it with the topic's identity and position, so that a gateway
starts while Kafka is away. A change is decided on the state at the topic's end and committed only if nobody wrote meanwhile.
"""

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from kafka.errors import KafkaError

from analytics.event_log import EventLog
from analytics.kafka.address import KafkaAddress
from analytics.kafka.probe import explain
from analytics.kafka.topics import check_control
from gateway.changes import Decide, Draft
from gateway.control_fold import ControlFold
from gateway.control_log import ControlAway
from gateway.control_records import records_of, whole
from gateway.control_topic import CommitUnknown, ControlTopic, Fenced, PositionLost
from gateway.ledger import Ledger
from gateway.snapshot import put_aside, read_snapshot, save

log = logging.getLogger(__name__)
CHANGE_SECONDS, PATIENCE_SECONDS = 10.0, 2.0
CONNECT_SECONDS, STOP_SECONDS = 5.0, 3.0
HEARTBEAT_SECONDS, RETRY_SECONDS = 2.0, 1.0
IDLE_SECONDS = 0.1


class Replaced(Exception):
    """The topic is another one than before, or has lost what it had."""


class _Job:
    """A change that somebody waits for."""

    def __init__(self, decide: Decide, seconds: float) -> None:
        self.decide, self.deadline = decide, time.monotonic() + seconds
        self.future: Future[Draft] = Future()
        self.draft: Draft | None = None
        # Why the last attempt was in vain, and whether nobody knows if it was.
        self.beaten, self.unsettled = "", False

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


class KafkaControl:
    """See ControlLog. `forget` takes the keyed hash of a unit that another gateway erased, and when: it must be durable there
    when it returns; `erasures` gives all that this gateway knows, for a topic that has lost them."""

    shared = True

    def __init__(
        self,
        address: KafkaAddress,
        spool: EventLog,
        file: Path,
        forget: Callable[[str, datetime], None],
        erasures: Callable[[], Mapping[str, datetime]],
    ) -> None:
        self._address, self._spool, self._file, self._erasures = address, spool, file, erasures
        self._fold = ControlFold(spool, forget)
        self.ledger = read_snapshot(file)
        self.carried = ""
        self.caught_up = False
        self._heard: datetime | None = datetime.fromtimestamp(file.stat().st_mtime, UTC) if file.exists() else None
        self._away: str | None = "it has not been reached since the start"
        self._failing = False
        self._waiting: queue.Queue[_Job] = queue.Queue()
        self._saving = threading.Lock()
        self._stopping = threading.Event()
        self._changed: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="salon-control", daemon=True)

    @property
    def problem(self) -> str | None:
        """See ControlLog."""
        if self._away is not None:
            since = f"the state of experiments is that of {self._heard:%Y-%m-%dT%H:%M:%SZ}" if self._heard else "no experiment is known"
            return f"control topic {self._address.control_topic} unreachable: {self._away}; {since}, and nothing can be changed"
        for reason in tuple(self._fold.unreadable.values()):
            return f"{reason}; until then nothing can be changed here"
        if self._fold.unsent:
            return f"{len(self._fold.unsent)} control events wait for the spool"
        return None

    def start(self, changed: Callable[[], None]) -> None:
        """See ControlLog."""
        self._changed = changed
        self._thread.start()

    def change(self, decide: Decide) -> Draft:
        """See ControlLog. Takes at most about ten seconds; two while the topic is known to be away."""
        job = _Job(decide, CHANGE_SECONDS)
        self._waiting.put(job)
        try:
            return job.future.result(timeout=PATIENCE_SECONDS if self._failing else CHANGE_SECONDS + PATIENCE_SECONDS)
        except FutureTimeoutError:
            if job.future.cancel():
                raise ControlAway(f"{self.problem or 'the control topic is slow'}; nothing has changed") from None
            raise ControlAway(_UNKNOWN) from None

    def keep_up(self) -> None:
        """See ControlLog. The snapshot waits for control events that the spool does not have yet."""
        with self._saving:
            if self._fold.unsent or self._fold.unreadable or not self.caught_up:
                return
            try:
                save(self._file, self.ledger)
            except OSError as error:
                log.error("the snapshot %s cannot be written (%s); the control topic still holds the state", self._file, error.strerror)

    def close(self) -> None:
        """See ControlLog."""
        self._stopping.set()
        if self._thread.ident is not None:
            # It may be waiting for a broker that is away; whatever it is at, the topic is right without us.
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            topic: ControlTopic | None = None
            try:
                topic = self._connect()
                self._away, self._failing = None, False
                self._serve(topic)
            except (KafkaError, OSError, Replaced, PositionLost, Fenced, CommitUnknown) as error:
                self._lost(error)
            except Exception as error:
                # Whatever it was: a gateway that no longer follows the others would do so silently.
                log.exception("following the control topic failed; it is tried again")
                self._lost(error)
            finally:
                if topic is not None:
                    topic.close()
            self._refuse_waiting()
            self._stopping.wait(RETRY_SECONDS)

    def _lost(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if isinstance(error, KafkaError):
            with contextlib.suppress(Exception):
                reason = explain(self._address, timeout_seconds=2.0) or reason
        if reason != self._away:
            log.error("control topic %s: %s", self._address.control_topic, reason)
        self._away, self._failing = reason, True

    def _refuse_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._waiting.get_nowait()
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(ControlAway(f"{self.problem}; nothing has changed"))

    def _connect(self) -> ControlTopic:
        """Go on where the ledger is in this topic, or read the topic from its beginning. Raises KafkaError, OSError."""
        name = f"kafka:{check_control(self._address).topic_id}"
        topic = ControlTopic(self._address)
        try:
            first, end = topic.ends(CONNECT_SECONDS)
            known = self.ledger
            if known.log == name and first <= known.position <= end:
                topic.seek(known.position)
            else:
                self._begin(topic, name, first)
            self._catch_up(topic, CONNECT_SECONDS)
            self.caught_up = True
            return topic
        except BaseException:
            topic.close()
            raise

    def _begin(self, topic: ControlTopic, name: str, first: int) -> None:
        """The topic rules, unless it is empty: then what this gateway knows goes on, and is written into it again."""
        known = self.ledger
        topic.seek(first)
        fresh = self._fold.to_end(topic, Ledger(log=name, position=first), CONNECT_SECONDS)
        if _empty(fresh) and not _empty(known):
            # Another gateway may be filling it just now.
            topic.begin(CONNECT_SECONDS)
            fresh = self._fold.to_end(topic, fresh, CONNECT_SECONDS)
        if _empty(fresh) and not _empty(known):
            topic.write(whole(known, self._erasures(), self._spool.name), CONNECT_SECONDS)
            fresh = self._fold.to_end(topic, fresh, CONNECT_SECONDS)
            self.carried = (
                f"the control topic {self._address.control_topic} is new and empty, but {self._file} knows {len(known.lives)} "
                f"experiments of {known.log}: they go on as they were, and are written into the topic again"
            )
            log.error("%s", self.carried)
        elif not _empty(known) and (known.lives, known.shipped) != (fresh.lives, fresh.shipped):
            aside = put_aside(self._file, known)
            self.carried = (
                f"the snapshot of experiments belongs to {known.log} at {known.position}, not to what the control topic "
                f"{self._address.control_topic} holds now: experiments are what the topic says; the snapshot is kept as {aside}"
            )
            log.error("%s", self.carried)
        self._replace(fresh)

    def _serve(self, topic: ControlTopic) -> None:
        beat = time.monotonic()
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                self._do(topic, self._waiting.get_nowait())
                continue
            self._follow(topic)
            self._fold.submit([])
            now = time.monotonic()
            if now - beat > HEARTBEAT_SECONDS:
                # A consumer polls nothing for ever, without an error, when the broker is away.
                self._check_same(topic, HEARTBEAT_SECONDS)
                self._heard, beat = datetime.now(UTC), now

    def _check_same(self, topic: ControlTopic, seconds: float) -> None:
        # The first call has a limit in seconds and finds a broker that is away; the second has none of ours.
        first, end = topic.ends(seconds)
        if self.ledger.log != f"kafka:{topic.identity()}":
            raise Replaced("the control topic was deleted, or made again")
        if not first <= self.ledger.position <= end:
            raise Replaced("the control topic no longer has what was read from it")

    def _follow(self, topic: ControlTopic) -> None:
        ledger = self.ledger
        for offset, key, value in topic.next(IDLE_SECONDS):
            ledger = self._fold.apply(ledger, offset, key, value)
        if ledger is not self.ledger:
            self._replace(ledger)
            self.keep_up()

    def _catch_up(self, topic: ControlTopic, seconds: float) -> None:
        ledger = self._fold.to_end(topic, self.ledger, seconds)
        self._heard = datetime.now(UTC)
        if ledger != self.ledger:
            self._replace(ledger)

    def _replace(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._changed()

    def _do(self, topic: ControlTopic, job: _Job) -> None:
        """Carry out one change. What is wrong with the change goes to who asked; what is wrong with the topic is raised, too."""
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            while not self._attempt(topic, job):
                if job.left <= 0:
                    raise ControlAway(f"other gateways were faster each time ({job.beaten}); nothing has changed: ask again")
                time.sleep(random.uniform(0, 0.1))
            assert job.draft is not None
            job.future.set_result(job.draft)
        except (KafkaError, Replaced, PositionLost) as error:
            self._lost(error)
            job.future.set_exception(ControlAway(_UNKNOWN if job.unsettled else f"{self.problem}; nothing has changed"))
            raise
        except Exception as error:
            # A refusal of the change itself, or a bug: it belongs to whoever asked, and the thread goes on.
            job.future.set_exception(ControlAway(_UNKNOWN) if job.unsettled else error)

    def _attempt(self, topic: ControlTopic, job: _Job) -> bool:
        """One try to change; False when another gateway was faster."""
        try:
            topic.begin(max(1.0, job.left))
        except Fenced as error:
            job.beaten = str(error)
            return False
        self._check_same(topic, max(1.0, job.left))
        self._catch_up(topic, max(1.0, job.left))
        if job.unsettled and job.draft is not None and self._fold.has_read(job.draft.events):
            # The commit that gave no answer had come through.
            return True
        job.unsettled = False
        if self._fold.unreadable:
            raise ControlAway(f"{self.problem}; nothing has changed")
        before = self.ledger
        job.draft = draft = Draft(before)
        job.decide(draft)
        records = records_of(before, draft, self._spool.name)
        if records:
            if job.left <= 0:
                # Whoever asked has been told so, or is about to be.
                raise ControlAway("the control topic is slow; nothing has changed: ask again")
            try:
                topic.write(records, max(1.0, job.left))
            except Fenced as error:
                job.beaten = str(error)
                return False
            except CommitUnknown as error:
                job.beaten, job.unsettled = str(error), True
                return False
        # The follower reads these records once more, which changes nothing.
        self._replace(msgspec.structs.replace(draft.ledger, token_key=draft.token_key or before.token_key))
        self._fold.submit(draft.events)
        return True


def _empty(ledger: Ledger) -> bool:
    return not ledger.lives and not ledger.shipped


_UNKNOWN = "the control topic did not say in time whether the change is in it; look at the experiment before you ask again"
