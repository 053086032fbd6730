"""The edge to Kafka."""
