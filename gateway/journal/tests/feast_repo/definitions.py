"""What `feast_log.rs` serves, declared in Feast: every type that Feast can log, an alias with another join key, a time
as a join key, and an on-demand view with request data. Nothing is ever read from its sources.
"""

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int64, String, UnixTimestamp

TYPES = {"b": Bool, "i": Int64, "d": Float64, "f": Float32, "s": String, "y": Bytes, "t": UnixTimestamp}

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
slot = Entity(name="slot", join_keys=["slot"], value_type=ValueType.UNIX_TIMESTAMP)


def view(name, entities, keys, features):
    schema = [Field(name=n, dtype=of) for n, of in {**keys, **features}.items()]
    source = FileSource(name=f"{name}_rows", path=f"{name}.parquet", timestamp_field="event_time")
    return FeatureView(name=name, entities=entities, schema=schema, source=source)


lists = {f"l{name}": Array(of) for name, of in TYPES.items()}
stats = view("stats", [user, item], {"user": String, "item": Int64}, {**TYPES, **lists})
clock = view("clock", [slot], {"slot": UnixTimestamp}, {"hour": Int64})


@on_demand_feature_view(
    sources=[RequestSource(name="basket", schema=[Field(name="amount", dtype=Float64)])],
    schema=[Field(name="score", dtype=Float64)],
    mode="python",
)
def pricing(inputs):
    return {"score": inputs["amount"]}


home = FeatureService(
    name="home",
    features=[
        stats,
        stats[["d", "s"]].with_name("twin").with_join_key_map({"item": "other_item"}),
        clock,
        pricing,
    ],
    logging_config=LoggingConfig(destination=FileLoggingDestination(path="log")),
)
