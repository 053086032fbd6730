"""Keys go to the partitions that Kafka's Java client and aiokafka choose."""

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from bridge.partitioner import coordinated_by, murmur2, partition_of


# From UtilsTest.testMurmur2 of Apache Kafka's Java client.
@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hashes_are_those_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@given(st.binary(max_size=40))
def test_hashes_are_those_of_aiokafka(key: bytes) -> None:
    assert murmur2(key) == murmur2_of_aiokafka(key)


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_partition_is_one_of_the_topic(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_the_sign_bit_is_dropped_as_the_java_client_does() -> None:
    """The hash of "foobar" is negative in Java: with its sign bit dropped it is 1357151166."""
    assert partition_of(b"foobar", 12) == 1357151166 % 12


@pytest.mark.parametrize(
    ("name", "java_hash"),
    [
        ("", 0),
        ("abc", 96354),
        ("polygenelubricants", -2147483648),
        ("digifinex-bridge", None),
        ("größe/0", None),
    ],
)
def test_a_name_is_coordinated_by_the_partition_of_its_hash_in_java(name: str, java_hash: int | None) -> None:
    if java_hash is None:
        java_hash = sum(ord(letter) * 31**place for place, letter in enumerate(reversed(name)))
        java_hash = (java_hash + 2**31) % 2**32 - 2**31
    assert coordinated_by(name, 50) == (0 if java_hash == -(2**31) else abs(java_hash)) % 50
