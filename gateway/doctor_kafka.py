"""`salon doctor` on Kafka: brokers, topics, the sinks' group, dead letters, the control topic."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin
from analytics.kafka.dead_letters import read_dead_letters, read_topic
from analytics.kafka.group_state import GroupState, PartitionReach, look_at_group
from analytics.kafka.probe import explain
from analytics.kafka.topics import TopicMissing, check_topics
from gateway.control_records import TOKEN_KEY, TokenKeyRecord, read_record
from gateway.findings import Finding, Wrong, check, for_how_long
from gateway.tokens import fingerprint

PROBE_SECONDS, LOOK_SECONDS = 3.0, 15.0
LATE_SECONDS = 120.0
SETTLED_STATES = ("Stable", "Empty", "Dead")
NAMED = 3
TOPIC_SETTINGS = ("retention.ms", "retention.bytes", "min.insync.replicas", "unclean.leader.election.enable")


def kafka_findings(address: KafkaAddress, token_key_path: Path, *, sink: str) -> Iterator[Finding]:
    """One finding for each part; those that need brokers or topics only where these are there. `sink`: what fills the warehouse."""
    reached = check("kafka", lambda: _brokers(address), LOOK_SECONDS)
    yield reached
    if not reached.ok:
        return
    missing: list[str] = []
    yield check("topics", lambda: _topics(address, missing), LOOK_SECONDS)
    if missing:
        return
    yield check("offsets", lambda: _offsets_retention(address), LOOK_SECONDS)
    yield check("sinks", lambda: group_line(look_at_group(address), address, sink, _now_ms()), LOOK_SECONDS)
    yield check("dead letters", lambda: _dead_letters(address), LOOK_SECONDS)
    yield check("control", lambda: _control(address, token_key_path), LOOK_SECONDS)


def _brokers(address: KafkaAddress) -> str:
    if reason := explain(address, PROBE_SECONDS):
        raise Wrong(reason)
    admin = open_admin(address)
    try:
        brokers = admin.describe_cluster()["brokers"]
    finally:
        admin.close()
    security = address.arguments["security_protocol"]
    return f"{len(brokers)} broker{'s' * (len(brokers) != 1)} at {address.shown} answer, {security}"


def _topics(address: KafkaAddress, missing: list[str]) -> str:
    try:
        facts = check_topics(address)
    except TopicMissing as error:
        missing.append(str(error))
        raise
    admin = open_admin(address)
    try:
        described = {each["name"]: each for each in admin.describe_topics(list(facts))}
        settings = {name: _settings(admin, ConfigResourceType.TOPIC, name, TOPIC_SETTINGS) for name in facts}
    finally:
        admin.close()
    troubles = [trouble for name in facts for trouble in topic_troubles(address, described[name], settings[name])]
    if troubles:
        raise Wrong("; ".join(troubles))
    events = described[address.topic]
    copies = min(len(each["replica_nodes"]) for each in events["partitions"])
    once = "; one copy: a broker's disk that is lost takes events along" if copies == 1 else ""
    return (
        f"{', '.join(facts)} are there; {address.topic}: {len(events['partitions'])} partitions x {copies}, "
        f"kept for {_kept(settings[address.topic])}, so sinks may be away for that long{once}"
    )


def topic_troubles(address: KafkaAddress, topic: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with one topic; `topic` as describe_topics says it, `settings` may be empty where we have no right to see them."""
    name, partitions = topic["name"], topic["partitions"]
    copies = min(len(each["replica_nodes"]) for each in partitions)
    needed = int(settings.get("min.insync.replicas", 1))
    leaderless = [each["partition_index"] for each in partitions if each["leader_id"] < 0]
    if leaderless:
        yield f"{name}: no broker leads partitions {leaderless}; start the brokers that hold them"
    elif short := [each["partition_index"] for each in partitions if len(each["isr_nodes"]) < needed]:
        yield f"{name}: partitions {short} have fewer than min.insync.replicas={needed} copies in step, so take no writes; start brokers"
    if needed > copies:
        yield f"{name}: min.insync.replicas={needed} is more than its {copies} copies: it takes no writes; set {max(1, copies - 1)}"
    elif needed == copies > 1:
        yield f"{name}: min.insync.replicas={needed} of {copies} copies: one broker that is away stops all writes; set {copies - 1}"
    if copies > 1 and settings.get("unclean.leader.election.enable") == "true":
        yield f"{name}: unclean.leader.election.enable=true loses acknowledged events when brokers fail; set false"
    kept_ms, wanted_ms = int(settings.get("retention.ms", -1)), address.retention_hours * 3_600_000
    if name != address.control_topic and 0 <= kept_ms < wanted_ms:
        yield (
            f"{name}: retention.ms={kept_ms} ({for_how_long(kept_ms / 1000)}) is less than retention_hours={address.retention_hours}; "
            f"run kafka-configs.sh --alter --topic {name} --add-config retention.ms={wanted_ms}"
        )
    if name == address.topic and int(settings.get("retention.bytes", -1)) >= 0:
        yield f"{name}: retention.bytes={settings['retention.bytes']} may remove events before their time, read or not; set -1"


