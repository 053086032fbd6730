SET 'table.local-time-zone' = 'UTC';

-- Write a candle once a second at most, instead of with each trade.
SET 'table.exec.mini-batch.enabled' = 'true';
SET 'table.exec.mini-batch.allow-latency' = '1 s';
SET 'table.exec.mini-batch.size' = '1000';

SET 'execution.checkpointing.interval' = '2 s';
SET 'execution.checkpointing.mode' = 'EXACTLY_ONCE';

CREATE TABLE trades (
    symbol STRING,
    id BIGINT,
    time_us BIGINT,
    price STRING,
    amount STRING
) WITH (
    'connector' = 'kafka',
    'topic' = 'digifinex.trades.v1',
    'properties.bootstrap.servers' = 'localhost:9092',
    'properties.group.id' = 'candles-flink',
    'properties.isolation.level' = 'read_committed',
    'scan.startup.mode' = 'earliest-offset',
    'format' = 'json',
    'json.fail-on-missing-field' = 'true'
);

CREATE TABLE candles (
    symbol STRING,
    start_us BIGINT,
    `open` STRING,
    high STRING,
    low STRING,
    `close` STRING,
    volume STRING,
    trades BIGINT,
    PRIMARY KEY (symbol, start_us) NOT ENFORCED
) WITH (
    'connector' = 'upsert-kafka',
    'topic' = 'candles-flink',
    'properties.bootstrap.servers' = 'localhost:9092',
    'key.format' = 'json',
    'value.format' = 'json',
    'sink.delivery-guarantee' = 'exactly-once',
    'sink.transactional-id-prefix' = 'candles-flink',
    -- The longest that brokers allow by default. A job that is down for longer loses what it wrote last.
    'properties.transaction.timeout.ms' = '900000'
);

-- The patterns are what a DECIMAL(38, 18) holds exactly, written with or without an exponent. The cast alone would
-- round other figures. With a text in front they are no numbers, which stops the job.
CREATE TEMPORARY VIEW exact AS
SELECT
    symbol,
    time_us - MOD(time_us, 60000000) AS start_us,
    -- Sorts as text as the exchange's order of trades does: by time, then by id.
    LPAD(CAST(time_us AS STRING), 20, '0') || LPAD(CAST(id AS STRING), 20, '0') AS place,
    price,
    CAST(
        IF(
            REGEXP(price, '^-?([0-9]{1,20}(\.[0-9]{1,18})?|[0-9]{1,9}(\.[0-9]{1,9})?[eE][+-]?[0-9])$'),
            price,
            'inexact: ' || price
        ) AS DECIMAL(38, 18)
    ) AS exact_price,
    CAST(
        IF(
            REGEXP(amount, '^-?([0-9]{1,20}(\.[0-9]{1,18})?|[0-9]{1,9}(\.[0-9]{1,9})?[eE][+-]?[0-9])$'),
            amount,
            'inexact: ' || amount
        ) AS DECIMAL(38, 18)
    ) AS exact_amount
FROM trades;

INSERT INTO candles
SELECT
    symbol,
    start_us,
    SUBSTRING(MIN(place || price) FROM 41),
    CAST(MAX(exact_price) AS STRING),
    CAST(MIN(exact_price) AS STRING),
    SUBSTRING(MAX(place || price) FROM 41),
    CAST(SUM(exact_amount) AS STRING),
    COUNT(*)
FROM exact
GROUP BY symbol, start_us;
