"""Where Kafka is: `kafka://[user[:password]@]host:port[,host:port…]/[TOPIC]?option=value`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

import msgspec

from analytics.nearest import nearest

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
COMPRESSIONS = ("zstd", "lz4", "gzip", "none")
FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
NUMBERS = {"partitions": (1, 10_000), "replication_factor": (1, 15), "min_insync_replicas": (1, 15), "retention_hours": (1, 87_600)}
TOPICS = ("control_topic", "dead_letter_topic")
OPTIONS = ("security_protocol", "sasl_mechanism", "ssl_check_hostname", "group", "compression", *FILES, *NUMBERS, *TOPICS)
PASSWORD = "SALON_KAFKA_PASSWORD"
DEFAULT_TOPIC, DEFAULT_CONTROL_TOPIC, DEFAULT_GROUP, DEFAULT_COMPRESSION = "salon.events", "salon.control", "salon-sink", "zstd"
FORM = "write kafka://host:port[,host:port]/[TOPIC]?option=value"


class Secret(str):
    """A password that a printed dictionary of arguments does not show: kafka-python logs its own at level DEBUG."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class KafkaAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Brokers, topics and how to reach them. `shown` has no password, and so has what is printed of it.

    `arguments` are kafka-python's keywords for every client: bootstrap_servers and security. `retention_hours` is of the
    events and dead letters; the control topic is compacted and keeps everything current.
    """

    shown: str
    brokers: tuple[str, ...]
    topic: str = DEFAULT_TOPIC
    control_topic: str = DEFAULT_CONTROL_TOPIC
    dead_letter_topic: str = f"{DEFAULT_TOPIC}.dlq"
    group: str = DEFAULT_GROUP
    partitions: int = 12
    replication_factor: int = 1
    min_insync_replicas: int = 1
    retention_hours: int = 168
    compression: str = DEFAULT_COMPRESSION
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"KafkaAddress({self.shown!r})"

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return str(self.arguments["security_protocol"]).endswith("SSL")

    @property
    def sasl(self) -> bool:
        """Whether connections log in."""
        return str(self.arguments["security_protocol"]).startswith("SASL")


def parse_kafka(url: str, environ: Mapping[str, str], folder: Path = Path()) -> KafkaAddress:
    """Read a `kafka://` URL; opens nothing. The password may stand in $SALON_KAFKA_PASSWORD instead; files are relative to `folder`.

    Raises ValueError that names the option, its value and the fix, never the password.
    """
    scheme, _, rest = url.partition("://")
    if scheme != "kafka" or not rest:
        raise ValueError(f"[events] log is no kafka:// URL; {FORM}")
    head, _, query = rest.partition("?")
    authority, _, path = head.partition("/")
    if "@" in path or "@" in query or "#" in rest:
        # Whatever stands there may be the rest of a password, so it is not shown.
        raise ValueError(
            "[events] log = 'kafka://…': '@' or '#' after the brokers; write a password's own '/', '?', '#' and '@' as %2F, %3F, %23 "
            f"and %40, or leave it to ${PASSWORD}"
        )
    login, at, listed = authority.rpartition("@")
    brokers = tuple(_broker(part, number) for number, part in enumerate(listed.split(","), 1))
    shown = f"kafka://{','.join(brokers)}/{path}"
    options = _options(query, shown)
    topic = _topic(unquote(path), "the topic", shown) if path else DEFAULT_TOPIC
    numbers = {name: _number(name, options[name], shown) for name in NUMBERS if name in options}
    copies = numbers.get("replication_factor", 1)
    in_sync = numbers.setdefault("min_insync_replicas", 2 if copies >= 3 else 1)
    if in_sync > copies:
        _refuse(shown, "min_insync_replicas", in_sync, f"is more than replication_factor={copies}; with 3 copies take 2")
    names = {name: _topic(options[name], name, shown) for name in TOPICS if name in options}
    names = {"topic": topic, "control_topic": DEFAULT_CONTROL_TOPIC, "dead_letter_topic": f"{topic}.dlq"} | names
    if len(set(names.values())) < len(names):
        raise ValueError(f"[events] log {shown}: two of {names} are one topic; give each its own")
    group = options.get("group", DEFAULT_GROUP)
    if not group.strip() or not group.isprintable():
        _refuse(shown, "group", group, "write a name for the sinks that share the topic")
    return KafkaAddress(
        shown=f"kafka://{','.join(brokers)}/{names['topic']}",
        brokers=brokers,
        group=group,
        compression=_one_of("compression", options.get("compression", DEFAULT_COMPRESSION), COMPRESSIONS, shown),
        arguments={"bootstrap_servers": list(brokers), **_security(options, login if at else None, environ, folder, shown)},
        topic=topic,
        control_topic=names["control_topic"],
        dead_letter_topic=names["dead_letter_topic"],
        partitions=numbers.get("partitions", 12),
        replication_factor=copies,
        min_insync_replicas=in_sync,
        retention_hours=numbers.get("retention_hours", 168),
    )


def _options(query: str, shown: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"[events] log {shown}: unknown option {name!r}; {nearest(name, OPTIONS)}")
        if len([1 for key, _ in pairs if key == name]) > 1:
            raise ValueError(f"[events] log {shown}: the option {name} stands there twice; keep one")
    return options


def _broker(part: str, number: int) -> str:
    """`host:port`; without a port 9092. Anything else may be part of a password, so it is not shown."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", part)
    port = int(found[2] or 9092) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(f"[events] log = 'kafka://…': broker number {number} is not HOST:PORT with a port from 1 to 65535; {FORM}")
    return f"{found[1]}:{port}"


