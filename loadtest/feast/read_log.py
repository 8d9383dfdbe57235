"""Reads a journal's feature log (`journal.feast_log = true`) with Feast itself, and compares what comes out.

    read_log.py JOURNAL REPO SERVICE [--strict]

JOURNAL is the journal's folder, REPO a folder with feature_store.yaml, SERVICE a feature service of it. Checked are

  1. every file's schema, field by field, against FeatureServiceLoggingSource.get_schema, and that a cast to it loses
     nothing; and every value, time and status against the journal's own dataset `served`;
  2. the folder as a log destination in place: the rows that the offline store pulls out of it, and what its
     monitoring counts in them;
  3. the folder, and each of its days, as logs that FeatureStore.write_logged_features writes to another destination,
     and the rows pulled out of that;
  4. FeatureStore.validate_logged_features, with rules that every log must keep.

Nothing is written into JOURNAL or REPO. Exits with 1 when anything differs. Integers are the one known difference (the
journal's are 64 bits wide whatever Feast declares); they are named, and count with --strict.
"""

import argparse
import math
import sys
import tempfile
import warnings
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore
from feast.dqm.errors import ValidationFailed
from feast.dqm.profilers.profiler import Profile, Profiler, ValidationError, ValidationReport
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.monitoring.metrics_calculator import MetricsCalculator
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.saved_dataset import ValidationReference

AT = "__log_timestamp"
DATE = "__log_date"
REQUEST = "__request_id"

# What Feast declares, and what the journal writes because it does not know better.
KNOWN = {(pa.int32(), pa.int64()), (pa.list_(pa.int32()), pa.list_(pa.int64()))}
SHOWN_MAX = 5

PRESENT, INVALID = FieldStatus.PRESENT, FieldStatus.INVALID
# By the name that `served` gives a value's provenance; all others are INVALID.
STATUSES = {name: PRESENT for name in ("STORE", "CACHE", "STALE", "COMPUTED", "CALLER")}
for default in ("", "DEFAULT_"):
    STATUSES |= {f"{default}MISSING": FieldStatus.NOT_FOUND, f"{default}EXPIRED": FieldStatus.OUTSIDE_MAX_AGE}
EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Findings:
    """What was compared, and what differs."""

    def __init__(self, strict):
        self.strict, self.different, self.known = strict, [], []

    def check(self, what, differences):
        differences = list(differences)
        print(f"{'ok  ' if not differences else 'DIFF'} {what}")
        for difference in differences[:SHOWN_MAX]:
            print(f"       {difference}")
        if len(differences) > SHOWN_MAX:
            print(f"       and {len(differences) - SHOWN_MAX} more")
        self.different += differences

    def known_difference(self, what):
        print(f"{'DIFF' if self.strict else 'note'} {what}")
        (self.different if self.strict else self.known).append(what)


def escaped(service):
    """A service's name as the journal writes it into paths."""
    name = quote(service, safe="").replace("~", "%7E")
    return "%2E" + name[1:] if name.startswith(".") else name


def through_parquet(schema):
    """The schema as Parquet keeps it: it has no whole seconds."""
    buffer = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), buffer)
    return pq.read_schema(pa.BufferReader(buffer.getvalue())).remove_metadata()


def compare_schema(found, wanted):
    """Differences that matter, and the known ones."""
    differences, known = [], []
    if found.names != wanted.names:
        missing = [n for n in wanted.names if n not in found.names]
        more = [n for n in found.names if n not in wanted.names]
        differences.append(f"columns: missing {missing}, more {more}" if missing or more else f"order: {found.names}")
    for field in wanted:
        if field.name not in found.names:
            continue
        own = found.field(field.name)
        if (field.type, own.type) in KNOWN:
            known.append(f"{field.name}: {field.type} is declared, {own.type} is written")
        elif own.type != field.type:
            differences.append(f"{field.name}: {own.type}, Feast says {field.type}")
        if own.nullable != field.nullable:
            differences.append(f"{field.name}: nullable {own.nullable}, Feast says {field.nullable}")
    return differences, known


def rows_of(table, schema):
    """The rows in Feast's types, counted. pandas, which Feast reads through, has one word for NaN and null."""
    table = table.select(schema.names).cast(schema)
    plain = lambda v: None if isinstance(v, float) and math.isnan(v) else v
    deep = lambda v: tuple(map(plain, v)) if isinstance(v, list) else plain(v)
    return Counter(zip(*([deep(v) for v in column.to_pylist()] for column in table.columns)))


