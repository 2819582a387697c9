"""The evidence of a rollout as one HTML page that asks nobody for anything: no script, font or picture from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from string import Template
from xml.etree.ElementTree import Element, tostring

from core.timeline import Update
from rollout.plot import Plot, tag

_MARKS = {"advance": "M6 0 12 11H0Z", "hold": "M1 1H5V11H1ZM7 1H11V11H7Z", "rollback": "M6 12 0 1H12Z"}
_OUTCOMES = {"promoted": "advance", "rolled back": "rollback"}
_HIGH = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NBSP = "\u00a0"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one track did since the point before: requests, those that failed, 95th percentile in milliseconds."""

    requests: float | None = None
    errors: float | None = None
    p95: float | None = None

    @property
    def rate(self) -> float | None:
        """Failed requests as a fraction; None without requests."""
        return self.errors / self.requests if self.requests and self.errors is not None else None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment.  Shares are fractions; None and NaN mean that nobody knows, which is drawn as a gap."""

    at: datetime
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    canary: Arm = field(default_factory=Arm)
    stable: Arm = field(default_factory=Arm)
    evidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict.  `kind` is advance, hold or rollback; `queries` are PromQL, asked for the time `at`."""

    at: datetime
    kind: str
    sentence: str
    queries: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """What there is to show, each sequence oldest first.

    `threshold` is 1/alpha, the evidence at which canary is rolled back; `doubt` that above which it does not advance;
    `error_limit` (a fraction) and `p95_limit` (milliseconds) are the gate's.  None: there is no such line.
    """

    stack: str
    service: str
    updates: Sequence[Update] = ()
    series: Sequence[Point] = ()
    verdicts: Sequence[Decision] = ()
    threshold: float | None = None
    doubt: float | None = None
    error_limit: float | None = None
    p95_limit: float | None = None
    made: datetime | None = None


Get = Callable[[Point], float | None]
Show = Callable[[float | None], str]


def render(page: Page) -> str:
    """The page.  Texts may hold anything; they are escaped."""
    outcome, sentence = headline(page)
    kind = _OUTCOMES.get(outcome, "hold")
    told = [one.sentence for one in page.verdicts if one.kind == kind != "hold"]
    told = told or [one.said.get("reason") or one.message for one in page.updates]
    made = f" · made {_stamp(page.made)}" if page.made else ""
    body = [
        tag("p", tag("span", _mark(kind), outcome, class_=f"badge {kind}")),
        tag("h1", sentence.replace(" %", f"{_NBSP}%")),
        tag("p", *told[-1:], class_="lede"),
        tag("p", f"Stack {page.stack} · service {page.service} · times are UTC{made}", class_="soft"),
        *_arms(page.series),
        *_charts(page),
        *_verdicts(page),
        *_updates(page.updates),
    ]
    text = "\n".join(tostring(one, encoding="unicode", method="html") for one in body)
    title = tostring(tag("title", f"{sentence} ({page.stack})"), encoding="unicode")
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=title, body=text).encode("utf-8", "replace").decode()


def headline(page: Page) -> tuple[str, str]:
    """(outcome, sentence) of the last rollout in the updates."""
    done = [one for one in page.updates if one.result == "succeeded"]
    begins = [i for i, one in enumerate(done) if _canaries(one) and (i == 0 or not _canaries(done[i - 1]))]
    if not begins:
        return "no rollout", f"{page.service}: no canary has been deployed yet"
    with_canary = [one for one in done[begins[-1] :] if _canaries(one)]
    climbed, last, after = [one for one in with_canary if _weight(one)], with_canary[-1], done[-1]
    images = _canaries(last)
    names = " and ".join(f"{name} {version(image)}" for name, image in images.items())
    if not climbed:
        return "in test", f"{names}: deployed for those whom a rule sends to it; nobody else has met it"
    top, took = climbed[-1].weight, _lasted(_when(after) - _when(climbed[0]))
    ladder = ", ".join(str(weight) for weight, _ in groupby(one.weight for one in climbed))
    if after is not last and all(after.images.get(name, {}).get("stable") == one for name, one in images.items()):
        return "promoted", f"{names}: promoted {took} after its first request, over {ladder} %"
    if not _weight(last):
        took = _lasted(_when(with_canary[with_canary.index(climbed[-1]) + 1]) - _when(climbed[0]))
        return "rolled back", f"{names}: rolled back at {top} %, {took} after its first request"
    if after is not last:
        return "withdrawn", f"{names}: withdrawn at {top} %, {took} after its first request"
    return ("baking" if top == 100 else "rolling out"), f"{names}: at {top} %, {took} after its first request"


def version(image: str) -> str:
    """The tag of an image or, without one, the beginning of its digest."""
    name, _, digest = image.partition("@")
    return name.rpartition("/")[2].partition(":")[2] or digest.partition(":")[2][:12] or name


def _canaries(update: Update) -> dict[str, str]:
    return {name: tracks["canary"] for name, tracks in update.images.items() if tracks.get("canary")}


def _weight(update: Update) -> int:
    return 0 if update.halted else update.weight


