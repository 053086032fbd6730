"""Draw the layout of the Grafana dashboard into `docs/dashboard.svg`, from its JSON."""

import json
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "helm" / "digifinex-bridge" / "dashboards" / "digifinex-bridge.json"
TARGET = ROOT / "docs" / "dashboard.svg"

_COLUMN, _LINE, _GAP, _MARGIN, _HEAD = 40, 19, 6, 14, 52
_UNITS = {"short": "", "s": "seconds", "cps": "a second", "bytes": "bytes", "Bps": "bytes a second"}
# A background of its own, so that it looks the same on a light page and on a dark one.
_INK = {"page": "#111217", "panel": "#1c1f24", "edge": "#33373d", "text": "#e3e4ea", "dim": "#a3a7b3"}
_COLORS = {"green": "#56a64b", "orange": "#ff9830", "red": "#f2495c"}
_FINE = "#1d3b1f"
_SERIES = ("#73bf69", "#8ab8ff", "#f2cc0c")
_BIG, _SMALL = 12, 11


def document() -> str:
    """Return the whole text of the picture."""
    board = json.loads(SOURCE.read_text())
    panels = board["panels"]
    places = [panel["gridPos"] for panel in panels]
    width = max(place["x"] + place["w"] for place in places) * _COLUMN + 2 * _MARGIN
    bottom = _HEAD + max(place["y"] + place["h"] for place in places) * _LINE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 30}" role="img" '
        'font-family="Inter, Helvetica, Arial, sans-serif">',
        f"<title>{escape(board['title'])}: layout of the dashboard</title>",
        f'<rect width="{width}" height="{bottom + 30}" rx="10" fill="{_INK["page"]}"/>',
        *_heading(board),
    ]
    for panel in panels:
        lines += _row(panel) if panel["type"] == "row" else _panel(panel)
    note = "Drawn from the dashboard's JSON: its layout, limits and legends. The curves are no data."
    lines += [_text(_MARGIN, bottom + 18, note, "dim"), "</svg>"]
    return "\n".join(lines) + "\n"


def _heading(board: dict[str, Any]) -> Iterator[str]:
    """Draw the title, and the variables to choose from."""
    yield _text(_MARGIN, 32, board["title"], "text", size=18, bold=True)
    x = 220.0
    for variable in board["templating"]["list"]:
        label = variable["label"]
        wide = 20 + _wide(label, _SMALL)
        yield _box(x, 17, wide, 22, _INK["panel"], _INK["edge"])
        yield _text(x + 10, 32, label, "dim")
        x += wide + 8


def _row(row: dict[str, Any]) -> Iterator[str]:
    x, y, _, height = _place(row)
    yield _text(x, y + height - 2, f"▾ {row['title']}", "text", size=_BIG + 1, bold=True)


def _panel(panel: dict[str, Any]) -> Iterator[str]:
    x, y, width, height = _place(panel)
    defaults = panel["fieldConfig"]["defaults"]
    stat = panel["type"] == "stat"
    yield _box(x, y, width, height, _FINE if stat else _INK["panel"], _INK["edge"])
    size = _SMALL if stat else _BIG
    # Bold letters are wider.
    titles = textwrap.wrap(panel["title"], int((width - 12) / _wide("n", 1.18 * size)))
    for number, line in enumerate(titles):
        yield _text(x + 8, y + 17 + 15 * number, line, "text", size=size, bold=True)
    steps = defaults["thresholds"]["steps"]
    legends = [target.get("legendFormat", "") for target in panel["targets"]]
    what = ", ".join(filter(None, [*map(_series, legends), _UNITS[defaults["unit"]]]))
    if stat:
        yield from _limits_of_stat(steps, defaults["unit"], x + 8, y + height - 22, width - 16)
        yield _text(x + 8, y + 17 + 15 * len(titles), what, "dim")
    else:
        yield from _graph(panel, x + 8, y + 28, width - 16, height - 58)
        yield from _legend(legends, _UNITS[defaults["unit"]], x + 8, y + height - 11)


