"""kafka:// addresses: what each part means, what is refused and with which words, and that no password is ever shown."""

import re
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.kafka.address import OPTIONS, KafkaAddress, Secret, parse_kafka
from analytics.settings import Document, EventsSettings, SettingsError, analytics_settings

SASL = "security_protocol=SASL_SSL"


def test_what_stands_alone_gets_the_defaults() -> None:
    address = parse_kafka("kafka://broker:9092", {})
    assert address == KafkaAddress(
        shown="kafka://broker:9092/salon.events",
        brokers=("broker:9092",),
        topic="salon.events",
        control_topic="salon.control",
        dead_letter_topic="salon.events.dlq",
        group="salon-sink",
        partitions=12,
        replication_factor=1,
        min_insync_replicas=1,
        retention_hours=168,
        compression="zstd",
        arguments={"bootstrap_servers": ["broker:9092"], "security_protocol": "PLAINTEXT"},
    )
    assert not address.tls and not address.sasl


def test_every_part_can_be_said(tmp_path: Path) -> None:
    url = (
        "kafka://app:s%2Fe%40cret@b1:9092,b2,[::1]:9094/shop.events?security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-256"
        "&ssl_cafile=ca.pem&ssl_certfile=/etc/me.pem&ssl_keyfile=me.key&ssl_check_hostname=false&control_topic=c&group=g"
        "&partitions=24&replication_factor=3&retention_hours=24&compression=none"
    )
    address = parse_kafka(url, {"SALON_KAFKA_PASSWORD": "another"}, tmp_path)
    assert address.brokers == ("b1:9092", "b2:9092", "[::1]:9094")
    assert (address.topic, address.control_topic, address.dead_letter_topic, address.group) == ("shop.events", "c", "shop.events.dlq", "g")
    assert (address.partitions, address.replication_factor, address.min_insync_replicas, address.retention_hours) == (24, 3, 2, 24)
    assert address.tls and address.sasl and address.compression == "none"
    assert address.arguments == {
        "bootstrap_servers": ["b1:9092", "b2:9092", "[::1]:9094"],
        "security_protocol": "SASL_SSL",
        "ssl_check_hostname": False,
        "ssl_cafile": str(tmp_path / "ca.pem"),
        "ssl_certfile": "/etc/me.pem",
        "ssl_keyfile": str(tmp_path / "me.key"),
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "app",
        "sasl_plain_password": "s/e@cret",
    }


