"""Print one-minute candles of an Iceberg table: `python from_iceberg.py FOLDER`."""

import re
import sys
from pathlib import Path

import duckdb
from pyiceberg.table import StaticTable


def version(metadata: Path) -> int:
    """Return the version of a table's metadata, which is in the name of its file."""
    return int(re.findall(r"\d+", metadata.name)[0])


# What the table consists of is in its metadata only: in the folder there may also be
# files that were written and not committed.
newest = max(Path(sys.argv[1], "metadata").glob("v*.metadata.json"), key=version)
table = StaticTable.from_metadata(
    str(newest), {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"}
)
files = [task.file.file_path for task in table.scan().plan_files()]
if not files:
    sys.exit()  # nothing is committed yet

# A cast alone would round.
EXACT = r"""
CREATE MACRO exact(figure) AS
    CASE WHEN regexp_full_match(figure, '\d+(\.\d{1,18}0*)?')
    THEN figure::DECIMAL(38, 18)
    ELSE error('not a DECIMAL(38, 18): ' || figure) END
"""
QUERY = """
SELECT symbol, make_timestamp(time_us - time_us % 60_000_000) AS minute,
    arg_min(price, (time_us, id)) AS open, max(exact(price)) AS high,
    min(exact(price)) AS low, arg_max(price, (time_us, id)) AS close,
    sum(exact(amount)) AS volume, count(*) AS trades
FROM read_parquet($files)
GROUP BY ALL ORDER BY ALL
"""
duckdb.execute(EXACT)
for symbol, minute, *figures in duckdb.execute(QUERY, {"files": files}).fetchall():
    print(symbol, f"{minute:%Y-%m-%dT%H:%MZ}", *figures)