def _when(update: Update) -> datetime:
    return update.ended or update.began


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time(at: datetime) -> Element:
    day, clock = _stamp(at).split()
    return tag("time", tag("span", day, class_="soft"), f" {clock}", datetime=f"{day}T{clock}Z")


def _lasted(length: timedelta) -> str:
    seconds = round(length.total_seconds())
    units = ((seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60 if seconds < 3600 else 0, "s"))
    return " ".join(f"{number} {unit}" for number, unit in units if number) or "0 s"


def _figure(value: float | None, unit: str = "") -> str:
    """`7.92 %`: three figures, below 1 two; a dash where nobody knows."""
    if value is None or math.isnan(value):
        return "-"
    digits = 3 if value >= 1 else 2
    short = f"{value:,.0f}" if abs(value) >= 100 else f"{float(f'{value:.{digits}g}'):g}"
    return f"{short}{_NBSP}{unit}" if unit else short


def _percent(value: float | None) -> str:
    return _figure(None if value is None else 100 * value, "%")


def _milliseconds(value: float | None) -> str:
    return _figure(value, "ms")


def _odds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    left, right = _figure(value), "1"
    if value >= 1e6:
        left = "∞" if math.isinf(value) else "10" + str(math.floor(math.log10(value))).translate(_HIGH)
    elif value < 1:
        left, right = ("<1", "1,000") if value < 1e-3 else ("1", _figure(1 / value))
    return f"{left}{_NBSP}:{_NBSP}{right}"


def _mark(kind: str) -> Element:
    path = tag("path", d=_MARKS.get(kind, _MARKS["hold"]))
    return tag("svg", path, class_="mark", viewBox="0 0 12 12", aria_hidden="true")


def _table(kind: str, heads: Sequence[str], rows: Iterable[Sequence[Element | str]]) -> Element:
    """A table of the CSS class `kind`."""
    head = tag("tr", *(tag("th", one, scope="col") for one in heads))
    body = [
        tag("tr", *(tag("td", cell, data_label=name) for name, cell in zip(heads, row, strict=True))) for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=kind)


