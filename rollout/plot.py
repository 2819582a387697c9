"""Drawings over time as SVG whose colours CSS gives and whose text keeps its size.

Plain SVG, because a library (pygal was tried) brings script from a CDN, colours that do not follow light and dark, and
no steps, bands or gaps.  Only x is stretched: y is in CSS pixels, x in per cent, so that one drawing serves each width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree.ElementTree import Element

HEIGHT = 150
"""CSS pixels of a drawing; `svg.plot` in page.html has the same."""

LOWEST, HIGHEST = 1e-2, 1e9
"""What a logarithmic axis shows at most; values beyond lie on its edges."""

_TICKS = [1, 2, 5, 10, 15, 30, *(60 * m for m in (1, 2, 5, 10, 15, 30)), *(3600 * h for h in (1, 2, 3, 6, 12, 24))]

Values = Sequence[tuple[datetime, float | None]]
"""By time; None means that nobody knows, which is drawn as a gap."""


def tag(name: str, *inside: Element | str | None, **attributes: object) -> Element:
    """An element; `class_` is written `class`, `aria_label` `aria-label`.  Texts are escaped when it is written."""
    made = Element(name, {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()})
    for one in inside:
        if isinstance(one, Element):
            made.append(one)
        elif one and len(made):
            made[-1].tail = (made[-1].tail or "") + one
        elif one:
            made.text = (made.text or "") + one
    return made


class Plot:
    """A drawing of values among `reach`, which `show` writes, from `begin` to `end`; what is added later lies above.

    `moves` are the configured weights, in per cent, and since when each is in force.
    """

    def __init__(
        self,
        begin: datetime,
        end: datetime,
        moves: Sequence[tuple[datetime, int]],
        show: Callable[[float], str],
        reach: Sequence[float],
        log: bool = False,
    ) -> None:
        self._begin, self._length, self.show = begin, max(end - begin, timedelta(seconds=1)), show
        self._drawn, self._texts, self._said = list[Element](), list[Element](), list[str]()
        self._labels = list[tuple[float, float, str, str]]()
        self._y, ticks = (_log if log else _linear)(reach)
        for tick in ticks:
            self._across(self._y(tick), "grid")
            self._write(show(tick), -8, self._y(tick) + 4, "tick")
        self._write("weight", -8, -12, "tick")
        for (at, weight), (until, _) in pairwise([*moves, (end, 0)]):
            self._drawn.append(tag("line", x1=self._x(at), x2=self._x(at), y1=-24, y2=HEIGHT, class_="moved"))
            if (wide := self._part(until) - self._part(at)) > 30:
                self._write(f"{weight} %", self._x(at + (until - at) / 2), -12, "step" if wide > 120 else "step fine")
        seconds = self._length.total_seconds()
        step = next((one for one in _TICKS if seconds / one <= 9), 86400 * math.ceil(seconds / 86400 / 9))
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
        first = math.ceil(begin.timestamp() / step)
        for number in range(first, math.floor((begin + self._length).timestamp() / step) + 1):
            at = datetime.fromtimestamp(number * step, UTC)
            self._write(f"{at:{form}}", self._x(at), HEIGHT + 18, "hour fine" if (number - first) % 2 else "hour")

    def limit(self, value: float, text: str, kind: str = "limit") -> None:
        """A line across, and what it means."""
        self._across(self._y(value), kind)
        self._write(text, 6, self._y(value) - 6, f"says {kind}")

    def steps(self, name: str, values: Sequence[tuple[datetime, float]]) -> None:
        """What stays as it is until the next value."""
        path = ""
        for (at, value), (until, _) in pairwise([*values, (self._begin + self._length, 0.0)]):
            path += f"{'V' if path else f'M{self._part(at)} '}{self._y(value):.1f}H{self._part(until)}"
        self._stretched(path, f"curve {name}")
        self._said.append(f"{name} {', '.join(self.show(value) for _, value in values)}")

    def line(self, name: str, values: Values, label: str) -> None:
        """A curve of the CSS class `name`, broken where nobody knows; its last value stands beside its end."""
        runs = _runs(values)
        paths = ["L".join(f"{self._part(at)} {self._y(value):.1f}" for at, value in run) for run in runs]
        self._stretched("".join(f"M{path}{'' if 'L' in path else 'h.1'}" for path in paths), f"curve {name}")
        if not runs:
            self._said.append(f"{label}: no data")
            return
        (at, last), found = runs[-1][-1], [value for run in runs for _, value in run]
        self._labels.append((self._y(last), self._part(at), name, f"{label} {self.show(last)}"))
        self._said.append(f"{label}: {self.show(min(found))} to {self.show(max(found))}, last {self.show(last)}")

    def band(self, low: Values, high: Values) -> None:
        """The area between two curves of the same times."""
        tops = dict(high)
        for run in _runs(low):
            around = [(at, tops[at] or 0.0) for at, _ in run] + run[::-1]
            self._stretched(f"M{'L'.join(f'{self._part(at)} {self._y(value):.1f}' for at, value in around)}Z", "band")

    def mark(self, at: datetime, shape: str, kind: str, title: str) -> None:
        """A shape of 12 by 12 pixels above the drawing."""
        group = tag("g", tag("title", title), tag("path", d=shape), class_=kind, transform="translate(-6 -42)")
        self._texts.append(tag("svg", group, x=self._x(at)))

    def svg(self, title: str) -> Element:
        """All of it, with a description for those who do not see it."""
        name, floor = title.lower(), HEIGHT + 18.0
        for y, part, kind, text in sorted(self._labels, reverse=True):
            floor = min(floor - 14, y + 4)
            self._write(text.strip(), f"{part / 10:g}%", floor, f"name {kind}", dx=8)
        told = tag("title", title, id=f"{name}-title"), tag("desc", "; ".join(self._said), id=f"{name}-desc")
        about = f"{name}-title {name}-desc"
        return tag("svg", *told, *self._drawn, *self._texts, class_="plot", role="img", aria_labelledby=about)

    def _part(self, at: datetime) -> float:
        """Thousandths of the width."""
        return round(min(1000, max(0, 1000 * ((at - self._begin) / self._length))), 2)

    def _x(self, at: datetime) -> str:
        return f"{self._part(at) / 10:g}%"

    def _across(self, y: float, kind: str) -> None:
        self._drawn.append(tag("line", x1=0, x2="100%", y1=y, y2=y, class_=kind))

    def _write(self, text: str, x: float | str, y: float, kind: str, **more: object) -> None:
        self._texts.append(tag("text", text, x=x, y=f"{y:g}", class_=kind, **more))

    def _stretched(self, path: str, kind: str) -> None:
        box = {"viewBox": f"0 0 1000 {HEIGHT}", "preserveAspectRatio": "none", "width": "100%", "height": HEIGHT}
        self._drawn.append(tag("svg", tag("path", d=path, class_=kind), **box))


def _runs(values: Values) -> list[list[tuple[datetime, float]]]:
    """Values between gaps: what nobody knows, and more than three times the usual time between two."""
    between = sorted(after - before for (before, _), (after, _) in pairwise(values))
    longest = 3 * between[len(between) // 2] if between else timedelta()
    found, before = list[list[tuple[datetime, float]]](), None
    for at, value in values:
        if value is None:
            before = None
            continue
        if before is None or at - before > longest:
            found.append([])
        found[-1].append((at, value))
        before = at
    return found


def _linear(reach: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies on an axis from 0 up, in pixels from above; the values that are written beside it."""
    most = max(reach, default=0) or 1
    power = 10 ** math.floor(math.log10(most / 4))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= most / 4 * (1 - 1e-9))
    number = math.ceil(most / step * (1 - 1e-9))
    return lambda value: HEIGHT * (1 - min(1, value / number / step)), [i * step for i in range(number + 1)]


def _log(reach: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    low = math.floor(math.log10(min(1, max(LOWEST, min(reach, default=1)))))
    high = math.ceil(math.log10(min(HIGHEST, 2 * max(10, *reach))))

    def y(value: float) -> float:
        return HEIGHT * (1 - (math.log10(min(max(value, 10.0**low), 10.0**high)) - low) / (high - low))

    return y, [10.0**one for one in range(low, high + 1, 1 + (high - low) // 6)]
