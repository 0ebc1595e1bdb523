"""The checksum in C against the polynomial itself, bit by bit."""

import os

from kafka.record import default_records

from analytics.kafka.checksum import use_c_checksum


def crc32c_by_bits(data: bytes) -> int:
    # RFC 3720 §B.4: reflected polynomial 0x82F63B78, start and end inverted
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_it_is_crc_32c() -> None:
    use_c_checksum()
    # RFC 3720 §B.4: 32 bytes of zeroes
    assert default_records.calc_crc32c(memoryview(bytes(32))) == 0x8A9136AA
    for size in (0, 1, 7, 300):
        data = os.urandom(size)
        assert default_records.calc_crc32c(memoryview(data)) == crc32c_by_bits(data)
