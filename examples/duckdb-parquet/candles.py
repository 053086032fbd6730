"""Print one-minute candles of trades in Parquet files: `python candles.py FOLDER`."""

import sys

import duckdb

QUERY = """
SELECT symbol, date_trunc('minute', "time") AS minute,
    arg_min(price, ("time", id)) AS open, max(price) AS high,
    min(price) AS low, arg_max(price, ("time", id)) AS close,
    sum(amount) AS volume, count(*) AS trades
FROM (SELECT DISTINCT ON (symbol, "time", id) * FROM read_parquet($files))
GROUP BY ALL ORDER BY ALL
"""
candles = duckdb.execute(QUERY, {"files": f"{sys.argv[1]}/*.parquet"}).fetchall()
for symbol, minute, *figures, trades in candles:
    # They have 18 digits after the point.
    shown = " ".join(f"{figure:f}".rstrip("0").rstrip(".") for figure in figures)
    print(f"{symbol} {minute:%Y-%m-%dT%H:%MZ} {shown} {trades}")