def test_the_password_may_stand_in_the_environment() -> None:
    address = parse_kafka(f"kafka://app@b:1/?{SASL}", {"SALON_KAFKA_PASSWORD": "from outside"})
    assert address.arguments["sasl_plain_password"] == "from outside"
    assert address.arguments["sasl_mechanism"] == "SCRAM-SHA-512"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka:b:9092", "no kafka:// URL; write kafka://host:port"),
        ("kafka://", "no kafka:// URL"),
        ("kafka:///topic", "broker number 1 is not HOST:PORT"),
        ("kafka://a:1,b:2:3/", "broker number 2 is not HOST:PORT"),
        ("kafka://a:0/", "port from 1 to 65535"),
        ("kafka://a:65536/", "port from 1 to 65535"),
        ("kafka://a/t?partition=3", "unknown option 'partition'; did you mean 'partitions'"),
        ("kafka://a/t?partitions=3&partitions=4", "the option partitions stands there twice; keep one"),
        ("kafka://a/t?partitions=many", "partitions is 'many'; write a whole number from 1 to 10000"),
        ("kafka://a/t?partitions=0", "partitions is '0'"),
        ("kafka://a/t?retention_hours=1.5", "retention_hours is '1.5'"),
        ("kafka://a/t?min_insync_replicas=2", "min_insync_replicas is 2; is more than replication_factor=1"),
        ("kafka://a/two%20words", "the topic is 'two words'; Kafka takes letters"),
        ("kafka://a/t?control_topic=a/b", "control_topic is 'a/b'; Kafka takes letters"),
        ("kafka://a/t?control_topic=t", "are one topic; give each its own"),
        ("kafka://a/t?group=", "group is ''; write a name"),
        ("kafka://a/t?compression=zstdd", "compression is 'zstdd'; did you mean 'zstd'"),
        ("kafka://a/t?security_protocol=TLS", "security_protocol is 'TLS'; known: PLAINTEXT, SASL_PLAINTEXT, SASL_SSL, SSL"),
        ("kafka://a/t?ssl_cafile=ca.pem", "ssl_cafile is 'ca.pem'; belongs to security_protocol=SSL or SASL_SSL, which is PLAINTEXT"),
        ("kafka://a/t?security_protocol=SSL&ssl_cafile=", "ssl_cafile is ''; name a PEM file"),
        ("kafka://a/t?security_protocol=SSL&ssl_keyfile=k", "ssl_keyfile without ssl_certfile"),
        ("kafka://a/t?security_protocol=SSL&ssl_check_hostname=no", "ssl_check_hostname is 'no'"),
        ("kafka://u:p@a/t", "a user belongs to security_protocol=SASL_SSL or SASL_PLAINTEXT, which is PLAINTEXT"),
        (f"kafka://a/t?{SASL}", "security_protocol=SASL_SSL needs a user"),
        (f"kafka://u@a/t?{SASL}", r"the user has no password; set \$SALON_KAFKA_PASSWORD"),
        (f"kafka://u%2C:p@a/t?{SASL}", "the user is 'u,'"),
        (f"kafka://u:p@a/t?{SASL}&sasl_mechanism=GSSAPI", "sasl_mechanism is 'GSSAPI'; known: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
    ],
)
def test_what_cannot_be_is_refused_with_option_value_and_fix(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_kafka(url, {})


@given(st.text(min_size=1, max_size=30), st.sampled_from([SASL, "", "partitions=x", "x=y", "security_protocol=SASL_PLAINTEXT"]))
def test_any_password_arrives_whole_when_it_is_percent_encoded(password: str, options: str) -> None:
    secret = "hunter2" + password
    try:
        address = parse_kafka(f"kafka://app:{quote(secret, safe='')}@b:9092/t?{options}", {})
    except ValueError as refusal:
        assert "hunter2" not in str(refusal)
    else:
        assert address.arguments["sasl_plain_password"] == secret


@given(st.text(alphabet="hunter2/?#@:,%&= \n", max_size=20), st.booleans())
def test_a_password_that_was_not_encoded_is_not_shown_either(mess: str, before: bool) -> None:
    """Whatever a raw '/', '?', '#' or '@' does to the URL: every refusal keeps quiet about what may be the password."""
    secret = f"{mess}Zhunter2" if before else f"Zhunter2{mess}"
    try:
        shown = repr(parse_kafka(f"kafka://app:{secret}@b:9092/t?{SASL}", {}))
    except ValueError as refusal:
        shown = str(refusal)
    assert "Zhunter2" not in shown


def test_a_secret_is_not_in_what_is_printed_of_it() -> None:
    address = parse_kafka(f"kafka://app:hunter2@b:9092/?{SASL}", {})
    events = EventsSettings(log=address.shown, spool=Path("s"), spool_max_bytes=1, spool_max_age_hours=1, kafka=address)
    for shown in (repr(address), str(address), f"{address.arguments}", "%s" % address.arguments, repr(events), repr([Secret("hunter2")])):  # noqa: UP031
        assert "hunter2" not in shown
    assert address.arguments["sasl_plain_password"].encode() == b"hunter2"


def read(text: str, environ: dict[str, str] | None = None) -> EventsSettings:
    return analytics_settings(Document(Path("/etc/salon/salon.toml"), text, environ or {})).events


def test_the_configuration_names_kafka_and_its_spool() -> None:
    url = f"kafka://app@b:9092/?{SASL}&ssl_cafile=ca.pem"
    events = read(f'[events]\nlog = "{url}"\nspool = "data/spool"\nspool_max_bytes = 1_000_000', {"SALON_KAFKA_PASSWORD": "hunter2"})
    assert events.log == "kafka://b:9092/salon.events"
    assert (events.spool, events.spool_max_bytes, events.spool_max_age_hours) == (Path("/etc/salon/data/spool"), 1_000_000, 72)
    assert events.kafka is not None
    assert events.kafka.arguments["ssl_cafile"] == "/etc/salon/ca.pem"
    assert events.kafka.arguments["sasl_plain_password"] == "hunter2"
    assert read("").kafka is None
    assert read("").log == "local:/etc/salon/var/events"
    from_environment = read("", {"SALON_EVENTS__LOG": "kafka://b:1/x"})
    assert from_environment.kafka is not None and from_environment.kafka.topic == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[events]\nlog = "kafka://b:1/?partition=3"', "salon.toml:2: events.log: .*did you mean 'partitions'"),
        (f'[events]\nlog = "kafka://app:hunter2@b:1/?{SASL}&group="', "salon.toml:2: events.log: .*group is ''"),
        ('[events]\nspol = "x"', "salon.toml:2: events.spol: unknown name 'spol'; did you mean 'spool'"),
        ('[events]\nspool = "x"', r"salon.toml:2: events.spool: .*the log is local; leave it out, or set log = .kafka"),
        ("[events]\nspool_max_bytes = 1000000", "salon.toml:2: events.spool_max_bytes: .*the log is local"),
        ('[events]\nlog = "kafka://b"\nspool_max_bytes = 10', "salon.toml:3: events.spool_max_bytes: 10: Expected `int` >= 262144"),
        ('[events]\nlog = "kafka://b"\nspool_max_age_hours = 0', "salon.toml:3: events.spool_max_age_hours: 0: Expected `float` > 0"),
        ('[events]\nlog = "kafka://b"\nspool = ""', "salon.toml:3: events.spool: is empty"),
    ],
)
def test_the_configuration_is_refused_with_file_line_and_fix(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refusal:
        read(text)
    assert "hunter2" not in str(refusal.value)


def test_every_option_is_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs/kafka.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) >= set(OPTIONS)
    for field in msgspec.structs.fields(KafkaAddress):
        if field.name in OPTIONS and field.name not in ("min_insync_replicas", "dead_letter_topic"):
            row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` |"))
            assert f"| `{field.default}` |" in row
