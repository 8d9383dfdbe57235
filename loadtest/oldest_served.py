"""How old the oldest row in a sealed journal was when it was served, by somebody else's Parquet reader.

    loadtest/oldest_served.py JOURNAL
"""

import json
import sys
from pathlib import Path

import pyarrow.compute as compute
import pyarrow.parquet as parquet

rows, stale_rows, oldest_ms = 0, 0, 0
for path in sorted((Path(sys.argv[1]) / "served").rglob("*.parquet")):
    table = parquet.ParquetFile(path).read(columns=["rows00__age_ms", "rows00__f000__provenance"])
    rows += table.num_rows
    stale_rows += compute.sum(compute.equal(table["rows00__f000__provenance"].cast("string"), "STALE")).as_py() or 0
    oldest_ms = max(oldest_ms, compute.max(table["rows00__age_ms"]).as_py() or 0)
if not rows:
    raise SystemExit(f"{sys.argv[1]}: there are no rows")
print(json.dumps({"rows": rows, "stale_rows": stale_rows, "oldest_ms": oldest_ms}))
