"""The fixed repository of the differential test: at least one of everything that Feast can declare and Redis hold."""

import math
from datetime import timedelta

import pyarrow
from feast import FeatureView, Field, FileSource, KafkaSource, PushSource, RequestSource
from feast.data_format import JsonFormat
from feast.feature_logging import LoggingConfig
from feast.feature_view import FeatureViewState
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.stream_feature_view import StreamFeatureView
from feast.types import Float64, Int64, String

from repo import NOW
from values import TYPES, WRITABLE


def describe(draft):
    entities(draft)
    single_keys(draft)
    composite_keys(draft)
    every_type(draft)
    ages_and_switches(draft)
    pushed(draft)
    versions(draft)
    if draft.options.has_versions:
        pinned(draft)
    services(draft)
    on_demand(draft)


def entities(draft):
    # A name that is not the join key, which Feast still accepts in requests.
    draft.entity("driver", "int64", join_key="driver_id")
    draft.entity("customer", "string", join_key="customer_id")
    draft.entity("shop_id", "int32")
    draft.entity("blob", "bytes", join_key="blob_key")
    draft.entity("hour", "time", join_key="hour_start")
    draft.entity("ratio", "float64", join_key="ratio_key")
    draft.entity("flag", "bool", join_key="flag_key")
    draft.entity("location", "int64", join_key="location_id")
    # Without a type of its own: each view's schema says what it is, and two of them disagree.
    draft.entity("code", "int64", is_typed=False)
    # Sorted by code point, these come in another order than declared: "Z" before "a" before "é".
    draft.entity("zone", "string", join_key="é_zone")
    draft.entity("area", "int64", join_key="a_area")
    draft.entity("Zeta", "int32", join_key="Zeta")


def single_keys(draft):
    numbers = {
        "conv_rate": "float64",
        "acc_rate": "float32",
        "avg_daily_trips": "int64",
        "rating": "int32",
        "tier": "string",
    }
    draft.view("driver_stats", ["driver"], numbers, count=40, tags={"team": "drivers"}, owner="a@example.com")
    draft.view(
        "driver_profile",
        ["driver"],
        {"name": "string", "is_active": "bool", "rating": "float64"},
        mapping={"nm": "name"},
    )
    draft.view(
        "customer_stats", ["customer"], {"orders": "int64", "spend": "float64", "tier": "string", "last_seen": "time"}
    )
    draft.view("shop_stats", ["shop_id"], {"orders": "int64", "open": "bool", "rating": "float32"})
    draft.view("blob_stats", ["blob"], {"size": "int64", "kind": "string"})
    draft.view("hourly", ["hour"], {"visits": "int64", "load": "float64"})
    # Keys that Feast cannot encode: the views can be declared, and every read fails.
    draft.view("by_ratio", ["ratio"], {"x": "int64"})
    draft.view("by_flag", ["flag"], {"x": "int64"})
    draft.view("locations", ["location"], {"temperature": "float64", "city": "string"}, count=30)
    draft.view("codes_as_numbers", ["code"], {"c1": "int64"}, key_kinds={"code": "int64"})
    draft.view("codes_as_text", ["code"], {"c2": "string"}, key_kinds={"code": "string"})
    # A feature that has the name of another view's join key, one with a colon, one with underscores, unicode.
    draft.view(
        "Δ-größe",
        ["customer"],
        {"driver_id": "int64", "a:b": "int64", "x__y": "float64", "größe": "string", "空 格": "int32"},
    )


def composite_keys(draft):
    draft.view(
        "driver_customer", ["driver", "customer"], {"trips_together": "int64", "affinity": "float64"}, count=30
    )
    draft.view("area_zone_zeta", ["zone", "area", "Zeta"], {"density": "float64", "label": "string"}, count=30)
    draft.view("shop_hour", ["shop_id", "hour"], {"sales": "int64"}, count=20)
    draft.view("nobody", [], {"global_mean": "float64", "release": "string"}, count=1)
    draft.view("nobody_else", [], {"threshold": "int32", "words": "strings"}, count=1)


def every_type(draft):
    draft.view("every_type", ["customer"], {f"f_{kind}": kind for kind in TYPES}, count=60)
    draft.view(
        "numbers",
        ["driver"],
        {f"n_{kind}": kind for kind in ("float64", "float32", "int64", "int32", "float64s", "float32s")},
        count=80,
    )