def _arms(series: Sequence[Point]) -> list[Element]:
    """Both tracks' totals side by side."""
    rows = list[Sequence[Element | str]]()
    for name, arms in (("canary", [one.canary for one in series]), ("stable", [one.stable for one in series])):
        total = Arm(requests=sum(one.requests or 0 for one in arms), errors=sum(one.errors or 0 for one in arms))
        times = sorted(one.p95 for one in arms if one.p95 is not None and not math.isnan(one.p95))
        middle = _milliseconds(times[len(times) // 2] if times else None)
        rows.append((tag("b", name), _figure(total.requests), _figure(total.errors), _percent(total.rate), middle))
    return [_table("arms", ("", "requests", "failed", "of these", "p95, median"), rows)] if series else []


def _charts(page: Page) -> list[Element]:
    """The figures, each with the table behind it."""
    series, updates = page.series, page.updates
    moments = [one.at for one in series] or [_when(one) for one in updates]
    if not moments:
        return [tag("p", "Nothing has been measured yet.", class_="soft")]
    begin, end = min(moments), max([*moments, *map(_when, updates)])
    moves = [(max(begin, _when(one)), _weight(one)) for one in updates]
    moves = [one for i, one in enumerate(moves) if i + 1 == len(moves) or moves[i + 1][0] > begin]
    moves = [one for i, one in enumerate(moves) if i == 0 or one[1] != moves[i - 1][1]]

    def values(get: Get) -> list[tuple[datetime, float | None]]:
        return [(one.at, get(one)) for one in series]

    def plot(show: Show, gets: Iterable[Get], *reach: float | None, log: bool = False) -> Plot:
        seen = [*reach, *(get(one) for get in gets for one in series)]
        return Plot(begin, end, moves, show, [one for one in seen if one is not None and not math.isnan(one)], log)

    def figure(title: str, about: str, drawn: Plot, columns: Mapping[str, tuple[Show, Get]]) -> Element:
        rows = ((_time(one.at), *(show(get(one)) for show, get in columns.values())) for one in series)
        table = tag("div", _table("figures", ("time", *columns), rows), tabindex=0)
        behind = tag("details", tag("summary", f"{title} as a table"), table)
        return tag("figure", tag("figcaption", tag("h3", title), tag("span", about)), drawn.svg(title), behind)

    def arms(title: str, about: str, show: Show, get: Callable[[Arm], float | None], limit: float | None) -> Element:
        tracks: dict[str, Get] = {"canary": lambda one: get(one.canary), "stable": lambda one: get(one.stable)}
        drawn = plot(show, tracks.values(), limit and 1.05 * limit)
        drawn.limit(limit, f"limit {show(limit)}")
        for name, one in reversed(tracks.items()):
            drawn.line(name, values(one), name)
        about = f"{about} canary (solid) and stable (dashed)"
        return figure(title, about, drawn, {name: (show, one) for name, one in tracks.items()})

    traffic = plot(_percent, [lambda one: one.share], *(min(1, 1.3 * weight / 100) for _, weight in moves))
    traffic.band(values(lambda one: one.share_low), values(lambda one: one.share_high))
    traffic.steps("weight", [(at, weight / 100) for at, weight in moves])
    traffic.line("canary", values(lambda one: one.share), "share")
    for kind, group in groupby(page.verdicts, key=lambda one: one.kind):
        for one in [*group][: 1 if kind == "hold" else None]:
            traffic.mark(one.at, _MARKS.get(kind, _MARKS["hold"]), kind, f"{_stamp(one.at)} {kind}: {one.sentence}")
    shares: dict[str, tuple[Show, Get]] = {
        "share": (_percent, lambda one: one.share),
        "at least": (_percent, lambda one: one.share_low),
        "at most": (_percent, lambda one: one.share_high),
        "requests to canary": (_figure, lambda one: one.canary.requests),
        "to stable": (_figure, lambda one: one.stable.requests),
    }
    about = (
        "to canary: the weight (thin steps), the share measured (thick), its interval (band) and the verdicts (above)"
    )
    found = [
        figure("Traffic", about, traffic, shares),
        arms("Errors", "share of failed requests,", _percent, lambda arm: arm.rate, page.error_limit),
        arms("Latency", "95th percentile,", _milliseconds, lambda arm: arm.p95, page.p95_limit),
    ]
    if page.threshold is not None:
        evidence = plot(_odds, [lambda one: one.evidence], page.threshold, log=True)
        evidence.limit(page.doubt, f"no advance above {_odds(page.doubt)}", "doubt")
        evidence.limit(page.threshold, f"rollback at {_odds(page.threshold)}")
        evidence.line("evidence", values(lambda one: one.evidence), "")
        about = "that canary is worse than stable: the odds against chance, on a logarithmic scale"
        found.append(figure("Evidence", about, evidence, {"evidence": (_odds, lambda one: one.evidence)}))
    return found


def _verdicts(page: Page) -> list[Element]:
    """The list of verdicts, of several holds in a row the last one first, and the queries they name."""
    asked = dict.fromkeys(query for one in page.verdicts for query in one.queries)
    numbers = {query: f"Q{number}" for number, query in enumerate(asked, 1)}

    def item(one: Decision, *inside: Element) -> Element:
        links = (tag("a", f"{numbers[query]} ", href=f"#{numbers[query]}") for query in one.queries)
        text = tag("p", one.sentence, *(tag("span", note, class_="note") for note in one.notes))
        kind = tag("span", _mark(one.kind), one.kind, class_="kind")
        row = tag("div", _time(one.at), kind, text, tag("span", *links, class_="asked"), class_="row")
        return tag("li", row, *inside, class_=one.kind)

    items = list[Element]()
    for kind, group in groupby(page.verdicts, key=lambda one: one.kind):
        *earlier, last = group
        if kind == "hold" and earlier:
            summary = tag("summary", f"{len(earlier)} more before it, since {_stamp(earlier[0].at)}")
            items.append(item(last, tag("details", summary, tag("ol", *map(item, earlier)))))
        else:
            items += map(item, [*earlier, last])
    texts = (tag("li", name, tag("pre", query), id=name) for query, name in numbers.items())
    again = tag("code", f"rollout judge --stack {page.stack} --at TIME")
    return [
        tag("h2", "Verdicts"),
        tag("ol", *items, class_="verdicts") if items else tag("p", "None has been given.", class_="soft"),
        tag("h2", "Queries"),
        tag("p", "Each was asked for the time of its verdict. ", again, " judges again.", class_="soft"),
        tag("ol", *texts, class_="queries"),
    ]


def _updates(updates: Sequence[Update]) -> list[Element]:
    """The table of updates."""
    rows = list[Sequence[Element | str]]()
    for before, one in zip([None, *updates], updates, strict=False):
        moved = f"{_weight(before)} → " if before and _weight(before) != _weight(one) else ""
        images = tag("div")
        for name, tracks in one.images.items():
            for track, image in tracks.items():
                new = before is None or before.images.get(name, {}).get(track) != image
                images.append(tag("div", f"{name} {track} ", tag("code", image if new else version(image))))
        others = ", ".join(f"{key} {text}" for key, text in one.said.items() if key not in ("verdict", "reason"))
        why = tag("div", one.said.get("reason") or one.message, tag("div", others, class_="note"))
        lasted = _lasted(one.ended - one.began) if one.ended else ""
        weight = tag("div", f"{moved}{_weight(one)}{_NBSP}%", tag("div", "halted" if one.halted else ""))
        when = tag("div", _time(one.began), tag("div", lasted, class_="soft"))
        commit = tag("div", tag("code", one.commit[:10]), " and edits" if one.commit.endswith("+") else "")
        result = tag("span", one.result, class_=one.result)
        rows.append((str(one.version), when, one.author, weight, result, images, commit, why))
    heads = "#", "when", "who", "weight", "result", "images", "commit", "why"
    return [tag("h2", "Updates"), _table("updates", heads, rows)]
