CREATE TABLE IF NOT EXISTS trades (
    time TIMESTAMP,
    symbol SYMBOL,
    side SYMBOL,
    id LONG,
    price DECIMAL(38, 18),
    amount DECIMAL(38, 18)
) TIMESTAMP(time) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(time, symbol, id)
