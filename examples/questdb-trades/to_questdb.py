"""Write every trade to QuestDB: `python to_questdb.py HOST:PORT HOST:PORT`.

The first address is that of Kafka, the second one that of QuestDB.
"""

import sys

from confluent_kafka import Consumer, KafkaException
from questdb import Sender, TimestampMicros

from bridge.consumer import Trade, decode

SCALE = 18  # digits behind the point of price and amount in the table

kafka, questdb = sys.argv[1:]
consumer = Consumer(
    {
        "bootstrap.servers": kafka,
        "group.id": "to-questdb",
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe(["digifinex.trades.v1"])
written = 0

# Protocol 3 has decimals. Rows are sent by flush alone, so that offsets follow them.
settings = f"http::addr={questdb};protocol_version=3;auto_flush=off;"
with Sender.from_conf(settings) as sender:
    while True:
        messages = consumer.consume(1000, timeout=1.0)
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
            trade = decode(message.topic() or "", message.value() or b"")
            assert isinstance(trade, Trade)
            for figure in (trade.price, trade.amount):
                assert -int(figure.as_tuple().exponent) <= SCALE, f"too exact: {trade}"
            sender.row(
                "trades",
                symbols={"symbol": trade.symbol, "side": trade.side},
                columns={"id": trade.id, "price": trade.price, "amount": trade.amount},
                at=TimestampMicros(trade.time_us),
            )
        if messages:
            sender.flush()  # returns when QuestDB has them, or raises
            consumer.commit(asynchronous=False)
            written += len(messages)
            print(f"{written} trades written", flush=True)
