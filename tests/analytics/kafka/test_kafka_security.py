"""TLS, logins and what is said when they are wrong: one real broker with a listener for each mistake, and our own sockets."""

import contextlib
import datetime
import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka import TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from local_kafka import LocalKafka

from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.clients import BrokerUnreachable, open_admin, open_consumer, open_producer
from analytics.kafka.probe import explain
from analytics.kafka.topics import check_topics, ensure_topics

PASSWORD = "correct-horse"
WRONG = "hunter2-wrong"
SASL = "security_protocol=SASL_SSL"
PLAIN_LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_app="{PASSWORD}";'


class Place:
    """A broker with certificates: CLIENT is SASL_SSL, the others TLS alone."""

    def __init__(self, folder: Path) -> None:
        self.ca, stranger = trustme.CA(), trustme.CA()
        long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        certificates = {
            "client": self.ca.issue_cert("127.0.0.1"),
            "expired": self.ca.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago + datetime.timedelta(days=1)),
            "mutual": self.ca.issue_cert("127.0.0.1"),
            "app": self.ca.issue_cert("app@salon.example"),
            "stranger": stranger.issue_cert("app@salon.example"),
        }
        self.files = {name: folder / f"{name}.pem" for name in (*certificates, "ca", "other-ca", "locked")}
        for name, certificate in certificates.items():
            # Java wants PKCS 8; trustme writes the key in the older form.
            key = to_pkcs8(certificate.private_key_pem.bytes())
            self.files[name].write_bytes(key + b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        app = load_pem_private_key(certificates["app"].private_key_pem.bytes(), None)
        locked = app.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass phrase"))
        self.files["locked"].write_bytes(locked + certificates["app"].cert_chain_pems[0].bytes())
        self.files["ca"].write_bytes(self.ca.cert_pem.bytes())
        self.files["other-ca"].write_bytes(stranger.cert_pem.bytes())
        self.kafka = LocalKafka(
            folder / "cluster",
            tls=self.files["client"],
            scram={"app": PASSWORD, "guest": PASSWORD},
            more_tls={"expired": self.files["expired"], "mutual": self.files["mutual"]},
            settings={
                "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
                "listener.name.client.plain.sasl.jaas.config": PLAIN_LOGIN,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:app;User:ANONYMOUS;User:CN=",
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.mutual.ssl.truststore.type": "PEM",
                "listener.name.mutual.ssl.truststore.location": str(self.files["ca"]),
            },
        ).start()

    def address(self, options: str, *, listener: str = "CLIENT", login: str = "", ca: str = "ca", host: str = "") -> KafkaAddress:
        where = self.kafka.bootstrap_of(listener)
        where = where.replace("127.0.0.1", host) if host else where
        files = f"&ssl_cafile={self.files[ca]}" if ca and "SSL" in options else ""
        return parse_kafka(f"kafka://{login}{where}/secured?control_topic=secured.control&partitions=2&{options}{files}", {})


def to_pkcs8(pem: bytes) -> bytes:
    return load_pem_private_key(pem, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def place(kafka_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("secured"))
    try:
        yield made
    finally:
        made.kafka.kill()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_tls_and_a_login_carry_events_and_nothing_shows_the_password(
    place: Place, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = place.address(f"{SASL}&sasl_mechanism={mechanism}", login=f"app:{PASSWORD}@")
    with caplog.at_level(logging.DEBUG, logger="kafka"):
        assert explain(address) is None
        ensure_topics(address)
        producer = open_producer(address)
        sent = producer.send(address.topic, key=b"unit", value=mechanism.encode()).get(10)
        producer.close()
        consumer = open_consumer(address, group=None)
        at = TopicPartition(address.topic, sent.partition)
        consumer.assign([at])
        consumer.seek(at, sent.offset)
        deadline, records = time.monotonic() + 15, []
        while not records and time.monotonic() < deadline:
            records = consumer.poll(500).get(at, [])
        consumer.close()
        open_admin(address).close()
    assert [(record.key, record.value) for record in records] == [(b"unit", mechanism.encode())]
    assert len(caplog.records) > 20
    assert PASSWORD not in caplog.text


CASES = {
    "wrong password": ({"options": SASL, "login": f"app:{WRONG}@"}, r"refuses the password of user 'app'; check \$SALON_KAFKA_PASSWORD"),
    "unknown user": ({"options": SASL, "login": f"ape:{WRONG}@"}, "knows no user 'ape' for SCRAM-SHA-512"),
    "wrong password, plain": (
        {"options": f"{SASL}&sasl_mechanism=PLAIN", "login": f"app:{WRONG}@"},
        "refuses the login of user 'app' by PLAIN: wrong password, or no such user",
    ),
    "mechanism": (
        {"options": f"{SASL}&sasl_mechanism=SCRAM-SHA-256", "login": f"app:{WRONG}@"},
        "does not support sasl_mechanism=SCRAM-SHA-256; it has PLAIN, SCRAM-SHA-512",
    ),
    "no login": ({"options": "security_protocol=SSL"}, "wants a login; write kafka://user@host:port with security_protocol=SASL_SSL"),
    "login where none is": (
        {"options": "security_protocol=SASL_PLAINTEXT", "login": f"app:{WRONG}@", "listener": "INTERNAL"},
        "takes no login on this port; take its SASL port, or set security_protocol=PLAINTEXT",
    ),
    "unknown CA": (
        {"options": SASL, "login": f"app:{WRONG}@", "ca": "other-ca"},
        "is from an unknown CA, one that is not in ssl_cafile=.*other-ca.pem; set ssl_cafile",
    ),
    "no CA": ({"options": SASL, "login": f"app:{WRONG}@", "ca": ""}, "from an unknown CA, one that is not in this machine's list"),
    "expired": ({"options": "security_protocol=SSL", "listener": "EXPIRED"}, "its TLS certificate has expired; renew it on the broker"),
    "host name": ({"options": SASL, "login": f"app:{WRONG}@", "host": "localhost"}, "is not for the host name 'localhost'"),
    "plaintext to TLS": ({"options": "", "listener": "EXPIRED"}, "this port speaks TLS, and we do not; set security_protocol=SSL"),
    "plaintext login to TLS": (
        {"options": "security_protocol=SASL_PLAINTEXT", "login": f"app:{WRONG}@"},
        "this port speaks TLS, and we do not; set security_protocol=SASL_SSL",
    ),
    "TLS to plaintext": (
        {"options": "security_protocol=SSL", "listener": "INTERNAL"},
        "this port speaks plaintext, not TLS; take the broker's TLS port, or set security_protocol=PLAINTEXT",
    ),
    "our certificate is wanted": (
        {"options": "security_protocol=SSL", "listener": "MUTUAL"},
        "wants a certificate of ours; set ssl_certfile",
    ),
    "CA file": ({"options": "security_protocol=SSL&ssl_cafile=/no/such.pem", "ca": ""}, "ssl_cafile=/no/such.pem cannot be read"),
    "no CA in the file": ({"options": "security_protocol=SSL&ssl_cafile=/etc/passwd", "ca": ""}, "ssl_cafile=/etc/passwd holds nothing"),
    "controller": ({"options": "", "listener": "CONTROLLER"}, "this port is a controller's, not a broker's"),
    "name": ({"options": "", "listener": "INTERNAL", "host": "broker.invalid"}, "the host name 'broker.invalid' is not known here"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_each_mistake_is_named_with_its_fix(place: Place, case: str) -> None:
    arguments, said = CASES[case]
    address = place.address(**arguments)
    found = explain(address)
    assert found is not None and found.startswith(f"Kafka broker {address.brokers[0]}: ")
    assert re.search(said, found), found
    assert WRONG not in found


@pytest.mark.parametrize("case", ["wrong password", "expired", "CA file"])
def test_a_client_that_cannot_start_says_the_same(place: Place, case: str, caplog: pytest.LogCaptureFixture) -> None:
    arguments, said = CASES[case]
    began = time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(BrokerUnreachable, match=said) as refusal:
        open_producer(place.address(**arguments), bootstrap_timeout_ms=1000)
    assert time.monotonic() - began < 8
    assert WRONG not in str(refusal.value) and WRONG not in caplog.text


def test_our_own_certificate_lets_us_in_and_a_strangers_does_not(place: Place) -> None:
    ours = f"security_protocol=SSL&ssl_certfile={place.files['app']}"
    assert explain(place.address(ours, listener="MUTUAL")) is None
    open_producer(place.address(ours, listener="MUTUAL")).close()
    strange = explain(place.address(f"security_protocol=SSL&ssl_certfile={place.files['stranger']}", listener="MUTUAL"))
    assert strange is not None and "refuses our certificate; check ssl_certfile" in strange
    with pytest.raises(BrokerUnreachable, match=r"locked\.pem holds nothing that TLS can use"):
        open_admin(place.address(f"security_protocol=SSL&ssl_certfile={place.files['locked']}", listener="MUTUAL"))
    keyless = explain(place.address(f"security_protocol=SSL&ssl_certfile={place.files['ca']}", listener="MUTUAL"))
    assert keyless is not None and f"ssl_certfile={place.files['ca']} holds nothing that TLS can use" in keyless


def test_a_user_without_rights_is_told_which_are_missing(place: Place) -> None:
    """First none, then those that docs/kafka.md names for a gateway and a sink."""
    address = place.address(SASL, login=f"guest:{PASSWORD}@")
    ensure_topics(place.address(SASL, login=f"app:{PASSWORD}@"))
    assert explain(address) is None
    with pytest.raises(OSError, match=r"the user may not see topic 'secured.*'; give it DESCRIBE on it, and CREATE to make it"):
        check_topics(address)
    with contextlib.closing(open_admin(place.address(SASL, login=f"app:{PASSWORD}@"))) as admin:
        grant(admin, ResourceType.TOPIC, [address.topic, address.dead_letter_topic, address.control_topic], ["DESCRIBE"])
        with pytest.raises(OSError, match=r"the user may not read the settings of topic 'secured\.control'; give it DESCRIBE_CONFIGS"):
            check_topics(address)
        grant(admin, ResourceType.TOPIC, [address.control_topic], ["READ", "WRITE", "DESCRIBE_CONFIGS"])
        grant(admin, ResourceType.TOPIC, [address.topic], ["READ", "WRITE"])
        grant(admin, ResourceType.TOPIC, [address.dead_letter_topic], ["WRITE"])
        grant(admin, ResourceType.GROUP, [address.group], ["READ"])
        grant(admin, ResourceType.TOPIC, ["more"], ["DESCRIBE"])
    assert len(check_topics(address)) == 3
    with pytest.raises(OSError, match="refuses to create topic 'more': the user may not create topics; give it CREATE on the cluster"):
        ensure_topics(msgspec.structs.replace(address, topic="more"))
    with contextlib.closing(open_producer(address)) as producer:
        for name in (address.topic, address.dead_letter_topic, address.control_topic):
            producer.send(name, b"allowed", key=b"kept").get(10)
    with contextlib.closing(open_consumer(address, group=address.group, auto_offset_reset="earliest")) as consumer:
        consumer.subscribe([address.topic])
        deadline, seen = time.monotonic() + 15, 0
        while not seen and time.monotonic() < deadline:
            seen += sum(map(len, consumer.poll(500).values()))
        assert seen
        consumer.commit()


def grant(admin: KafkaAdminClient, kind: ResourceType, names: list[str], operations: list[str]) -> None:
    pairs = itertools.product(names, operations)
    acls = [ACL("User:guest", "*", ACLOperation[what], ACLPermissionType.ALLOW, ResourcePattern(kind, name)) for name, what in pairs]
    assert len(admin.create_acls(acls)["succeeded"]) == len(acls)
    # The authorizer hears of it a moment later.
    time.sleep(0.5)


@contextlib.contextmanager
def answering(*replies: bytes) -> Iterator[str]:
    """A port that takes every connection and answers one question after the other, then hangs up; without replies it is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    for reply in replies:
                        connection.recv(1024)
                        connection.sendall(reply)
                    if replies:
                        connection.close()

        thread = threading.Thread(target=serve, name="answering", daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


@pytest.mark.parametrize("options", ["", "?security_protocol=SSL"])
def test_a_port_that_takes_connections_and_never_answers(options: str) -> None:
    with answering() as where:
        found = explain(parse_kafka(f"kafka://{where}/{options}", {}), timeout_seconds=0.3)
    assert found == f"Kafka broker {where}: takes the connection and does not answer in 0.3 s; it is paused, overloaded or not Kafka"


@pytest.mark.parametrize(
    ("what", "said"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not Kafka; check host and port"), (b"", "closes the connection without an answer")],
)
def test_a_port_of_something_else(what: bytes, said: str) -> None:
    with answering(what) as where:
        found = explain(parse_kafka(f"kafka://{where}/", {}), timeout_seconds=1)
    assert found is not None and said in found


def test_nothing_listens_on_either_broker() -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        where = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        found = explain(parse_kafka(f"kafka://{','.join(where)}/", {}))
    assert found is not None and found.startswith(f"Kafka broker {', '.join(where)}: refuses the connection: nothing listens on that port")


def test_one_broker_that_answers_is_enough(kafka: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert explain(parse_kafka(f"kafka://127.0.0.1:{nobody.getsockname()[1]},{kafka}/", {})) is None


def test_a_broker_that_sends_its_clients_elsewhere() -> None:
    """advertised.listeners that work only inside: the commonest mistake of all. Two replies written by hand from Kafka's protocol guide."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        # Length, correlation 1, no error, one kind of request: Metadata (3), versions 0 to 13.
        versions = bytes.fromhex("00000010 00000001 0000 00000001 0003 0000 000d")
        # Length, correlation 2, one broker: node 1, a host of 9 letters, its port, no rack; controller 1; no topics.
        member = bytes.fromhex("00000001 00000001 0009") + b"127.0.0.1" + port.to_bytes(4, "big") + bytes.fromhex("ffff 00000001 00000000")
        members = (len(member) + 4).to_bytes(4, "big") + bytes.fromhex("00000002") + member
        with answering(versions, members) as where:
            found = explain(parse_kafka(f"kafka://{where}/", {}), timeout_seconds=2)
    assert found is not None and "their advertised.listeners send clients to an address that does not work from here" in found
    assert f"Kafka broker 127.0.0.1:{port}: refuses the connection" in found
