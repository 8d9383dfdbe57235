"""From the CSV files to feature rows, by event time and without leakage: a row as of T rests only on flights known strictly before T.

When a flight is known: at scheduled departure + departure delay (if late) + air time; six hours after it would have left when it
never arrived (cancelled, diverted). Windows are on that moment too: "30d" is known_at in [T - 30 days, T).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

# Midnight in New York: the demo serves every view as it stood then, and replays the flights that follow.
CUTOFF = pd.Timestamp("2013-12-01T05:00:00Z")
REPLAY_DAYS = 5
NO_ARRIVAL_KNOWN_AFTER = pd.Timedelta(hours=6)
BUSY_FLIGHTS_A_DAY = 10

# One reading (EWR, 12 February) says 1048 mph. No wind on Earth blows at 250; such a reading is a null.
WIND_SPEED_MPH_MAX = 250

# True headings of both ends of each runway, from OurAirports (runways.csv, le_heading_degT and he_heading_degT; public domain).
# Parallel runways (04L and 04R) count once. Of two equally well aligned, the first is taken.
RUNWAY_HEADINGS_DEG = {
    "EWR": [26.0, 206.0, 95.0, 275.0],  # 04/22, 11/29
    "JFK": [31.0, 211.0, 121.0, 301.0],  # 04/22, 13/31
    "LGA": [32.0, 212.0, 122.0, 302.0],  # 04/22, 13/31
}

INSTANT = pa.timestamp("us", tz="UTC")
SCHEMAS = {
    "plane": pa.schema({
        "tailnum": pa.string(), "event_time": INSTANT, "age_years": pa.int64(), "seats": pa.int64(), "engines": pa.int64(),
        "manufacturer": pa.string(), "arr_delay_mean_30d_min": pa.float64(), "flights_30d": pa.int64(),
    }),
    "carrier": pa.schema({
        "carrier": pa.string(), "event_time": INSTANT, "name": pa.string(), "dep_delay_mean_7d_min": pa.float64(),
        "arr_delay_mean_7d_min": pa.float64(), "arr_delay_p90_30d_min": pa.float64(), "cancelled_share_30d": pa.float64(),
        "flights_30d": pa.int64(),
    }),
    "route": pa.schema({
        "origin": pa.string(), "dest": pa.string(), "event_time": INSTANT, "distance_mi": pa.int64(),
        "arr_delay_mean_30d_min": pa.float64(), "arr_delay_std_30d_min": pa.float64(), "flights_30d": pa.int64(),
    }),
    "weather": pa.schema({
        "origin": pa.string(), "event_time": INSTANT, "temp_f": pa.float64(), "wind_dir_deg": pa.float64(),
        "wind_speed_mph": pa.float64(), "wind_gust_mph": pa.float64(), "precip_in": pa.float64(), "pressure_hpa": pa.float64(),
        "visibility_mi": pa.float64(),
    }),
    "destination": pa.schema({
        "dest": pa.string(), "event_time": INSTANT, "name": pa.string(), "lat": pa.float64(), "lon": pa.float64(),
        "profile": pa.list_(pa.float32()), "busy": pa.bool_(),
    }),
    "replay": pa.schema({
        "scheduled_at": INSTANT, "origin": pa.string(), "dest": pa.string(), "carrier": pa.string(), "tailnum": pa.string(),
        "flight": pa.int64(), "sched_hour": pa.int64(), "runway_heading_deg": pa.float64(), "arr_delay_min": pa.float64(),
    }),
}
VIEWS = ["plane", "carrier", "route", "weather", "destination"]
# created_at is when the row could first be read: the nightly run that made it; a weather reading is there at once.
HISTORY_SCHEMAS = {view: SCHEMAS[view].append(pa.field("created_at", INSTANT)) for view in VIEWS} | {
    "flights": pa.schema([
        *SCHEMAS["replay"], pa.field("dep_delay_min", pa.float64()), pa.field("cancelled", pa.bool_()), pa.field("known_at", INSTANT),
    ]),
}


class Ledger:
    """Flights in the order in which they became known."""

    def __init__(self, flights: pd.DataFrame):
        self.flights = flights.sort_values("known_at", kind="stable", ignore_index=True)
        self.known_at = pd.DatetimeIndex(self.flights["known_at"])

    def before(self, cutoff: pd.Timestamp) -> pd.DataFrame:
        return self.flights.iloc[: self.known_at.searchsorted(cutoff)]

    def window(self, cutoff: pd.Timestamp, days: int) -> pd.DataFrame:
        start = self.known_at.searchsorted(cutoff - pd.Timedelta(days=days))
        return self.flights.iloc[start : self.known_at.searchsorted(cutoff)]


@dataclass(frozen=True)
class Sources:
    flights: pd.DataFrame  # every scheduled flight, as published, with its moments
    scheduled: Ledger  # the same, cancelled ones included
    flown: Ledger  # those that left the ground with a known plane
    planes: pd.DataFrame
    airports: pd.DataFrame
    airlines: pd.DataFrame
    weather: pd.DataFrame


def read_sources(folder: Path) -> Sources:
    flights = pd.read_csv(folder / "flights.csv.zip")
    flights["scheduled_at"] = utc(flights["time_hour"]) + pd.to_timedelta(flights["minute"], unit="min")
    left_at = flights["scheduled_at"] + pd.to_timedelta(flights["dep_delay"].clip(lower=0).fillna(0), unit="min")
    in_the_air = pd.to_timedelta(flights["air_time"], unit="min").fillna(NO_ARRIVAL_KNOWN_AFTER)
    flights["known_at"] = left_at + in_the_air
    flights["cancelled"] = flights["dep_time"].isna()
    for key in ["tailnum", "carrier", "origin", "dest"]:
        flights[key] = flights[key].astype("category")

    weather = pd.read_csv(folder / "weather.csv").rename(columns={
        "temp": "temp_f", "wind_dir": "wind_dir_deg", "wind_speed": "wind_speed_mph", "wind_gust": "wind_gust_mph",
        "precip": "precip_in", "pressure": "pressure_hpa", "visib": "visibility_mi",
    })
    weather["event_time"] = utc(weather["time_hour"])
    weather["wind_speed_mph"] = weather["wind_speed_mph"].mask(weather["wind_speed_mph"] > WIND_SPEED_MPH_MAX)
    weather = weather.sort_values(["event_time", "origin"], ignore_index=True)

    planes = pd.read_csv(folder / "planes.csv").set_index("tailnum")
    planes["age_years"] = 2013 - planes["year"]
    return Sources(
        flights=flights,
        scheduled=Ledger(flights),
        flown=Ledger(flights[flights["tailnum"].notna() & ~flights["cancelled"]]),
        planes=planes[["age_years", "seats", "engines", "manufacturer"]],
        airports=pd.read_csv(folder / "airports.csv").set_index("faa")[["name", "lat", "lon"]],
        airlines=pd.read_csv(folder / "airlines.csv").set_index("carrier"),
        weather=weather,
    )


def utc(texts: pd.Series) -> pd.Series:
    return pd.to_datetime(texts, utc=True).dt.as_unit("us")


def state_at(sources: Sources, cutoff: pd.Timestamp) -> dict[str, pd.DataFrame]:
    """Every view as it stood at the cutoff, one row an entity, sorted by key."""
    return {
        "plane": plane_state(sources, cutoff),
        "carrier": carrier_state(sources, cutoff),
        "route": route_state(sources, cutoff),
        "weather": sources.weather[sources.weather["event_time"] <= cutoff].groupby("origin").tail(1).sort_values("origin"),
        "destination": destination_state(sources, cutoff),
    }


def plane_state(sources: Sources, cutoff: pd.Timestamp) -> pd.DataFrame:
    rows = sources.flown.before(cutoff).groupby("tailnum").agg(event_time=("known_at", "max"))
    month = sources.flown.window(cutoff, days=30).groupby("tailnum")
    rows = rows.join(month.agg(arr_delay_mean_30d_min=("arr_delay", "mean"), flights_30d=("flight", "size")))
    return counted(rows).join(sources.planes).reset_index()


def carrier_state(sources: Sources, cutoff: pd.Timestamp) -> pd.DataFrame:
    rows = sources.scheduled.before(cutoff).groupby("carrier").agg(event_time=("known_at", "max"))
    week = sources.scheduled.window(cutoff, days=7).groupby("carrier")
    month = sources.scheduled.window(cutoff, days=30).groupby("carrier")
    rows = rows.join(week.agg(dep_delay_mean_7d_min=("dep_delay", "mean"), arr_delay_mean_7d_min=("arr_delay", "mean")))
    rows = rows.join(month.agg(cancelled_share_30d=("cancelled", "mean"), flights_30d=("flight", "size")))
    rows = rows.join(month["arr_delay"].quantile(0.9).rename("arr_delay_p90_30d_min"))
    return counted(rows).join(sources.airlines).reset_index()


def route_state(sources: Sources, cutoff: pd.Timestamp) -> pd.DataFrame:
    # Two routes are published with two distances a mile apart; the latest stands.
    keys = ["origin", "dest"]
    rows = sources.scheduled.before(cutoff).groupby(keys).agg(event_time=("known_at", "max"), distance_mi=("distance", "last"))
    month = sources.scheduled.window(cutoff, days=30).groupby(keys)
    rows = rows.join(month.agg(
        arr_delay_mean_30d_min=("arr_delay", "mean"), arr_delay_std_30d_min=("arr_delay", "std"), flights_30d=("flight", "size"),
    ))
    return counted(rows).reset_index()


def destination_state(sources: Sources, cutoff: pd.Timestamp) -> pd.DataFrame:
    rows = sources.scheduled.before(cutoff).groupby("dest").agg(event_time=("known_at", "max"))
    flights_30d = sources.scheduled.window(cutoff, days=30).groupby("dest").size()
    rows["busy"] = flights_30d.reindex(rows.index, fill_value=0) > 30 * BUSY_FLIGHTS_A_DAY
    return rows.join(delay_profiles(sources.scheduled.window(cutoff, days=90))).join(sources.airports).reset_index()


def delay_profiles(flights: pd.DataFrame) -> pd.Series:
    """Mean minutes late (early counts as 0) by scheduled local hour of departure, as a unit vector of 24; zeros where never late."""
    arrived = flights[flights["arr_delay"].notna()]
    late = arrived["arr_delay"].clip(lower=0).groupby([arrived["dest"], arrived["hour"]]).mean()
    by_hour = late.unstack("hour").reindex(columns=range(24)).fillna(0.0)
    vectors = by_hour.to_numpy()
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    vectors = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return pd.Series(list(vectors), index=by_hour.index, name="profile", dtype=object)


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(flights_30d=rows["flights_30d"].fillna(0))


def runway_in_use(weather: pd.DataFrame) -> pd.DataFrame:
    """For each reading the runway best aligned with the wind. In calm or variable wind the last one stays in use;
    null until the year's first steady wind."""
    readings = []
    for origin, rows in weather.groupby("origin"):
        headings = np.array(RUNWAY_HEADINGS_DEG[origin])
        off_deg = np.abs((rows["wind_dir_deg"].to_numpy()[:, None] - headings + 180) % 360 - 180)
        best = pd.Series(headings[np.argmin(off_deg, axis=1)], index=rows.index)
        steady = rows["wind_dir_deg"].notna() & (rows["wind_speed_mph"] > 0)
        readings.append(rows[["origin", "event_time"]].assign(runway_heading_deg=best.where(steady).ffill()))
    return pd.concat(readings).sort_values("event_time", kind="stable")


