"""What the group's committed offsets say: how far a partition is in, and the range that was begun and may be half done."""

import msgspec

from analytics.kafka.ranges import Range

# offset.metadata.max.bytes of a broker left as it is.
METADATA_CHARACTERS = 4096


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """The metadata of a commit. `end`: an intent, the last offset of the range that begins at the committed offset.

    `topic_id`: of the topic that the offset counts in. `at_ms`: when the intent was first made, ms since 1970.
    """

    topic_id: str = ""
    end: int | None = None
    at_ms: int | None = None


class Committed(msgspec.Struct, frozen=True):
    """A partition's committed offset with its note."""

    offset: int
    note: Note


class Start(msgspec.Struct, frozen=True):
    """Where to go on: fetch from `fetch`; `pending` first, when there is one, with all its records at or below `bound`.

    `lost`: how many offsets before `fetch` are gone unread. `why`: what a person should know about it, or "".
    `commit`: the offset is not the committed one and must be committed before anything else.
    """

    fetch: int
    pending: Range | None = None
    bound: int = -1
    lost: int = 0
    why: str = ""
    commit: bool = False


def write_note(note: Note) -> str:
    """As commit metadata. Raises ValueError where a broker would refuse it."""
    text = msgspec.json.encode(note).decode()
    if len(text) > METADATA_CHARACTERS:
        raise ValueError(f"the commit's metadata has {len(text)} characters; a broker takes {METADATA_CHARACTERS}")
    return text


def read_note(metadata: str | None) -> Note:
    """The inverse. Foreign metadata, such as another tool's reset of the group leaves, is an empty note."""
    try:
        return msgspec.json.decode(metadata or "{}", type=Note)
    except msgspec.MsgspecError:
        return Note()


def starting_point(partition: int, committed: Committed | None, topic_id: str, log_start: int, log_end: int) -> Start:
    """Decide where a partition goes on after an assignment. Offsets: `log_start` the first there is, `log_end` after the last.

    What cannot be known to be in is read (again): a row twice is one row to every report, a row missing is a lie.
    """
    if committed is None:
        return Start(log_start, commit=True)
    note = committed.note
    if note.topic_id and note.topic_id != topic_id:
        why = f"the topic was deleted and made again (its id was {note.topic_id}, and is {topic_id}): reading it from its beginning"
        return Start(log_start, commit=True, why=why)
    if committed.offset > log_end:
        why = (
            f"the group had read up to offset {committed.offset}, but the partition ends at {log_end}: its brokers lost records "
            "(an unclean election, or a restored copy); reading it again from its beginning, which changes no report"
        )
        return Start(log_start, commit=True, why=why)
    lost = max(0, log_start - committed.offset)
    if note.end is not None and note.end >= committed.offset:
        # Under the token of the whole range even where retention ate some of it: if it went in, this is dropped.
        pending = Range(partition, committed.offset, note.end)
        why = _lost(lost, committed.offset, log_start, " (the range was begun: what went in then counts)") if lost else ""
        return Start(max(committed.offset, log_start), pending, min(note.end, log_end - 1), lost, why)
    if lost:
        return Start(log_start, lost=lost, why=_lost(lost, committed.offset, log_start, ""), commit=True)
    return Start(committed.offset)


def _lost(lost: int, offset: int, log_start: int, more: str) -> str:
    return (
        f"{lost} offsets ({offset} to {log_start - 1}) were removed from the topic before they were read{more}: its retention is shorter "
        "than the sink's outage was; going on from the earliest there is. Raise retention_hours, or run the sink without such pauses"
    )