def ages_and_switches(draft):
    draft.view("ttl_short", ["driver"], {"s": "int64"}, ttl_s=1)
    draft.view("ttl_long", ["driver"], {"l": "int64"}, ttl_s=10**8)
    draft.view("ttl_part", ["driver"], {"p": "int64"}, ttl_s=0.5)
    draft.view("not_online", ["driver"], {"o": "int64"}, online=False)
    draft.view("disabled", ["driver"], {"d": "int64"}, enabled=False, serves=False)
    draft.view("never_filled", ["driver"], {"empty": "int64", "void": "string"}, count=0)
    draft.view("no_entity_filled", [], {"unset": "int64"}, count=0)
    # Feast serves views in no state and those that are available, and refuses the others.
    for state in ("AVAILABLE_ONLINE", "CREATED", "GENERATED", "MATERIALIZING"):
        name = f"in_state_{state.lower()}"
        draft.view(name, ["driver"], {"g": "int64"}, serves=state == "AVAILABLE_ONLINE").state = FeatureViewState[
            state
        ]
    # One that Feast itself brings from a file into the store, holes and all.
    count = 12
    draft.tables["materialized"] = pyarrow.table(
        {
            "driver_id": pyarrow.array([1001 + n for n in range(count)], pyarrow.int64()),
            "event_timestamp": pyarrow.array(
                [NOW - timedelta(minutes=n) for n in range(count)], pyarrow.timestamp("us", "UTC")
            ),
            "m_float": pyarrow.array([math.nan, None, *[n / 7 for n in range(count - 2)]], pyarrow.float64()),
            "m_int": pyarrow.array([None, 2**62, *range(count - 2)], pyarrow.int64()),
            "m_text": pyarrow.array([None, "", *["é"] * (count - 2)], pyarrow.string()),
            "m_floats": pyarrow.array([None, [], *[[0.1, math.nan]] * (count - 2)], pyarrow.list_(pyarrow.float32())),
        }
    )
    draft.view(
        "materialized",
        ["driver"],
        {"m_float": "float64", "m_int": "int64", "m_text": "string", "m_floats": "float32s"},
        count=count,
    )


def pushed(draft):
    draft.view("pushed_trips", ["driver"], {"speed": "float64", "trips": "int64", "note": "string"}, is_pushed=True)
    draft.view("pushed_pairs", ["driver", "customer"], {"score": "float64", "seen": "time"}, is_pushed=True)
    draft.view("pushed_nobody", [], {"gauge": "float64"}, count=1, is_pushed=True)
    draft.view("pushed_hours", ["hour"], {"visits_now": "int64"}, is_pushed=True, ttl_s=60)
    draft.view("written_types", ["customer"], {f"w_{kind}": kind for kind in WRITABLE}, is_pushed=True)
    # Two views behind one push source.
    shared = PushSource(name="shared_push", batch_source=draft.source("shared"))
    for name in ("shared_left", "shared_right"):
        features = {f"{name}_n": "int64", "both": "string"}
        made = plain_view(draft, name, ["driver"], features, shared)
        draft.view(name, ["driver"], features, is_pushed=True, made=made)
    mapped = FileSource(
        name="mapped_source",
        path=str(draft.folder / "data/mapped.parquet"),
        timestamp_field="when",
        created_timestamp_column="made_at",
        field_mapping={"nr": "number"},
    )
    features = {"number": "int64", "word": "string"}
    made = plain_view(draft, "mapped", ["driver"], features, PushSource(name="mapped_push", batch_source=mapped))
    draft.view("mapped", ["driver"], features, is_pushed=True, made=made)
    kafka = KafkaSource(
        name="kafka",
        kafka_bootstrap_servers="localhost:1",
        topic="t",
        message_format=JsonFormat(schema_json="driver_id long, hits long"),
        timestamp_field="event_timestamp",
        batch_source=draft.source("kafka_batch"),
        watermark_delay_threshold=timedelta(minutes=5),
    )
    features = {"hits": "int64", "rate": "float64"}
    stream = StreamFeatureView(
        name="stream_hits",
        entities=[draft.entities["driver"][0]],
        schema=[Field(name=name, dtype=TYPES[kind][0]) for name, kind in features.items()],
        source=kafka,
        ttl=timedelta(days=1),
    )
    draft.view("stream_hits", ["driver"], features, made=stream)
    labels = LabelView(
        name="labels",
        entities=[draft.entities["driver"][0]],
        schema=[Field(name=n, dtype=t) for n, t in (("driver_id", Int64), ("verdict", String), ("labeler", String))],
        source=PushSource(name="labels_push", batch_source=draft.source("labels")),
    )
    draft.view("labels", ["driver"], {"verdict": "string", "labeler": "string"}, made=labels)


def plain_view(draft, name, entities, features, source):
    return FeatureView(
        name=name,
        entities=[draft.entities[entity][0] for entity in entities],
        schema=[Field(name=feature, dtype=TYPES[kind][0]) for feature, kind in features.items()],
        source=source,
    )


