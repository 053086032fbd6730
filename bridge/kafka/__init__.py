"""The Kafka edge: topics, producers, and the sink that delivers records."""
