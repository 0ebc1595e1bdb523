"""CRC-32C in C for kafka-python, whose own is pure Python and is paid for every event on its way to Kafka and out of it.

kafka-python looks for the package crc32c by itself, which is under the LGPL; google-crc32c is under Apache 2.0.
"""

import google_crc32c
from kafka.record import default_records


def use_c_checksum() -> None:
    """Let every client of this process use it; again: changes nothing."""
    default_records.calc_crc32c = _crc32c


def _crc32c(data: memoryview) -> int:
    value: int = google_crc32c.value(bytes(data))
    return value