def versions(draft):
    """Three versions of one view, two of another. Without versioning in the store each overlays the one before."""
    draft.view("evolving", ["driver"], {"v_trips": "int64", "v_rate": "float64"}, count=15)
    draft.again("evolving", {"v_trips": "int64", "v_rate": "float32", "v_name": "string"})
    draft.again("evolving", {"v_trips": "string", "v_name": "string"})
    draft.view("renewed", ["customer"], {"r_one": "int64"})
    draft.again("renewed", {"r_one": "int64", "r_two": "strings"})


def pinned(draft):
    draft.service("pins_first", "evolving@v0", is_late=True)
    draft.service("pins_middle", "evolving@v1:v_name", "renewed", is_late=True)
    draft.service("pins_latest", "evolving@v2", "driver_stats:tier", is_late=True)
    draft.service("pins_nothing", "evolving:v_trips", "renewed:r_two", is_late=True)


def services(draft):
    view = draft.objects
    draft.service("drivers", view["driver_stats"], view["driver_profile"][["name", "is_active"]])
    draft.service("narrow", view["driver_stats"][["acc_rate"]])
    draft.service("two_tiers", view["driver_stats"][["tier"]], view["customer_stats"][["tier", "orders"]])
    draft.service(
        "renamed",
        view["driver_stats"][["rating"]].with_name("stats_now"),
        view["driver_profile"][["rating"]].with_name("profil é"),
    )
    locations = view["locations"]
    origin = locations.with_name("origin").with_join_key_map({"location_id": "origin_id"})
    destination = locations.with_name("destination").with_join_key_map({"location_id": "destination_id"})
    draft.service("journeys", origin, destination)
    draft.service("journey_cities", origin[["city"]], destination[["temperature"]])
    draft.service("home_and_away", locations[["city"]], destination[["temperature"]])
    draft.service("mapped_without_name", locations.with_join_key_map({"location_id": "origin_id"}))
    pairs = view["driver_customer"].with_join_key_map({"driver_id": "partner_id", "customer_id": "client_id"})
    draft.service("pairs", view["driver_customer"][["affinity"]], pairs.with_name("partners")[["trips_together"]])
    draft.service("half_mapped", view["driver_customer"].with_join_key_map({"driver_id": "partner_id"}))
    # Entities exchanged: what the one view calls a driver is the other's customer.
    draft.service("same_twice", view["driver_stats"][["acc_rate"]], view["driver_stats"][["tier"]])
    draft.service("everything", view["every_type"])
    draft.service("composite", view["area_zone_zeta"], view["shop_hour"], view["shop_stats"])
    draft.service("entityless", view["nobody"], view["nobody_else"][["threshold"]])
    draft.service("with_nobody", view["nobody"], view["driver_stats"][["tier"]])
    draft.service("odd names", view["Δ-größe"])
    draft.service("with_disabled", view["driver_stats"], view["disabled"])
    draft.service("streams", view["stream_hits"], view["pushed_trips"])
    draft.service("grown", view["evolving"], view["renewed"])
    # Answers that Feast computed beforehand, one blob an entity; and a service for which nobody did.
    parts = [view["driver_stats"][["tier", "rating"]], view["ttl_short"], view["ttl_long"].with_name("long é")]
    draft.service("precomputed", *parts, precompute_online=True)
    draft.precomputed.append("precomputed")
    draft.service("never_precomputed", view["driver_stats"][["tier"]], precompute_online=True)
    destination = FileLoggingDestination(path=str(draft.folder / "data/logs"))
    draft.service(
        "logged",
        view["driver_stats"],
        view["driver_profile"][["name"]],
        logging_config=LoggingConfig(destination=destination, sample_rate=1.0),
    )


def on_demand(draft):
    asked = RequestSource(name="asked", schema=[Field(name="distance", dtype=Float64)])

    @on_demand_feature_view(
        sources=[draft.objects["driver_stats"][["conv_rate", "acc_rate"]], asked],
        schema=[Field(name="scaled", dtype=Float64)],
        mode="python",
    )
    def with_request_data(inputs):
        return {"scaled": [(a or 0.0) * (b or 0.0) for a, b in zip(inputs["conv_rate"], inputs["distance"])]}

    @on_demand_feature_view(
        sources=[draft.objects["driver_stats"][["avg_daily_trips"]]],
        schema=[Field(name="doubled", dtype=Int64)],
        mode="python",
    )
    def doubled_trips(inputs):
        return {"doubled": [2 * n if n is not None else None for n in inputs["avg_daily_trips"]]}

    draft.on_demand |= {"with_request_data": with_request_data, "doubled_trips": doubled_trips}
    draft.service("on_demand_service", draft.objects["driver_stats"][["tier"]], doubled_trips)