def _topic(name: str, option: str, shown: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        _refuse(shown, option, name, "Kafka takes letters, digits, '.', '_' and '-', at most 249")
    return name


def _number(name: str, value: str, shown: str) -> int:
    low, high = NUMBERS[name]
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        _refuse(shown, name, value, f"write a whole number from {low} to {high}")
    return int(value)


def _one_of(name: str, value: str, known: tuple[str, ...], shown: str) -> str:
    if value not in known:
        _refuse(shown, name, value, nearest(value, known))
    return value


def _security(options: Mapping[str, str], login: str | None, environ: Mapping[str, str], folder: Path, shown: str) -> dict[str, Any]:
    protocol = _one_of("security_protocol", options.get("security_protocol", "PLAINTEXT"), PROTOCOLS, shown)
    security: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        checked = _one_of("ssl_check_hostname", options.get("ssl_check_hostname", "true"), ("true", "false"), shown)
        security["ssl_check_hostname"] = checked == "true"
        for name in FILES:
            if options.get(name) == "":
                _refuse(shown, name, "", "name a PEM file")
            if name in options:
                security[name] = str(folder / options[name])
        if "ssl_keyfile" in security and "ssl_certfile" not in security:
            raise ValueError(f"[events] log {shown}: ssl_keyfile without ssl_certfile; name the certificate too")
    elif stray := [name for name in (*FILES, "ssl_check_hostname") if name in options]:
        _refuse(shown, stray[0], options[stray[0]], f"belongs to security_protocol=SSL or SASL_SSL, which is {protocol}")
    if not protocol.startswith("SASL"):
        if login is not None or "sasl_mechanism" in options:
            raise ValueError(f"[events] log {shown}: a user belongs to security_protocol=SASL_SSL or SASL_PLAINTEXT, which is {protocol}")
        return security
    user, colon, password = (login or "").partition(":")
    if not user:
        raise ValueError(f"[events] log {shown}: security_protocol={protocol} needs a user; write kafka://user@host:port")
    secret = unquote(password) if colon else environ.get(PASSWORD, "")
    if not secret:
        raise ValueError(f"[events] log {shown}: the user has no password; set ${PASSWORD}, or write kafka://user:password@host:port")
    user = unquote(user)
    if re.search(r"[,=]", user):
        _refuse(shown, "the user", user, "kafka-python sends ',' and '=' in a name wrongly; take another user")
    mechanism = _one_of("sasl_mechanism", options.get("sasl_mechanism", MECHANISMS[0]), MECHANISMS, shown)
    return security | {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": Secret(secret)}


def _refuse(shown: str, option: str, value: object, fix: str) -> NoReturn:
    raise ValueError(f"[events] log {shown}: {option} is {value!r}; {fix}")