def whole_seconds(value):
    if isinstance(value, list):
        return tuple(map(whole_seconds, value))
    return value.replace(microsecond=0, tzinfo=None) if isinstance(value, datetime) else value


def served_features(journal, service, features):
    """Of each feature in `served`: how often a request has which value, time and status."""
    files = sorted((journal / "served" / f"service={escaped(service)}").rglob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(f).read() for f in files], promote_options="permissive")
    requests, at = table["request_id"].to_pylist(), table["served_at"].to_pylist()
    views = [n.removesuffix("__event_time") for n in table.column_names if n.endswith("__event_time")]
    for feature in features:
        if feature not in table.column_names:
            yield feature, None
            continue
        values = map(whole_seconds, table[feature].to_pylist())
        statuses = [STATUSES.get(p, INVALID) for p in table[f"{feature}__provenance"].to_pylist()]
        view = next((v for v in views if feature.startswith(f"{v}__")), None)
        if view is not None:
            times = [time or EPOCH for time in table[f"{view}__event_time"].to_pylist()]
        else:
            times = [time if status == PRESENT else EPOCH for time, status in zip(at, statuses)]
        yield feature, Counter(zip(requests, map(repr, values), map(whole_seconds, times), statuses))


def compare_served(journal, service, features, table):
    requests = table[REQUEST].to_pylist()
    for feature, wanted in served_features(journal, service, features):
        if wanted is None:
            yield f"{feature} is not in `served`"
            continue
        values, times, statuses = (table[f"{feature}{end}"].to_pylist() for end in ("", "__timestamp", "__status"))
        found = Counter(zip(requests, map(repr, map(whole_seconds, values)), map(whole_seconds, times), statuses))
        yield from (f"{feature}: {difference}" for difference in compare_rows(found, wanted))


def compare_rows(found, wanted):
    for row, count in (wanted - found).items():
        yield f"lost {count}x: {row}"
    for row, count in (found - wanted).items():
        yield f"not served {count}x: {row}"


class Rules(Profile, Profiler):
    """What holds for every log of this schema, in the form that Feast wants a profile."""

    def __init__(self, schema):
        self.schema, self.rows = schema, 0

    def analyze_dataset(self, dataset):
        return self

    def validate(self, dataset):
        self.rows = len(dataset)
        broken = lambda rule, column, bad: (
            [ValidationError(check_name=rule, column_name=column, unexpected_count=int(bad.sum()))] if bad.any() else []
        )
        errors = broken("has a request", REQUEST, dataset[REQUEST].isna())
        errors += broken("is the day of the time", DATE, dataset[AT].dt.date != dataset[DATE])
        for name in [n for n in self.schema.names if n.endswith("__status")]:
            feature, status = name.removesuffix("__status"), dataset[name]
            errors += broken("is a FieldStatus", name, ~status.isin(FieldStatus.values()))
            # A NaN, which pandas cannot tell from null, is a value.
            if not pa.types.is_floating(self.schema.field(feature).type):
                hole = (status == PRESENT) & dataset[feature].isna()
                errors += broken("is there when PRESENT", feature, hole)
            errors += broken("has a time", f"{feature}__timestamp", dataset[f"{feature}__timestamp"].isna())
        return Report(errors)

    def to_proto(self):
        raise NotImplementedError("never stored")

    @classmethod
    def from_proto(cls, proto):
        raise NotImplementedError("never stored")


class Report(ValidationReport):
    def __init__(self, errors):
        self._errors = errors

    @property
    def is_success(self):
        return not self._errors

    @property
    def errors(self):
        return self._errors


