"""Which partition a key belongs to, as Kafka's Java client computes it. Pure.

Topics that other programs partition by symbol can be joined with those of the bridge, and every replica
gives a symbol the same shard. MurmurHash2 is written here, although aiokafka has it, because `bridge.plan`
must stay pure: importing it from aiokafka would import the whole Kafka client.
"""

# Constants of MurmurHash2, and the seed that the Java client starts from
# (org.apache.kafka.common.utils.Utils.murmur2).
_MULTIPLIER = 0x5BD1E995
_SHIFT = 24
_SEED = 0x9747B28C

_32_BITS = 0xFFFFFFFF
_31_BITS = 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, from 0, in a topic with this number of partitions."""
    # The Java client drops the sign bit; taking the absolute value would give other partitions.
    return (murmur2(key) & _31_BITS) % partitions


def coordinated_by(name: str, partitions: int) -> int:
    """Return the partition of Kafka's own topic that a group or transactional id of this name belongs to.

    The broker that leads it coordinates them. Kafka takes Java's hash of the name for it, without its sign.
    """
    value = 0
    for unit in memoryview(name.encode("utf-16-le")).cast("H"):
        value = value * 31 + unit & _32_BITS
    signed = value - (1 << 32) if value >> 31 else value
    return (abs(signed) & _31_BITS) % partitions


def murmur2(key: bytes) -> int:
    """Return the 32-bit MurmurHash2 of a key, as an unsigned number."""
    value = _SEED ^ len(key)
    whole = len(key) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _32_BITS
        word = (word ^ word >> _SHIFT) * _MULTIPLIER & _32_BITS
        value = value * _MULTIPLIER & _32_BITS ^ word
    if whole < len(key):
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _32_BITS
    value = (value ^ value >> 13) * _MULTIPLIER & _32_BITS
    return value ^ value >> 15
