"""Builds a Feast repository in a folder, and its data in a Redis, from a description in plain Python.

`Draft` collects entities, views and services; `build` applies them with Feast's own SDK and fills the store with
Feast's own Redis writer, so that nothing here knows how Feast encodes. What comes back, a `Repo`, says what can be
asked of it: views, their keys and features, and the entities that are stored.
"""

import contextlib
import random
import shutil
import warnings
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.types import PrimitiveFeastType, from_feast_type
from google.protobuf.timestamp_pb2 import Timestamp
from pyarrow import parquet

from values import KEYS, TYPES, key_values, stored

# A second that has passed: what is written later in a test is newer.
NOW = datetime.now(timezone.utc).replace(microsecond=123456) - timedelta(minutes=10)
# Where a row's event time may lie: recent, older than any ttl, before 1970, at its very second, and so far away that
# a float of seconds no longer holds microseconds.
TIMES = [
    NOW,
    NOW.replace(microsecond=0),
    NOW - timedelta(hours=3, microseconds=1),
    NOW - timedelta(days=400),
    datetime(1970, 1, 1, tzinfo=timezone.utc),
    datetime(1969, 12, 31, 23, 59, 58, 250000, tzinfo=timezone.utc),
    datetime(2262, 4, 11, 1, 2, 3, 999999, tzinfo=timezone.utc),
    datetime(9999, 12, 31, 23, 59, 59, 999, tzinfo=timezone.utc),
]
# Other writers than Python's keep nanoseconds; Feast reads them through a float.
NANOS = [1, 999, 123_456_789, 999_999_499, 999_999_500, 999_999_999, 500_000_500]
# Not the name that is taken where none is given.
SENTINEL_MASTER = "weir-master"


@dataclass
class Store:
    """A Redis as Feast's settings name it, and the processes that hold the data where a test wants to know them."""

    connection: str
    redis_type: str = "redis"
    servers: list = field(default_factory=list)

    def client(self):
        """A client as Feast makes it, of the very settings."""
        config = RedisOnlineStoreConfig(
            redis_type=self.redis_type, connection_string=self.connection, sentinel_master=SENTINEL_MASTER
        )
        return RedisOnlineStore()._get_client(config)


@dataclass
class View:
    """One feature view, as far as a caller needs to know it."""

    name: str
    # Join key to kind (see values.KEYS), and feature to kind (values.TYPES), each in the order declared.
    keys: dict
    features: dict
    # Join key to the name of its entity.
    entities: dict
    # The keys of the stored rows, a dict of join key to value each.
    rows: list = field(default_factory=list)
    push_source: str = ""
    serves: bool = True
    # How often the view was changed, and the features that only former versions have.
    versions: int = 0
    former: list = field(default_factory=list)


@dataclass
class Service:
    """One feature service: its projections as (what a caller gives as keys, the view)."""

    name: str
    parts: list
    is_precomputed: bool = False
    # One of its views is computed on demand.
    needs_python: bool = False


@dataclass
class Repo:
    folder: Path
    project: str
    store: Store
    views: dict
    services: dict
    # On-demand views, which need Python code to be run: kept apart from what is compared.
    on_demand: dict
    key_ttl_s: int | None = None
    has_versions: bool = False

    def client(self):
        return self.store.client()


@dataclass
class Options:
    """How a repository is set up, apart from what is in it."""

    project: str
    key_version: int = 3
    has_versions: bool = False
    key_ttl_s: int | None = None


def settings(options, store):
    """The repository's feature_store.yaml. The connection string goes through Feast's parser, with a parameter."""
    lines = [
        f"project: {options.project}",
        "provider: local",
        "registry:",
        "  registry_type: file",
        "  path: data/registry.db",
        f"  enable_online_feature_view_versioning: {str(options.has_versions).lower()}",
        "online_store:",
        "  type: redis",
        # One server is what Feast takes it for when nothing is said.
        *([f"  redis_type: {store.redis_type}"] if store.redis_type != "redis" else []),
        *([f"  sentinel_master: {SENTINEL_MASTER}"] if store.redis_type == "redis_sentinel" else []),
        f'  connection_string: "{store.connection}"',
        *([f"  key_ttl_seconds: {options.key_ttl_s}"] if options.key_ttl_s else []),
        "offline_store:",
        "  type: file",
        f"entity_key_serialization_version: {options.key_version}",
    ]
    return "\n".join(lines) + "\n"


