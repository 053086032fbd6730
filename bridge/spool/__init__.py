"""The edge to the disk: records are kept here, in order, while Kafka is unavailable or too slow."""
