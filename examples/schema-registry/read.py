"""Prints records, read by their schemas: python read.py HOST:PORT REGISTRY TOPIC."""

import json
import sys

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

broker, registry, topic = sys.argv[1:]

client = SchemaRegistryClient({"url": registry})
deserialize = JSONDeserializer(None, schema_registry_client=client)
consumer = Consumer(
    {
        "bootstrap.servers": broker,
        "group.id": "read-by-schema",
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe([topic])
while True:
    message = consumer.poll(1.0)
    if message is None:
        continue
    if message.error():
        print(message.error(), file=sys.stderr)
        continue
    headers = message.headers() or []
    context = SerializationContext(topic, MessageField.VALUE, headers)
    # Fetches the schema that the record names, once, and validates the record by it.
    record = deserialize(message.value(), context)
    print(json.dumps(record), flush=True)