def _offsets_retention(address: KafkaAddress) -> str:
    """Hole (d): with the group's offsets go the intents, and a range that was begun would be inserted under another token."""
    name, admin = "offsets.retention.minutes", open_admin(address)
    try:
        broker = str(admin.describe_cluster()["brokers"][0]["broker_id"])
        minutes = _settings(admin, ConfigResourceType.BROKER, broker, (name,)).get(name)
    finally:
        admin.close()
    if minutes is None:
        return f"{name} cannot be seen with our rights; it should be at least {address.retention_hours * 60}"
    if int(minutes) < address.retention_hours * 60:
        raise Wrong(
            f"the brokers forget where idle groups are after {name}={minutes} ({for_how_long(int(minutes) * 60)}), before events go "
            f"(retention_hours={address.retention_hours}): a sink that is away longer reads all again; set {address.retention_hours * 60}"
        )
    return f"where the sinks are is kept for {for_how_long(int(minutes) * 60)} after the last one left, at least as long as events"


def group_line(group: GroupState, address: KafkaAddress, sink: str, now_ms: int) -> str:
    """What to say of the group at `now_ms`. Raises Wrong."""
    lag = sum(each.lag_records for each in group.partitions)
    oldest = max((each.lag_seconds(now_ms) for each in group.partitions), default=0.0)
    who = f"group {address.group}: {len(group.members)} sink{'s' * (len(group.members) != 1)}"
    line = f"{who}, {lag} records behind" + (f", the oldest for {for_how_long(oldest)}{_where(group, now_ms)}" if lag else "")
    if strange := [each.partition for each in group.partitions if each.committed is not None and not group.readable(each)]:
        raise Wrong(
            f"{line}; the group's offsets of partitions {strange} belong to a topic that was deleted and made again, or to records that "
            f"the brokers lost; {sink} reads those from their beginning, which changes no report"
        )
    if lost := sum(each.lost for each in group.partitions):
        raise Wrong(
            f"{line}; Kafka has removed {lost} records before they were read, for the sinks were away longer than "
            f"retention_hours={address.retention_hours}: those events are lost to reports; raise it, and run {sink}"
        )
    if not group.members and lag:
        raise Wrong(f"{line}; nobody reads: start {sink}. Kafka keeps records for {address.retention_hours} h")
    orphans = [each.partition for each in group.partitions if each.owner is None]
    if orphans and group.members and group.state == "Stable":
        raise Wrong(f"{line}; partitions {orphans} have no sink, though there are some; restart them")
    if oldest > LATE_SECONDS:
        reason = "members come and go" if group.state not in SETTLED_STATES else "they are slower than what comes, or the warehouse refuses"
        raise Wrong(f"{line}; {reason}: see what {sink} says, or start more (at most one for each of {len(group.partitions)} partitions)")
    return line + ("" if group.members else f"; nobody reads, and nothing waits; start {sink}")


def _where(group: GroupState, now_ms: int) -> str:
    worst: list[PartitionReach] = sorted((e for e in group.partitions if e.lag_records), key=lambda e: -e.lag_records)[:NAMED]
    return " (" + ", ".join(f"partition {e.partition}: {e.lag_records}, {for_how_long(e.lag_seconds(now_ms))}" for e in worst) + ")"


def _dead_letters(address: KafkaAddress) -> str:
    letters = read_dead_letters(address)
    waiting = [letter for letter in letters if letter.sent_at is None]
    if waiting:
        first = waiting[0]
        raise Wrong(
            f"{len(waiting)} in {address.dead_letter_topic}, the first from {first.origin} at {first.set_aside_at:%Y-%m-%dT%H:%M:%SZ}: "
            f"{first.error}; look at them with `salon replay list`, send them again with `salon replay send`"
        )
    return f"none in {address.dead_letter_topic}" + (f"; {len(letters)} were sent again" if letters else "")


def _control(address: KafkaAddress, token_key_path: Path) -> str:
    last: dict[bytes, bytes | None] = {}
    for record in read_topic(address, address.control_topic):
        last[record.key or b""] = record.value
    records = {key: read_record(key, value) for key, value in last.items() if value}
    experiments = sum(1 for key in records if key.startswith(b"experiment:"))
    line = f"{address.control_topic} knows {experiments} experiments"
    shared = records.get(TOKEN_KEY.encode())
    if not isinstance(shared, TokenKeyRecord):
        return f"{line}, and no token key yet; the first gateway writes its fingerprint"
    if not token_key_path.exists():
        raise Wrong(f"{line}; the gateways' token key is {shared.fingerprint}, and there is none at {token_key_path}: copy theirs there")
    if (ours := fingerprint(token_key_path.read_bytes())) != shared.fingerprint:
        raise Wrong(
            f"{line}; this gateway's token key is {ours}, the other gateways' {shared.fingerprint}: each refuses the feedback tokens of "
            "the other; give all of them one file, [gateway] token_key"
        )
    return f"{line}; this gateway has their token key ({ours})"


def _settings(admin: KafkaAdminClient, kind: ConfigResourceType, name: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """Empty where we may not see them."""
    try:
        found = admin.describe_configs([ConfigResource(kind, name, list(wanted))], config_filter="all")
    except KafkaError:
        return {}
    (named,) = found.values()
    return {key: str(each["value"]) for key, each in named.get(name, {}).items() if each["value"] is not None}


def _kept(settings: Mapping[str, str]) -> str:
    kept_ms = int(settings.get("retention.ms", -1))
    return for_how_long(kept_ms / 1000) if kept_ms >= 0 else "ever"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