def _limits_of_stat(
    steps: list[dict[str, Any]], unit: str, x: float, y: float, width: float
) -> Iterator[str]:
    """Draw the colours that it can have, with the value from which it has them."""
    wide = width / len(steps)
    for number, step in enumerate(steps):
        color = _COLORS[step["color"]]
        yield f'<rect x="{x + number * wide:g}" y="{y:g}" width="{wide:g}" height="15" fill="{color}"/>'
        limit = f"from {_value(step['value'], unit)}" if number else "else"
        place = f'x="{x + (number + 0.5) * wide:g}" y="{y + 11:g}" font-size="10" text-anchor="middle"'
        yield f'<text {place} fill="{_INK["page"]}">{limit}</text>'


def _graph(panel: dict[str, Any], x: float, y: float, width: float, height: float) -> Iterator[str]:
    """Draw a grid, a curve for each query, and the limits as dashed lines."""
    for part in range(4):
        at = y + height * part / 3
        yield f'<path d="M{x:g} {at:g}h{width:g}" stroke="{_INK["edge"]}"/>'
    for number in range(len(panel["targets"])):
        points = (
            (
                x + width * step / 24,
                y + height * (0.78 - 0.16 * number + 0.09 * _wave(panel["id"], number, step)),
            )
            for step in range(25)
        )
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        yield f'<polyline points="{path}" fill="none" stroke="{_SERIES[number]}" stroke-width="1.4"/>'
    limits = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    for number, step in enumerate(reversed(limits)):
        at, color = y + height * (0.12 + 0.24 * number), _COLORS[step["color"]]
        yield f'<path d="M{x:g} {at:g}h{width:g}" stroke="{color}" stroke-dasharray="5 4"/>'
        label = _value(step["value"], panel["fieldConfig"]["defaults"]["unit"])
        place = f'x="{x + width:g}" y="{at - 3:g}" font-size="10" text-anchor="end"'
        yield f'<text {place} fill="{color}">{label}</text>'


def _wave(panel: int, query: int, step: int) -> float:
    return math.sin(step * (0.55 + 0.07 * query) + panel) + 0.5 * math.sin(step * 1.7 + 2 * panel + query)


def _legend(legends: list[str], unit: str, x: float, y: float) -> Iterator[str]:
    for number, legend in enumerate(legends):
        yield f'<circle cx="{x + 4:g}" cy="{y - 4:g}" r="4" fill="{_SERIES[number]}"/>'
        yield _text(x + 13, y, _series(legend), "dim")
        x += 26 + _wide(_series(legend), _SMALL)
    yield _text(x, y, unit, "dim")


def _series(legend: str) -> str:
    """Return what a legend says, with a label's name instead of its value."""
    return legend.replace("{{", "‹").replace("}}", "›")


def _value(limit: float, unit: str) -> str:
    return f"{limit:g} s" if unit == "s" else f"{limit:g}"


def _place(panel: dict[str, Any]) -> tuple[float, float, float, float]:
    place = panel["gridPos"]
    return (
        _MARGIN + place["x"] * _COLUMN + _GAP / 2,
        _HEAD + place["y"] * _LINE + _GAP / 2,
        place["w"] * _COLUMN - _GAP,
        place["h"] * _LINE - _GAP,
    )


def _wide(text: str, size: float) -> float:
    """Return about how wide a text is, without knowing the font."""
    return len(text) * size * 0.55


def _box(x: float, y: float, width: float, height: float, fill: str, edge: str) -> str:
    size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {size} rx="3" fill="{fill}" stroke="{edge}"/>'


def _text(x: float, y: float, text: str, ink: str, *, size: int = _SMALL, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}"'
    return f'<text {place}{weight} fill="{_INK[ink]}">{escape(text)}</text>'


if __name__ == "__main__":
    TARGET.write_text(document())
