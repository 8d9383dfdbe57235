"""Bars as SVG, by hand: the same figures give the same bytes, and the colours follow the reader's light or dark page."""

import math
from xml.sax.saxutils import escape

# Pixels.
BAR, GAP, TITLE = 13, 4, 26
NAME, NUMBER = 235, 62
FONT = 11
STYLE = """<style>
text { font: 11px sans-serif; fill: #24292f } .title { font-weight: bold } .grid { stroke: #d0d7de } .name { fill: #57606a }
.weir { fill: #1b6ca8 } .floor { fill: #8c959f } .peer { fill: #c9742b } .target { stroke: #cf222e; stroke-width: 2 }
.spread { stroke: #24292f }
@media (prefers-color-scheme: dark) {
text, .name { fill: #c9d1d9 } .grid { stroke: #30363d } .weir { fill: #58a6ff } .floor { fill: #6e7681 } .peer { fill: #e3954f }
.target { stroke: #ff7b72 } .spread { stroke: #c9d1d9 }
}
</style>"""


def svg(width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"


def label(x, y, said, of="", anchor="start"):
    # On the line of a bar that begins at y.
    return f'<text x="{x:.1f}" y="{y + FONT:.1f}" class="{of}" text-anchor="{anchor}">{escape(said)}</text>'


def bar(x, y, width, of):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR}" class="{of}"/>'


def ticks(left, top, bottom, places):
    """Lines of the grid, each with what it means."""
    for x, said in places:
        yield f'<path d="M{left + x:.1f} {top:.1f}V{bottom:.1f}" class="grid"/>'
        yield label(left + x, bottom, said, "name", "middle")


def rates(panels, columns=2, plot=190):
    """Requests a second, a panel for each shape: (title, [(name, class, value)]), on one logarithmic axis."""
    values = [value for _, bars in panels for _, _, value in bars]
    least, most = math.floor(math.log10(max(1, min(values)))), math.log10(max(*values, 100))
    wide = NAME + plot + NUMBER
    parts, tops = [], [4.0] * columns
    for number, (title, bars) in enumerate(panels):
        column = number % columns
        left, y = column * wide + NAME, tops[column]
        parts.append(label(left, y, title, "title"))
        top = y = y + TITLE - BAR / 2
        lines = []
        for name, of, value in bars:
            width = plot * (math.log10(max(1, value)) - least) / (most - least)
            lines += [label(left - 6, y, name, "name", "end"), bar(left, y, width, of), label(left + width + 4, y, f"{value:,.0f}")]
            y += BAR + GAP
        places = [(plot * (n - least) / (most - least), f"{10**n}" if n < 3 else f"{10 ** (n - 3)}k") for n in range(least, math.floor(most) + 1)]
        parts += [*ticks(left, top, y, places), *lines]
        tops[column] = y + 2 * TITLE - BAR
    return svg(columns * wide, max(tops), parts)


def ratios(bars, plot=330, most=1.2):
    """Shares of what a floor does: (name, values of the rounds, target or None), on one axis."""
    left, top = NAME + 95, 8.0
    y, lines = top, []
    for name, values, target in bars:
        value = sorted(values)[len(values) // 2]
        x = lambda v: left + plot * min(v, most) / most
        middle = y + BAR / 2
        lines += [label(left - 6, y, name, "name", "end"), bar(left, y, x(value) - left, "weir")]
        lines.append(f'<path d="M{x(min(values)):.1f} {middle:.1f}H{x(max(values)):.1f}" class="spread"/>')
        if target:
            lines.append(f'<path d="M{x(target):.1f} {y - 1:.1f}V{y + BAR + 1:.1f}" class="target"/>')
        lines.append(label(x(max([*values, target or 0])) + 5, y, f"{value:.2f}"))
        y += BAR + GAP
    places = [(plot * n / 10 / most, f"{n / 10:g}") for n in range(0, round(most * 10) + 1, 2)]
    return svg(left + plot + NUMBER, y + TITLE, [*ticks(left, top - 4, y, places), *lines])
