"""Turns what a group measured into a Markdown table: ratios of neighbours, round by round, and the targets."""

import statistics

# A process that uses this much of its core has it to itself and can do no more.
FULL = 0.9
# With more of the machine in others' hands, times are theirs as much as ours.
OTHERS_MAX = 0.1
HEADER = ["| measured | value (rounds) | target | | behind it |", "|---|---|---|---|---|"]


class Lines:
    """The lines of one group's table."""

    def __init__(self, measured, groups=None):
        self.cases, self.facts, self.groups = measured["cases"], measured["facts"], groups or {}
        self.lines, self.notes, self.extra = [], [], []
        if self.facts.get("repeated"):
            self.note(f"Runs that failed and were repeated: {', '.join(self.facts['repeated'])}")

    def text(self):
        return "\n".join([*self.notes, *([""] if self.notes else []), *HEADER, *self.lines, *self.extra])

    def note(self, said):
        self.notes.append(f"*{said}*")

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
            noisy = unit != " MB" and self.facts.get("others_share", 0) > OTHERS_MAX
            verdict = "unclear" if noisy else but or ("met" if is_met else "**missed**")
        spread = f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else ""
        self.lines.append(f"| {what} | **{value:.{digits}f}{unit}**{spread} | {said} | {verdict} | {behind} |")

    def throughput(self, what, over, under, wanted, more="", but=None):
        """One case's requests a second through another's, and the same in processor time."""
        ratios = self.rounds(lambda r: r[over]["rps"] / r[under]["rps"])
        cpu = statistics.median(self.rounds(lambda r: r[under]["server_cpu_us"] / r[over]["server_cpu_us"]))
        # Whom the load held back could do more: then what is missed may be met, or what is met missed. A ratio of several
        # is no matter of that.
        if wanted and wanted <= 1:
            is_met = statistics.median(ratios) >= wanted
            is_sure = not self.is_held_back(over) and (not self.is_held_back(under) or not is_met)
            but = but or (None if is_sure else "unclear")
        behind = f"{self.rps(over)}, against {self.rps(under)}: by CPU alone {cpu:.2f}{more}"
        self.add(what, ratios, ("≥", wanted) if wanted else None, behind, but=but)

    def is_bound_by_server(self, case):
        return self.median(case, "server_cpu_share") >= FULL

    def is_held_back(self, case):
        """By the load's core, which is Redis's too."""
        return not self.is_bound_by_server(case) and self.median(case, "load_core_share") >= FULL

    def rps(self, case):
        note = ""
        if not self.is_bound_by_server(case):
            note = " (the load's core was full)" if self.is_held_back(case) else " (neither core was full)"
        real = min(result.get("real_share", 1) for result in self.cases[case])
        if real < 0.9999:
            note += f" (**only {real:.1%} of the values are real**)"
        cost = self.median(case, "server_cpu_us")
        return f"{self.median(case, 'rps'):,.0f} rps at {cost:.1f} µs CPU{note}"