class Draft:
    """What a repository will hold. Sources, entities and views are made here, so a description reads as a list."""

    def __init__(self, folder, options, seed):
        self.folder, self.options, self.random = Path(folder), options, random.Random(seed)
        self.entities, self.views, self.objects, self.on_demand = {}, {}, {}, {}
        self.services = {}
        # Applied one after the other, each with its data, when everything else is there: newer versions of views.
        self.rounds = []
        # Services that name versions can only be applied when those exist.
        self.late_services = {}
        # Views whose rows come from a file, and services that are computed beforehand: both by Feast.
        self.tables, self.precomputed = {}, []

    def entity(self, name, kind="int64", join_key=None, is_typed=True):
        value_type = from_feast_type(KEYS[kind][0]) if is_typed else None
        made = Entity(name=name, join_keys=[join_key or name], value_type=value_type)
        self.entities[name] = (made, kind)
        return made

    def source(self, name, **more):
        # No file is there: the offline store takes no part in serving, and Feast asks for none while types are given.
        path = str(self.folder / "data" / f"{name}.parquet")
        return FileSource(name=f"{name}_source", path=path, timestamp_field="event_timestamp", **more)

    def view(
        self,
        name,
        entities,
        features,
        count=20,
        key_kinds=None,
        is_pushed=False,
        serves=True,
        ttl_s=0,
        mapping=None,
        made=None,
        **more,
    ):
        """A view with `count` stored rows and some at the edges of its keys' types. `key_kinds` types a join key in
        the view's schema instead of the entity's; `made` is a view of another class, built by the caller."""
        kinds = {}
        for entity in entities:
            known, kind = self.entities[entity]
            kinds[known.join_key] = (key_kinds or {}).get(known.join_key, kind)
        if made is None:
            schema = [Field(name=feature, dtype=TYPES[kind][0]) for feature, kind in features.items()]
            declared = [e for e in entities if self.entities[e][0].value_type.value == 0]
            schema += [
                Field(name=self.entities[e][0].join_key, dtype=KEYS[kinds[self.entities[e][0].join_key]][0])
                for e in declared
            ]
            source = self.source(name, field_mapping=mapping or {})
            if is_pushed:
                source = PushSource(name=f"{name}_push", batch_source=source)
            made = FeatureView(
                name=name,
                entities=[self.entities[entity][0] for entity in entities],
                schema=schema,
                source=source,
                ttl=timedelta(seconds=ttl_s),
                **more,
            )
        self.objects[name] = made
        names = {self.entities[entity][0].join_key: entity for entity in entities}
        push_source = made.stream_source.name if getattr(made, "stream_source", None) and is_pushed else ""
        view = View(name, kinds, dict(features), names, push_source=push_source, serves=serves)
        view.rows = self.rows(kinds, count)
        self.views[name] = view
        return made

    def rows(self, kinds, count):
        """Keys of rows: the same small values for every view, so that views share entities and their hashes."""
        if not kinds or not count:
            return [{}] if count else []
        values = {key: key_values(kind, count, self.random) for key, kind in kinds.items()}
        if len(values) == 1:
            [(key, one)] = values.items()
            return [{key: value} for value in one]
        paired = [{key: one[n % len(one)] for key, one in values.items()} for n in range(count)]
        return paired + [{key: self.random.choice(one) for key, one in values.items()} for _ in range(count // 2)]

    def again(self, name, features, **more):
        """The next version of a view: another schema, other data."""
        old = self.objects[name]
        schema = [Field(name=feature, dtype=TYPES[kind][0]) for feature, kind in features.items()]
        entities = [self.entities[entity][0] for entity in old.entities]
        made = FeatureView(name=name, entities=entities, schema=schema, source=old.batch_source, ttl=old.ttl, **more)
        was = self.views[name]
        former = [feature for feature in [*was.former, *was.features] if feature not in features]
        view = replace(was, features=dict(features), versions=was.versions + 1, former=former)
        self.views[name] = view
        self.rounds.append((made, view))

    def service(self, name, *parts, is_late=False, **more):
        """Parts are views as `view` returned them (renamed, narrowed, mapped as Feast allows), or references as
        text where a version is pinned."""
        made = FeatureService(name=name, features=list(parts), **more)
        (self.late_services if is_late else self.services)[name] = made


def fill(store, view, declared, rng, start):
    """Writes the view's rows with Feast's own writer, and then some event times as other writers leave them."""
    data = []
    for n, row in enumerate(view.rows):
        keys = row or {"__dummy_id": ""}
        kinds = view.keys or {"__dummy_id": "string"}
        entity = EntityKey(
            join_keys=list(keys), entity_values=[KEYS[kinds[key]][1](value) for key, value in keys.items()]
        )
        values = {name: stored(kind, rng) for name, kind in view.features.items()}
        # A row that lacks features: written before they were added.
        if rng.random() < 0.1:
            values = dict(list(values.items())[: len(values) // 2])
        when = start if n < 10 else rng.choice(TIMES)
        data.append((entity, values, when, None))
    kinds = set(view.keys.values())
    if kinds & {"float64", "bool"}:
        return
    RedisOnlineStore().online_write_batch(store.config, declared, data, None)


def with_nanoseconds(repo, rng):
    """Some event times get digits below the microsecond, as a writer in another language would leave them."""
    client = repo.client()
    for key in sorted(client.scan_iter(b"*" + repo.project.encode())):
        for name in client.hkeys(key):
            if name.startswith(b"_ts:") and rng.random() < 0.05:
                stamp = Timestamp.FromString(client.hget(key, name))
                stamp.nanos = rng.choice(NANOS)
                client.hset(key, name, stamp.SerializeToString())


def copied(repo, folder, twin_store):
    """The same repository with the same data behind another Redis."""
    shutil.copytree(repo.folder, folder)
    settings_file = Path(folder) / "feature_store.yaml"
    settings_file.write_text(settings_file.read_text().replace(repo.store.connection, twin_store.connection))
    twin = replace(repo, folder=Path(folder), store=twin_store)
    copy_data(repo, twin)
    return twin


def copy_data(repo, twin):
    source, target = repo.client(), twin.client()
    target.flushall()
    keys = list(source.scan_iter(count=1000))
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        with source.pipeline(transaction=False) as ask, target.pipeline(transaction=False) as put:
            for key in part:
                ask.dump(key)
                ask.pttl(key)
            found = iter(ask.execute())
            for key, (dump, ttl_ms) in zip(part, zip(found, found), strict=True):
                put.restore(key, max(ttl_ms, 0), dump)
            put.execute()


def build(folder, connected, options, describe, seed):
    """Applies what `describe(draft)` says, and fills the Redis. Returns the `Repo`."""
    folder = Path(folder)
    (folder / "data").mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(settings(options, connected))
    warnings.simplefilter("ignore")
    draft = Draft(folder, options, seed)
    describe(draft)
    store = FeatureStore(repo_path=str(folder))
    sources = [view.stream_source for view in draft.objects.values() if getattr(view, "stream_source", None)]
    entities = [entity for entity, _ in draft.entities.values()]
    store.apply([*entities, *sources, *draft.objects.values(), *draft.on_demand.values(), *draft.services.values()])
    rng = random.Random(f"data of {seed}")
    for name, table in draft.tables.items():
        parquet.write_table(table, folder / "data" / f"{name}.parquet")
    if draft.tables:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            store.materialize(NOW - timedelta(days=1), NOW + timedelta(days=1), list(draft.tables))
    for name, view in draft.views.items():
        if name in draft.objects and name not in draft.tables:
            first = replace(view, features=features_of(draft.objects[name]))
            fill(
                store,
                first,
                store.registry.get_any_feature_view(name, options.project),
                rng,
                NOW - timedelta(hours=6),
            )
    for number, (made, view) in enumerate(draft.rounds):
        store.apply([made])
        declared = store.registry.get_any_feature_view(view.name, options.project)
        fill(store, view, declared, rng, NOW - timedelta(hours=5) + timedelta(minutes=number))
    if draft.late_services:
        store.apply(list(draft.late_services.values()))
    for name in draft.precomputed:
        store.precompute_feature_service(name)
    services = {name: seen_by_callers(made, draft) for name, made in (draft.services | draft.late_services).items()}
    repo = Repo(folder, options.project, connected, draft.views, services, draft.on_demand)
    repo.key_ttl_s, repo.has_versions = options.key_ttl_s, options.has_versions
    with_nanoseconds(repo, rng)
    return repo


KIND_OF_TYPE = {dtype: kind for kind, (dtype, _) in TYPES.items() if isinstance(dtype, PrimitiveFeastType)}


def features_of(made):
    """A declared view's features by name, as kinds; what is not a plain type is found by its text."""
    by_text = {str(dtype): kind for kind, (dtype, _) in TYPES.items()}
    return {f.name: KIND_OF_TYPE.get(f.dtype) or by_text[str(f.dtype)] for f in made.features}


def seen_by_callers(made, draft):
    """A service's parts: which columns a caller gives, and which view they are for."""
    parts = []
    for projection in made.feature_view_projections:
        view = draft.views.get(projection.name)
        if view:
            parts.append(({projection.join_key_map.get(key, key): key for key in view.keys}, view.name))
    needs_python = any(projection.name in draft.on_demand for projection in made.feature_view_projections)
    return Service(made.name, parts, made.precompute_online, needs_python)
