"""The servers that tests share: started when first asked for, ended with the session."""

from collections.abc import Iterator
from urllib.parse import urlsplit

# deploy/ is no package: pyproject.toml puts its folders on pytest's path.
import kafka_jars
import pytest
from local_clickhouse import LocalClickHouse
from local_kafka import LocalKafka

from analytics.events import new_id
from analytics.warehouse.client import Warehouse


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kafka", metavar="HOST:PORT", help="a running broker, plaintext, for the tests that need Kafka; else one is started")
    parser.addoption(
        "--clickhouse", metavar="URL", help="a running ClickHouse for the tests that need one; else the shim over chDB is started"
    )


@pytest.fixture(scope="session")
def kafka_here() -> None:
    """Skips where Apache Kafka cannot run; for tests that start brokers of their own."""
    try:
        kafka_jars.command("kafka.Kafka")
    except kafka_jars.KafkaMissing as missing:
        pytest.skip(f"no Apache Kafka here: {missing}")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`HOST:PORT` of a broker that serves the whole session: take topic names of your own, as `kafka_url` does."""
    given = request.config.getoption("--kafka")
    if given:
        yield given
        return
    request.getfixturevalue("kafka_here")
    cluster = LocalKafka(tmp_path_factory.mktemp("kafka"))
    try:
        yield cluster.start().bootstrap
    finally:
        cluster.kill()


@pytest.fixture
def kafka_topic_prefix() -> str:
    """The beginning of names that no other test has."""
    return f"t{new_id().hex}."


@pytest.fixture
def kafka_url(kafka: str, kafka_topic_prefix: str) -> str:
    """A `kafka://` address whose topics (4 partitions, not made yet) and group belong to this test."""
    prefix = kafka_topic_prefix
    return f"kafka://{kafka}/{prefix}events?control_topic={prefix}control&group={prefix}sink&partitions=4"


@pytest.fixture(scope="session")
def clickhouse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a ClickHouse that serves the whole session: `clickhouse_url` takes a database of its own there."""
    given = request.config.getoption("--clickhouse")
    if given:
        yield given
        return
    server = LocalClickHouse(tmp_path_factory.mktemp("clickhouse") / "data")
    try:
        yield server.start().url
    finally:
        server.kill()


@pytest.fixture
def clickhouse_url(clickhouse: str) -> Iterator[str]:
    """A `clickhouse://` address whose database belongs to this test; it does not exist yet."""
    name = f"t{new_id().hex}"
    yield urlsplit(clickhouse)._replace(path=f"/{name}").geturl()
    server = Warehouse.open(urlsplit(clickhouse)._replace(path="/default").geturl())
    try:
        server.query(f"DROP DATABASE IF EXISTS {name} SYNC")
    finally:
        server.close()
