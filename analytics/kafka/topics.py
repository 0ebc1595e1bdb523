"""The topics that Salon needs: made when they are missing, never changed, and compared with the settings by name and number."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, for_code

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin, unreachable

UNKNOWN_TOPIC, NO_LEADER, NOT_ALLOWED, EXISTS, TOO_FEW_BROKERS = 3, 5, 29, 36, 38
VISIBLE_SECONDS = 15.0


class TopicMissing(OSError):
    """A topic is not there; the text names it and the fix."""


class TopicDiffers(OSError):
    """A topic is there with other settings than the configuration's; the text says both and the fix."""


class TopicFacts(msgspec.Struct, frozen=True):
    """A topic as the cluster has it. `topic_id` is another one after the topic was deleted and made again."""

    name: str
    topic_id: str
    partitions: int


def ensure_topics(address: KafkaAddress) -> list[str]:
    """Create the topics that are missing and return their names; then `check_topics`. Raises as that does, and OSError when refused."""
    wanted = _wanted(address)
    with _admin(address) as admin:
        there = _described(admin, address, wanted)
        created = [name for name, shape in wanted.items() if name not in there and _create(admin, address, name, shape)]
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        try:
            check_topics(address)
            return created
        except TopicMissing:
            # Each broker hears of a new topic in its own time.
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def check_topics(address: KafkaAddress) -> dict[str, TopicFacts]:
    """The facts of events, dead letters and control, by topic name. Raises TopicMissing, TopicDiffers, BrokerUnreachable (all OSError)."""
    names = (address.topic, address.dead_letter_topic, address.control_topic)
    with _admin(address) as admin:
        there = _described(admin, address, names)
        facts = {}
        for name in names:
            if name not in there:
                raise _missing(address, name)
            topic = there[name]
            facts[name] = TopicFacts(name, str(topic["topic_id"]), len(topic["partitions"]))
        cleanup = _cleanup_policy(admin, address)
    _compare(address, facts, cleanup)
    return facts


def topic_id(address: KafkaAddress, name: str) -> str:
    """The id that topic `name` has now. Raises TopicMissing, BrokerUnreachable."""
    with _admin(address) as admin:
        there = _described(admin, address, [name])
    if name not in there:
        raise _missing(address, name)
    return str(there[name]["topic_id"])


def _missing(address: KafkaAddress, name: str) -> TopicMissing:
    return TopicMissing(f"Kafka at {address.shown} has no topic {name!r}; run `salon migrate`, which makes it")


def check_control(address: KafkaAddress) -> TopicFacts:
    """The facts of the control topic alone, whatever the others are like. Raises TopicMissing, TopicDiffers, BrokerUnreachable."""
    name = address.control_topic
    with _admin(address) as admin:
        there = _described(admin, address, [name])
        if name not in there:
            raise _missing(address, name)
        cleanup = _cleanup_policy(admin, address)
    facts = TopicFacts(name, str(there[name]["topic_id"]), len(there[name]["partitions"]))
    _compare_control(facts, cleanup)
    return facts


def _compare(address: KafkaAddress, facts: dict[str, TopicFacts], cleanup: str) -> None:
    there, wanted = facts[address.topic].partitions, address.partitions
    if there != wanted:
        more = f", or add some (kafka-topics.sh --alter --topic {address.topic} --partitions {wanted})" if there < wanted else ""
        raise TopicDiffers(
            f"topic {address.topic!r} has {there} partitions and the configuration says partitions={wanted}; "
            f"set partitions={there} in [events] log{more}"
        )
    _compare_control(facts[address.control_topic], cleanup)


def _compare_control(control: TopicFacts, cleanup: str) -> None:
    if control.partitions != 1:
        raise TopicDiffers(
            f"topic {control.name!r} has {control.partitions} partitions and needs exactly 1, for its records have one order; "
            "name another one with control_topic=… and run `salon migrate`"
        )
    if cleanup != "compact":
        raise TopicDiffers(
            f"topic {control.name!r} has cleanup.policy={cleanup} and needs compact, else Kafka forgets how experiments stand; "
            f"run kafka-configs.sh --alter --topic {control.name} --add-config cleanup.policy=compact"
        )


def _wanted(address: KafkaAddress) -> dict[str, dict[str, Any]]:
    """What kafka-python's create_topics takes, by topic name."""
    kept = {"cleanup.policy": "delete", "retention.ms": str(address.retention_hours * 3_600_000)}
    shapes = {
        address.topic: (address.partitions, kept),
        address.dead_letter_topic: (1, kept),
        # For a week a gateway that died between the topic and its spool still finds there what it had written.
        address.control_topic: (1, {"cleanup.policy": "compact", "min.compaction.lag.ms": str(7 * 24 * 3_600_000)}),
    }
    in_sync = {"min.insync.replicas": str(address.min_insync_replicas)}
    return {
        name: {"num_partitions": partitions, "replication_factor": address.replication_factor, "configs": in_sync | configs}
        for name, (partitions, configs) in shapes.items()
    }


def _create(admin: KafkaAdminClient, address: KafkaAddress, name: str, shape: dict[str, Any]) -> bool:
    """Whether we made it: another migration may have been faster."""
    (answer,) = admin.create_topics({name: shape}, raise_errors=False)["topics"]
    code = answer["error_code"]
    if code in (0, EXISTS):
        return bool(code == 0)
    if code == TOO_FEW_BROKERS:
        reason = (
            f"replication_factor={address.replication_factor} needs as many brokers, and it has fewer; start more, or set a smaller one"
        )
    elif code == NOT_ALLOWED:
        reason = "the user may not create topics; give it CREATE on the cluster, or have them created by somebody who may"
    else:
        reason = answer["error_message"] or for_code(code).__name__
    raise OSError(f"Kafka at {address.shown} refuses to create topic {name!r}: {reason}")


def _described(admin: KafkaAdminClient, address: KafkaAddress, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Those of `names` that are there. Raises OSError for one that we may not see."""
    found = {}
    for topic in admin.describe_topics(list(names)):
        code = topic["error_code"]
        if code == NOT_ALLOWED:
            raise OSError(
                f"Kafka at {address.shown}: the user may not see topic {topic['name']!r}; give it DESCRIBE on it, and CREATE to make it"
            )
        if code not in (0, UNKNOWN_TOPIC, NO_LEADER):
            raise OSError(f"Kafka at {address.shown} says of topic {topic['name']!r}: {for_code(code).__name__}")
        if code != UNKNOWN_TOPIC:
            found[topic["name"]] = topic
    return found


def _cleanup_policy(admin: KafkaAdminClient, address: KafkaAddress) -> str:
    topic = address.control_topic
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, ["cleanup.policy"])], config_filter="all")
    setting = found.get("topic", {}).get(topic, {}).get("cleanup.policy")
    # kafka-python leaves out what it was refused.
    if setting is None:
        fix = "give it DESCRIBE_CONFIGS on the topic"
        raise OSError(f"Kafka at {address.shown}: the user may not read the settings of topic {topic!r}; {fix}")
    return str(setting["value"])


@contextmanager
def _admin(address: KafkaAddress) -> Iterator[KafkaAdminClient]:
    """A client for one look; what breaks in it leaves as BrokerUnreachable."""
    client = open_admin(address)
    try:
        yield client
    # It says so with a RuntimeError when it finds no controller.
    except (KafkaError, RuntimeError) as error:
        raise unreachable(address, error) from error
    finally:
        client.close()