def labelled_flights(sources: Sources) -> pd.DataFrame:
    """Every flight in order of time with what a caller would send and what came of it."""
    flights = sources.flights.astype({"origin": str, "dest": str, "carrier": str}).rename(columns={
        "hour": "sched_hour", "arr_delay": "arr_delay_min", "dep_delay": "dep_delay_min",
    })
    flights = flights.sort_values(["scheduled_at", "carrier", "flight", "origin"], kind="stable")
    runways = runway_in_use(sources.weather).astype({"origin": str})
    return pd.merge_asof(flights, runways, left_on="scheduled_at", right_on="event_time", by="origin")


def replay(sources: Sources) -> pd.DataFrame:
    flights = labelled_flights(sources)
    end = CUTOFF + pd.Timedelta(days=REPLAY_DAYS)
    soon = (flights["scheduled_at"] >= CUTOFF) & (flights["scheduled_at"] < end)
    return flights[soon & flights["tailnum"].notna()]


def history(sources: Sources, progress: Callable[[int, int], None]) -> dict[str, pd.DataFrame]:
    """Every view at every New York midnight of the year (weather: every reading), and every flight with its outcome."""
    nights = pd.date_range("2013-01-02", "2014-01-01", freq="D", tz="America/New_York").tz_convert("UTC")
    states: dict[str, list[pd.DataFrame]] = {view: [] for view in VIEWS if view != "weather"}
    for done, night in enumerate(nights, start=1):
        state = state_at(sources, night)
        for view, rows in states.items():
            rows.append(state[view].assign(created_at=night))
        progress(done, len(nights))
    tables = {view: pd.concat(rows, ignore_index=True) for view, rows in states.items()}
    tables["weather"] = sources.weather.assign(created_at=sources.weather["event_time"])
    tables["flights"] = labelled_flights(sources)
    return tables


def write(rows: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    columns = []
    for field in schema:
        values = rows[field.name]
        if pa.types.is_string(field.type):
            values = values.astype(object).where(values.notna(), None)
        elif pa.types.is_integer(field.type):
            values = values.astype("Int64")  # float because of its nulls
        columns.append(pa.Array.from_pandas(values, type=field.type))
    table = pa.Table.from_arrays(columns, schema=schema)
    parquet.write_table(table, path, compression="zstd", compression_level=9)
