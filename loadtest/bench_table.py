"""Turns what bench.py measured into a Markdown table: ratios of neighbours, round by round, and the targets."""

import statistics

# A process that uses this much of its core has it to itself and can do no more.
FULL = 0.9
# With more of the machine in others' hands, times are theirs as much as ours.
OTHERS_MAX = 0.1


class Lines:
    """The lines of the table."""

    def __init__(self, report):
        self.cases, self.facts = report["cases"], report["facts"]
        self.lines = ["| measured | value (rounds) | target | | behind it |", "|---|---|---|---|---|"]

    def rounds(self, of):
        names = list(self.cases)
        return [of({name: self.cases[name][i] for name in names}) for i in range(len(self.cases[names[0]]))]

    def median(self, case, key):
        return statistics.median(result[key] for result in self.cases[case])

    def micros(self, over, *under):
        """The medians of what is divided and of what it is divided by."""
        added = " + ".join(f"{self.median(*one):.0f}" for one in under)
        return f"{self.median(*over):.0f} µs, against {added} µs"

    def add(self, what, values, target, behind, digits=2, unit="", but=None):
        """`target` is a pair of a comparison and a number, or None where none is set. `but` replaces the verdict."""
        value = statistics.median(values)
        said, verdict = "–", ""
        if target:
            sign, wanted = target
            said = f"{sign} {wanted}{unit}"
            is_met = value >= wanted if sign == "≥" else value <= wanted
            noisy = unit != " MB" and self.facts["others_share"] > OTHERS_MAX
            verdict = "unclear" if noisy else but or ("met" if is_met else "**missed**")
        spread = f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else ""
        self.lines.append(f"| {what} | **{value:.{digits}f}{unit}**{spread} | {said} | {verdict} | {behind} |")

    def is_bound_by_server(self, case):
        return self.median(case, "server_cpu_share") >= FULL

    def rps(self, case):
        note = ""
        if not self.is_bound_by_server(case):
            load_is_full = self.median(case, "cpu_share") > FULL
            note = " (bound by the load)" if load_is_full else " (neither core was full)"
        real = min(result.get("real_share", 1) for result in self.cases[case])
        if real < 0.9999:
            note += f" (**only {real:.1%} of the values are real**)"
        cost = self.median(case, "server_cpu_us")
        return f"{self.median(case, 'rps'):,.0f} rps at {cost:.1f} µs CPU{note}"


def table(report):
    out = Lines(report)

    def throughput(what, over, under, wanted, more="", but=None):
        ratios = out.rounds(lambda r: r[over]["rps"] / r[under]["rps"])
        cpu = statistics.median(out.rounds(lambda r: r[under]["server_cpu_us"] / r[over]["server_cpu_us"]))
        if not (out.is_bound_by_server(over) and out.is_bound_by_server(under)):
            but = but or "unclear"
        behind = f"{out.rps(over)}, against {out.rps(under)}: by CPU alone {cpu:.2f}{more}"
        out.add(what, ratios, ("≥", wanted) if wanted else None, behind, but=but)

    throughput("hits ÷ floor, 100 × 50, hot keys", "hit_hot", "floor_hot", 0.9)
    throughput("hits ÷ floor, 100 × 50, 20,000 spread keys", "hit_spread", "floor_spread", 0.75)
    throughput("hits ÷ floor, 1 × 50", "hit_one", "floor_one", 0.9)
    bare = lambda r, key, raw: r["floor_c1"][key] + r["raw_c1"][raw]
    ratios = out.rounds(lambda r: r["miss_c1"]["server_cpu_us"] / bare(r, "server_cpu_us", "cpu_us"))
    costs = out.micros(("miss_c1", "server_cpu_us"), ("floor_c1", "server_cpu_us"), ("raw_c1", "cpu_us"))
    out.add("miss ÷ (floor + raw MGET), CPU a request, 100 × 50", ratios, ("≤", 1.0), costs)
    ratios = out.rounds(lambda r: r["miss_c1"]["p50_us"] / bare(r, "p50_us", "p50_us"))
    costs = out.micros(("miss_c1", "p50_us"), ("floor_c1", "p50_us"), ("raw_c1", "p50_us"))
    out.add("miss ÷ (floor + raw MGET), p50 at c = 1, 100 × 50", ratios, ("≤", 0.9), costs)
    throughput("misses ÷ floor without a store, 32 in flight, 100 × 50", "miss_spread", "floor_spread", None)
    for size, what in (("hot", "100 × 50"), ("one", "1 × 50")):
        kept = out.median(f"journal_{size}", "kept_share")
        # A journal that throws rows away is quick.
        but = None if kept > 0.99 else "**rows were dropped**"
        more = f"; {kept:.0%} of the rows kept"
        throughput(f"journal on ÷ off, {what}", f"journal_{size}", f"hit_{size}", 0.9, more, but)
    added = out.rounds(lambda r: r["computed"]["server_cpu_us"] - r["stored"]["server_cpu_us"])
    behind = f"{out.rps('computed')}, against {out.rps('stored')}"
    out.add("one transform step, CPU a request, 100 rows", added, None, behind, 1, " µs")
    added = out.rounds(lambda r: r["computed_c1"]["p50_us"] - r["stored_c1"]["p50_us"])
    costs = out.micros(("computed_c1", "p50_us"), ("stored_c1", "p50_us"))
    out.add("one transform step, p50 at c = 1, 100 rows", added, None, costs, 1, " µs")
    facts = report["facts"]
    rate = f"{100_000 / statistics.median(facts['load_s']):,.0f} rows a second"
    out.add("`weir load`, 100,000 × 50, packed", facts["load_s"], ("≤", 2), rate, 2, " s")
    out.add("RSS, idle, no plugins", [facts["idle_rss_mb"]], ("≤", 60), "one view, one service", 0, " MB")
    out.add("RSS after serving", [facts["serving_rss_mb"]], None, "20,000 rows of 50 in the cache", 0, " MB")
    behind = "two components, the rows in process, the journal open"
    out.add("RSS, idle, with the demo's configuration", [facts["demo_idle_rss_mb"]], ("≤", 100), behind, 0, " MB")
    peak = f"its client included; {facts['demo_peak_rss_mb']:.0f} MB at its peak"
    out.add("RSS of `weir demo`, all flights replayed", [facts["demo_rss_mb"]], ("≤", 100), peak, 0, " MB")
    return "\n".join(out.lines)
