"""Reads a journal as its readers do, with tools that are none of ours, and prints what they find as JSON.

    readers.py counts JOURNAL                     rows and distinct rows of every request, by DuckDB
    readers.py logged JOURNAL                     rows of every request in the log for Feast, by DuckDB
    readers.py request JOURNAL SERVICE REQUEST    everything about one request, by pyarrow
    readers.py compare JOURNAL REQUEST COLUMN     sizes of both datasets, and one request's column with its
                                                  provenance, by pyarrow, DuckDB and pandas
"""

import datetime
import json
import sys

import duckdb
import pandas
import pyarrow.dataset

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def counts(journal):
    rows = duckdb.sql(
        f"""select request_id, count(*), count(distinct row), max(row)
            from read_parquet('{journal}/served/**/*.parquet', hive_partitioning = true, union_by_name = true)
            group by request_id"""
    ).fetchall()
    return {request: {"rows": n, "distinct": distinct, "last": last} for request, n, distinct, last in rows}


def logged(journal):
    rows = duckdb.sql(
        f"""select __request_id, count(*) from read_parquet('{journal}/feast/*/*/*.parquet', union_by_name = true)
            group by __request_id"""
    ).fetchall()
    return dict(rows)


def request(journal, service, request_id):
    served = pyarrow.dataset.dataset(f"{journal}/served/service={service}", partitioning="hive")
    rows = served.to_table(filter=pyarrow.dataset.field("request_id") == request_id).to_pylist()
    return sorted(rows, key=lambda row: row["row"])


def compare(journal, request_id, column):
    return {
        "pyarrow": by_pyarrow(journal, request_id, column),
        "duckdb": by_duckdb(journal, request_id, column),
        "pandas": by_pandas(journal, request_id, column),
    }


def by_pyarrow(journal, request_id, column):
    served, exposures = (
        pyarrow.dataset.dataset(f"{journal}/{name}", partitioning="hive").to_table() for name in ("served", "exposures")
    )
    found = served.filter(pyarrow.compute.field("request_id") == request_id).sort_by("row")
    return said(
        served.num_rows, exposures.num_rows, exposures["arm"].to_pylist(),
        found["service"].to_pylist(), found[column].to_pylist(), found[f"{column}__provenance"].to_pylist(),
    )  # fmt: skip


def by_duckdb(journal, request_id, column):
    served, exposures = (
        duckdb.read_parquet(f"{journal}/{name}/**/*.parquet", hive_partitioning=True) for name in ("served", "exposures")
    )
    found = served.filter(f"request_id = '{request_id}'").order("row")
    rows = found.project(f"service, {column}, {column}__provenance").fetchall()
    arms = [arm for (arm,) in exposures.project("arm").fetchall()]
    return said(len(served), len(exposures), arms, *(list(values) for values in zip(*rows)))


def by_pandas(journal, request_id, column):
    served, exposures = (pandas.read_parquet(f"{journal}/{name}") for name in ("served", "exposures"))
    found = served[served["request_id"] == request_id].sort_values("row")
    return said(
        len(served), len(exposures), exposures["arm"].tolist(),
        found["service"].tolist(), found[column].tolist(), found[f"{column}__provenance"].tolist(),
    )  # fmt: skip


def said(served, exposures, arms, services, values, provenance):
    return {
        "served": served,
        "exposures": exposures,
        "arms": sorted(arms),
        "services": services,
        "values": values,
        "provenance": provenance,
    }


def plain(value):
    """Times as microseconds since the Unix epoch."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    raise TypeError(f"{value!r} is no JSON")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {"counts": counts, "logged": logged, "request": request, "compare": compare}
    print(json.dumps(commands[command](*arguments), default=plain))
