"""Checks the Parquet files against plain loops over the CSV files. It shares no code with derive.py, and takes the moment of
departure from the local wall-clock columns where derive.py takes it from the UTC one."""

import csv
import io
import math
import random
import statistics
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as parquet

NEW_YORK = ZoneInfo("America/New_York")
CUTOFF = datetime(2013, 12, 1, 0, 0, tzinfo=NEW_YORK).astimezone(UTC)
KEYS = {
    "plane": ["tailnum"],
    "carrier": ["carrier"],
    "route": ["origin", "dest"],
    "weather": ["origin"],
    "destination": ["dest"],
}
RUNWAY_ENDS_DEG = {"EWR": (26, 206, 95, 275), "JFK": (31, 211, 121, 301), "LGA": (32, 212, 122, 302)}

# Sums in another order differ in the last digits; a profile is f32.
TOLERANCE = {"profile": 1e-6}
TOLERANCE_ELSE = 1e-9


def check(csv_folder: Path, folders: list[Path], rows_per_file: int) -> list[str]:
    """Compares random rows of every file. Prints a line per file; returns what is wrong, a sentence each."""
    facts = Facts(csv_folder)
    mistakes = []
    for folder in folders:
        for path in sorted(folder.glob("*.parquet")):
            found, values = check_file(facts, path, rows_per_file)
            mistakes += found
            print(f"{path.name}: {values} values of random rows compared, {len(found)} wrong")
    return mistakes


def check_file(facts: "Facts", path: Path, rows_per_file: int) -> tuple[list[str], int]:
    name = path.stem
    table = parquet.read_table(path)
    in_history = "created_at" in table.column_names
    chance = random.Random(name)
    mistakes, values = [], 0
    for index in chance.sample(range(table.num_rows), min(rows_per_file, table.num_rows)):
        row = table.slice(index, 1).to_pylist()[0]
        if name in ("replay", "flights"):
            expected = facts.flight_row(row)
        else:
            cutoff = row["created_at"] if in_history else CUTOFF
            expected = getattr(facts, name)(*[row[key] for key in KEYS[name]], cutoff)
        for column, value in row.items():
            if column in KEYS.get(name, []) or column == "created_at":
                continue
            values += 1
            if not same(value, expected[column], TOLERANCE.get(column, TOLERANCE_ELSE)):
                mistakes.append(f"{path} row {index} {column}: the file has {value}, brute force {expected[column]}")
    if not in_history and name != "flights":
        mistakes += [f"{path}: {trouble}" for trouble in facts.troubles_of_the_whole(name, table.to_pylist())]
    return mistakes, values


def same(left, right, tolerance: float) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return left == right and (left is None) == (right is None)


