"""Clients of Kafka, opened alike everywhere: nothing is committed by itself, nothing is made by itself, and errors say why."""

import logging
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from analytics.kafka.address import KafkaAddress
from analytics.kafka.checksum import use_c_checksum
from analytics.kafka.probe import explain
from analytics.kafka.tls import make_context

BOOTSTRAP_MS = 5_000
COMMON = {
    "bootstrap_timeout_ms": BOOTSTRAP_MS,
    # 30 s by default: a broker that is back would wait that long for us.
    "reconnect_backoff_max_ms": 500,
    # 30 s by default: that long a stopped broker holds what it took.
    "request_timeout_ms": 10_000,
    "metadata_max_age_ms": 30_000,
}
PRODUCER = {
    "acks": "all",
    "enable_idempotence": True,
    "delivery_timeout_ms": 120_000,
    "max_block_ms": 10_000,
    "linger_ms": 20,
    "batch_size": 256 * 1024,
    "allow_auto_create_topics": False,
}
CONSUMER = {
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    # Never a silent jump over what is gone, or back over what was read.
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    # 45 s by default: that long nobody reads the partitions of a killed sink.
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 2_000,
}


class BrokerUnreachable(OSError):
    """No broker of an address serves us; the text names the broker, the reason and the fix."""


def open_producer(address: KafkaAddress, **options: Any) -> KafkaProducer:
    """An idempotent producer with acks=all; `options` are kafka-python's and win. Raises BrokerUnreachable within about 10 s."""
    compression = None if address.compression == "none" else address.compression
    return _open(KafkaProducer, address, PRODUCER | {"compression_type": compression} | options)


def open_consumer(address: KafkaAddress, *, group: str | None, **options: Any) -> KafkaConsumer:
    """A consumer without subscription that commits only when told; `options` are kafka-python's and win. Raises BrokerUnreachable.

    Without a committed offset, and where retention took it, `poll` raises kafka-python's NoOffsetForPartitionError and
    OffsetOutOfRangeError: say `auto_offset_reset` otherwise, or seek.
    """
    return _open(KafkaConsumer, address, CONSUMER | {"group_id": group} | options)


def open_admin(address: KafkaAddress, **options: Any) -> KafkaAdminClient:
    """An admin client. Raises BrokerUnreachable within about 10 s."""
    return _open(KafkaAdminClient, address, options)


def unreachable(address: KafkaAddress, error: BaseException) -> BrokerUnreachable:
    """The error to raise where a client failed with `error`: what our own look at the brokers finds, else what the client said."""
    return BrokerUnreachable(explain(address) or f"Kafka at {','.join(address.brokers)}: {str(error) or type(error).__name__}")


def _open(kind: Any, address: KafkaAddress, options: dict[str, Any]) -> Any:
    _hide_logins()
    use_c_checksum()
    try:
        # Made here, so that a file that cannot be used is said at once, and no key's pass phrase is asked for on a terminal.
        tls = {"ssl_context": make_context(address.arguments)} if address.tls else {}
        return kind(**(COMMON | address.arguments | tls | options))
    # A broker that speaks another protocol ends in a ValueError.
    except (KafkaError, OSError, ValueError) as error:
        # Not chained: kafka-python's own text is the vaguer one.
        raise unreachable(address, error) from None


def _hide_logins() -> None:
    """At level DEBUG kafka-python logs every request, once more as bytes, and a PLAIN login holds the password."""
    for name in ("kafka.net.connection", "kafka.protocol.parser"):
        logger = logging.getLogger(name)
        if _is_no_login not in logger.filters:
            logger.addFilter(_is_no_login)


def _is_no_login(record: logging.LogRecord) -> bool:
    if record.levelno > logging.DEBUG:
        return True
    return record.name != "kafka.protocol.parser" and "SaslAuthenticateRequest" not in record.getMessage()
