"""The edge to the disk: records wait here, in order, while Kafka is unavailable."""