class Reader:
    """Feast, asked about one service's logs."""

    def __init__(self, repo, service, findings):
        self.store = FeatureStore(repo_path=str(repo))
        self.service = self.store.get_feature_service(service)
        self.source = FeatureServiceLoggingSource(self.service, self.store.project)
        self.schema = self.source.get_schema(self.store.registry)
        self.findings = findings

    def destination(self, path):
        """From now on this is where the service logs to; in memory only."""
        self.service.logging_config = LoggingConfig(destination=FileLoggingDestination(path=str(path)))
        return self.service.logging_config.destination.to_data_source()

    def pull(self, path, times):
        store = self.store._get_provider().offline_store
        job = store.pull_all_from_table_or_query(
            config=self.store.config,
            data_source=self.destination(path),
            join_key_columns=[],
            feature_name_columns=[n for n in self.schema.names if n != self.source.get_log_timestamp_column()],
            timestamp_field=self.source.get_log_timestamp_column(),
            start_date=times[0],
            end_date=times[1],
        )
        return rows_of(job.to_arrow(), self.schema)

    def check_schemas(self, files):
        wanted = through_parquet(self.schema)
        known = set()
        for file in files:
            found = pq.read_schema(file)
            differences, of_file = compare_schema(found, wanted)
            known.update(of_file)
            try:
                pq.ParquetFile(file).read().cast(self.schema)
            except (pa.ArrowInvalid, ValueError) as error:
                differences.append(f"cast: {error}")
            self.findings.check(f"schema of {file.parent.name}/{file.name}: {len(found.names)} fields", differences)
        for difference in sorted(known):
            self.findings.known_difference(difference)
        return wanted

    def check_monitoring(self, folder, table, times):
        store, source = self.store._get_provider().offline_store, self.destination(folder)
        kinds = {n: MetricsCalculator.classify_feature_arrow(self.schema.field(n).type) for n in self.features()}
        columns = [(name, kind) for name, kind in kinds.items() if kind is not None]
        metrics = store.compute_monitoring_metrics(
            config=self.store.config,
            data_source=source,
            feature_columns=columns,
            timestamp_field=AT,
            start_date=times[0],
            end_date=times[1],
        )
        found = {m["feature_name"]: (m["row_count"], m["null_count"]) for m in metrics}
        wanted = {name: (table.num_rows, table[name].null_count) for name, _ in columns}
        differences = [f"{n}: {found.get(n)}, wanted {w}" for n, w in wanted.items() if found.get(n) != w]
        last = store.get_monitoring_max_timestamp(self.store.config, source, AT)
        if last != pc.max(table[AT]).as_py():
            differences.append(f"last log at {last}")
        self.findings.check(f"monitoring: rows and nulls of {len(found)} features, time of the last", differences)

    def features(self):
        return [n.removesuffix("__status") for n in self.schema.names if n.endswith("__status")]

    def check_validation(self, folder, rows, times):
        self.destination(folder)
        rules = Rules(self.schema)
        reference = ValidationReference(name="rules", dataset_name="none", profiler=rules)
        reference._profile = rules
        failed = self.store.validate_logged_features(
            self.service, times[0], times[1], reference, throw_exception=False, cache_profile=False
        )
        differences = []
        if isinstance(failed, ValidationFailed):
            differences = [f"{e.column_name} {e.check_name}: {e.unexpected_count} rows" for e in failed.report.errors]
        if rules.rows != rows:
            differences.append(f"{rules.rows} rows were validated, not {rows}")
        self.findings.check(f"validate_logged_features: {rows} rows", differences)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path)
    parser.add_argument("repo", type=Path)
    parser.add_argument("service")
    parser.add_argument("--strict", action="store_true", help="known differences count too")
    args = parser.parse_args()
    # Feast calls logging, validation and on-demand views experimental, once per call.
    warnings.simplefilter("ignore", RuntimeWarning)

    folder = args.journal.resolve() / "feast" / escaped(args.service)
    days = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    files = [f for day in days for f in sorted(day.glob("*.parquet"))]
    if not files:
        sys.exit(f"no feature log in {folder}")
    findings = Findings(args.strict)
    reader = Reader(args.repo, args.service, findings)

    stored = reader.check_schemas(files)
    if findings.different:
        sys.exit("the schema is not Feast's; nothing further was read")
    table = pa.concat_tables([pq.ParquetFile(f).read() for f in files], promote_options="permissive")
    served = rows_of(table, reader.schema)
    at = table[AT]
    times = pc.min(at).as_py() - timedelta(seconds=1), pc.max(at).as_py() + timedelta(seconds=1)
    print(f"     {len(files)} files, {len(days)} days, {table.num_rows} rows, {len(set(table[REQUEST].to_pylist()))} requests")

    different = compare_served(args.journal, args.service, reader.features(), table)
    findings.check("values, times and statuses against `served`", different)
    findings.check("rows pulled from the folder in place", compare_rows(reader.pull(folder, times), served))
    reader.check_monitoring(folder, table, times)
    reader.check_validation(folder, table.num_rows, times)
    for what, logs in [("the whole folder", [folder]), ("each day", days)]:
        with tempfile.TemporaryDirectory() as other:
            for path in logs:
                reader.destination(other)
                reader.store.write_logged_features(path, reader.service)
            differences = list(compare_rows(reader.pull(other, times), served))
            for file in sorted(Path(other).rglob("*.parquet")):
                differences += compare_schema(pq.read_schema(file), stored)[0]
            findings.check(f"rows and schema after write_logged_features of {what}", differences)
    sys.exit(1 if findings.different else 0)


if __name__ == "__main__":
    main()
