"""`python deploy/local/kafka/broker.py up|down`: Apache Kafka on this machine, as `make kafka-up` and `make kafka-down`."""

import argparse
import sys
from pathlib import Path

from local_kafka import LocalKafka

DEFAULT_PORT = 9092
DEFAULT_FOLDER = Path(__file__).parents[3] / "var" / "kafka"


def main(words: list[str]) -> int:
    """Exit code 0: done; 1: it could not be, with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="three replicate three times, min.insync.replicas 2")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="of the first broker; the others follow")
    parser.add_argument("--dir", type=Path, default=None, help="data, logs and pids (var/kafka, or var/kafka-3 for three); kept by `down`")
    given = parser.parse_args(words)
    folder = given.dir or (DEFAULT_FOLDER if given.brokers == 1 else DEFAULT_FOLDER.with_name("kafka-3"))
    try:
        # What is there knows its own ports.
        cluster = LocalKafka(folder, brokers=given.brokers, port=given.port if given.what == "up" else 0)
        if given.what == "down":
            cluster.stop()
            print(f"stopped; the data stays in {folder}")
        else:
            cluster.start()
            print(f"Kafka serves at {cluster.bootstrap}; data and logs in {folder}")
    except (OSError, ValueError) as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
