SELECT symbol, timestamp_floor('m', time) AS minute,
    first(price) AS open, max(price) AS high, min(price) AS low, last(price) AS close,
    sum(amount) AS volume, count() AS trades
FROM (SELECT * FROM trades ORDER BY time, id)
ORDER BY symbol, minute