class Facts:
    """The CSV files as plain records, and each view's row recomputed from them."""

    def __init__(self, folder: Path):
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
            self.flights = [flight_fact(row) for row in csv.DictReader(io.TextIOWrapper(raw))]
        self.planes = {row["tailnum"]: row for row in read(folder / "planes.csv")}
        self.airports = {row["faa"]: row for row in read(folder / "airports.csv")}
        self.airlines = {row["carrier"]: row for row in read(folder / "airlines.csv")}
        self.readings = sorted((weather_fact(row) for row in read(folder / "weather.csv")), key=lambda fact: fact["event_time"])

    def known(self, cutoff: datetime, **keys: str) -> list[dict]:
        return [
            flight
            for flight in self.flights
            if flight["known_at"] < cutoff and all(flight[key] == value for key, value in keys.items())
        ]

    def plane(self, tailnum: str, cutoff: datetime) -> dict:
        flown = [flight for flight in self.known(cutoff, tailnum=tailnum) if not flight["cancelled"]]
        month = within(flown, cutoff, 30)
        known_plane = self.planes.get(tailnum, {})
        year = number(known_plane.get("year", "NA"))
        return {
            "event_time": newest(flown),
            "age_years": None if year is None else 2013 - int(year),
            "seats": int(known_plane["seats"]) if known_plane else None,
            "engines": int(known_plane["engines"]) if known_plane else None,
            "manufacturer": known_plane.get("manufacturer"),
            "arr_delay_mean_30d_min": mean_of(month, "arr_delay"),
            "flights_30d": len(month),
        }

    def carrier(self, carrier: str, cutoff: datetime) -> dict:
        known = self.known(cutoff, carrier=carrier)
        week, month = within(known, cutoff, 7), within(known, cutoff, 30)
        delays = sorted(present(month, "arr_delay"))
        p90 = delays[0] if len(delays) == 1 else None
        if len(delays) > 1:
            p90 = statistics.quantiles(delays, n=10, method="inclusive")[8]
        return {
            "event_time": newest(known),
            "name": self.airlines[carrier]["name"],
            "dep_delay_mean_7d_min": mean_of(week, "dep_delay"),
            "arr_delay_mean_7d_min": mean_of(week, "arr_delay"),
            "arr_delay_p90_30d_min": p90,
            "cancelled_share_30d": sum(flight["cancelled"] for flight in month) / len(month) if month else None,
            "flights_30d": len(month),
        }

    def route(self, origin: str, dest: str, cutoff: datetime) -> dict:
        known = self.known(cutoff, origin=origin, dest=dest)
        month = within(known, cutoff, 30)
        delays = present(month, "arr_delay")
        return {
            "event_time": newest(known),
            "distance_mi": sorted(known, key=lambda flight: flight["known_at"])[-1]["distance"],
            "arr_delay_mean_30d_min": mean_of(month, "arr_delay"),
            "arr_delay_std_30d_min": statistics.stdev(delays) if len(delays) > 1 else None,
            "flights_30d": len(month),
        }

    def weather(self, origin: str, cutoff: datetime) -> dict:
        return [fact for fact in self.readings if fact["origin"] == origin and fact["event_time"] <= cutoff][-1]

    def destination(self, dest: str, cutoff: datetime) -> dict:
        known = self.known(cutoff, dest=dest)
        quarter = [flight for flight in within(known, cutoff, 90) if flight["arr_delay"] is not None]
        profile = None
        if quarter:
            late = [[max(0.0, flight["arr_delay"]) for flight in quarter if flight["hour"] == hour] for hour in range(24)]
            means = [statistics.fmean(minutes) if minutes else 0.0 for minutes in late]
            length = math.hypot(*means)
            profile = [mean / length if length else 0.0 for mean in means]
        airport = self.airports.get(dest)
        return {
            "event_time": newest(known),
            "name": airport["name"] if airport else None,
            "lat": float(airport["lat"]) if airport else None,
            "lon": float(airport["lon"]) if airport else None,
            "profile": profile,
            "busy": len(within(known, cutoff, 30)) / 30 > 10,
        }

    def flight_row(self, row: dict) -> dict:
        names = ["scheduled_at", "origin", "dest", "carrier", "tailnum", "flight"]
        flight = next(flight for flight in self.flights if all(flight[name] == row[name] for name in names))
        runway = None
        for reading in self.readings:
            if reading["origin"] != flight["origin"] or reading["event_time"] > flight["scheduled_at"]:
                continue
            if reading["wind_dir_deg"] is not None and (reading["wind_speed_mph"] or 0) > 0:
                ends = RUNWAY_ENDS_DEG[flight["origin"]]
                runway = min(ends, key=lambda end: turn_deg(end, reading["wind_dir_deg"]))
        return flight | {
            "sched_hour": flight["hour"],
            "runway_heading_deg": None if runway is None else float(runway),
            "arr_delay_min": flight["arr_delay"],
            "dep_delay_min": flight["dep_delay"],
        }

    def troubles_of_the_whole(self, name: str, rows: list[dict]) -> list[str]:
        """What no sample shows: every entity there once and no other, nothing from the future, the replay whole and in order."""
        troubles = []
        if name == "replay":
            end = CUTOFF + timedelta(days=5)
            wanted = [flight for flight in self.flights if CUTOFF <= flight["scheduled_at"] < end and flight["tailnum"] is not None]
            if len(rows) != len(wanted):
                troubles.append(f"{len(rows)} flights, brute force finds {len(wanted)}")
            if any(later["scheduled_at"] < earlier["scheduled_at"] for earlier, later in zip(rows, rows[1:])):
                troubles.append("not in order of time")
            return troubles
        facts = self.readings if name == "weather" else self.known(CUTOFF)
        if name == "plane":
            facts = [flight for flight in facts if flight["tailnum"] is not None and not flight["cancelled"]]
        wanted = sorted({tuple(fact[key] for key in KEYS[name]) for fact in facts})
        if [tuple(row[key] for key in KEYS[name]) for row in rows] != wanted:
            troubles.append("its entities are not those that brute force finds, once each, in order")
        if any(row["event_time"] > CUTOFF or (row["event_time"] == CUTOFF and name != "weather") for row in rows):
            troubles.append("a row has an event time that was still to come")
        return troubles


def read(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    return None if text in ("NA", "") else float(text)


def flight_fact(row: dict) -> dict:
    local = datetime(*[int(row[part]) for part in ("year", "month", "day", "hour", "minute")], tzinfo=NEW_YORK)
    scheduled_at = local.astimezone(UTC)
    dep_delay, air_time = number(row["dep_delay"]), number(row["air_time"])
    minutes = max(dep_delay or 0.0, 0.0) + (360 if air_time is None else air_time)
    return {
        "scheduled_at": scheduled_at,
        "known_at": scheduled_at + timedelta(minutes=minutes),
        "origin": row["origin"],
        "dest": row["dest"],
        "carrier": row["carrier"],
        "tailnum": None if row["tailnum"] in ("NA", "") else row["tailnum"],
        "flight": int(row["flight"]),
        "hour": int(row["hour"]),
        "distance": int(row["distance"]),
        "cancelled": row["dep_time"] in ("NA", ""),
        "dep_delay": dep_delay,
        "arr_delay": number(row["arr_delay"]),
    }


def weather_fact(row: dict) -> dict:
    speed = number(row["wind_speed"])
    return {
        "origin": row["origin"],
        "event_time": datetime.fromisoformat(row["time_hour"]),
        "temp_f": number(row["temp"]),
        "wind_dir_deg": number(row["wind_dir"]),
        "wind_speed_mph": None if speed is not None and speed > 250 else speed,
        "wind_gust_mph": number(row["wind_gust"]),
        "precip_in": number(row["precip"]),
        "pressure_hpa": number(row["pressure"]),
        "visibility_mi": number(row["visib"]),
    }


def within(flights: list[dict], cutoff: datetime, days: int) -> list[dict]:
    return [flight for flight in flights if flight["known_at"] >= cutoff - timedelta(days=days)]


def newest(flights: list[dict]) -> datetime:
    return max(flight["known_at"] for flight in flights)


def present(flights: list[dict], name: str) -> list[float]:
    return [flight[name] for flight in flights if flight[name] is not None]


def mean_of(flights: list[dict], name: str) -> float | None:
    values = present(flights, name)
    return statistics.fmean(values) if values else None


def turn_deg(heading: float, wind_dir: float) -> float:
    turn = abs(heading - wind_dir) % 360
    return min(turn, 360 - turn)
