"""The evidence of a rollout as one HTML page that asks nobody for anything: no script, font or picture from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from string import Template
from xml.etree.ElementTree import Element, tostring

from core.judge import Verdict, clock, percent
from core.timeline import Update, canaries
from rollout.plot import Plot, Values, tag

_MARKS = {"advance": "M6 0 12 11H0Z", "hold": "M1 1H5V11H1ZM7 1H11V11H7Z", "rollback": "M6 12 0 1H12Z"}
_OUTCOMES = {"promoted": "advance", "rolled back": "rollback"}


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
class Page:
    """What there is to show, each sequence oldest first.

    `threshold` is 1/alpha, the evidence at which canary is rolled back; `error_limit` (a fraction) and `p95_limit`
    (milliseconds) are the gate's.  None: there is no such line.  A point tells of the `window` seconds before it.
    """

    stack: str
    service: str
    updates: Sequence[Update] = ()
    series: Sequence[Point] = ()
    verdicts: Sequence[tuple[datetime, Verdict]] = ()
    threshold: float | None = None
    error_limit: float | None = None
    p95_limit: float | None = None
    window: int | None = None


def render(page: Page) -> str:
    """The page.  Texts may hold anything; they are escaped."""
    outcome, sentence = headline(page)
    kind = _OUTCOMES.get(outcome, "hold")
    # What was done says why; verdicts that are judged again have seen a little more than whoever did it.
    verb = {"advance": "promote"}.get(kind, kind)
    told = [one.said["reason"] for one in last_rollout(page.updates) if one.said.get("verdict") == verb]
    told = told or [one.reason for _, one in page.verdicts if one.kind == kind != "hold"]
    told = told or [one.said.get("reason") or one.message for one in page.updates]
    window = f" · each point tells of the {page.window} s before it" if page.window else ""
    body = [
        tag("p", tag("span", _mark(kind), outcome, class_=f"badge {kind}")),
        tag("h1", sentence.replace(" %", "\u00a0%")),
        tag("p", *told[-1:], class_="lede"),
        tag("p", f"Stack {page.stack} · service {page.service} · times are UTC{window}", class_="soft"),
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
    done = last_rollout([one for one in page.updates if one.result == "succeeded"])
    if not done:
        return "no rollout", f"{page.service}: no canary has been deployed yet"
    ours = [one for one in done if canaries(one)]
    images, last, end = canaries(ours[-1]), ours[-1], done[-1]
    names = " and ".join(f"{name} {version(image)}" for name, image in images.items())
    climbed = [one for one in ours if _weight(one)]
    if not climbed:
        return "in test", f"{names}: deployed for those whom a rule sends to it; nobody else has met it"
    top, outcome = climbed[-1].weight, "baking" if climbed[-1].weight == 100 else "rolling out"
    if end is not last and all(end.images.get(name, {}).get("stable") == image for name, image in images.items()):
        outcome = "promoted"
    elif not _weight(last):
        outcome, end = "rolled back", ours[ours.index(climbed[-1]) + 1]
    elif end is not last:
        outcome = "withdrawn"
    took = clock((_when(end) - _when(climbed[0])).total_seconds())
    return outcome, f"{names}: {outcome} at {top} %, {took} after its first request"


def last_rollout(updates: Sequence[Update]) -> Sequence[Update]:
    """From the update that brought the last canary on; empty where there was none."""
    begins = [
        i for i, one in enumerate(updates) if canaries(one) and (i == 0 or canaries(one) != canaries(updates[i - 1]))
    ]
    return updates[begins[-1] :] if begins else ()


def version(image: str) -> str:
    """The tag of an image or, without one, the beginning of its digest."""
    name, _, digest = image.partition("@")
    return name.rpartition("/")[2].partition(":")[2] or digest.partition(":")[2][:12] or name


def _weight(update: Update) -> int:
    return 0 if update.halted else update.weight


def _when(update: Update) -> datetime:
    return update.ended or update.began


def _time(at: datetime) -> Element:
    day, hour = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}".split()
    return tag("time", tag("span", day, class_="soft"), f" {hour}", datetime=f"{day}T{hour}Z")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _milliseconds(value: float) -> str:
    return f"{_short(value)} ms"


def _odds(value: float) -> str:
    value = min(1e9, max(1e-9, value))
    return f"{_short(value)} : 1" if value >= 1 else f"1 : {_short(1 / value)}"


def _mark(kind: str) -> Element:
    path = tag("path", d=_MARKS.get(kind, _MARKS["hold"]))
    return tag("svg", path, class_="mark", viewBox="0 0 12 12", aria_hidden="true")


def _table(kind: str, heads: Sequence[str], rows: Iterable[Sequence[Element | str]]) -> Element:
    """A table of the CSS class `kind`."""
    head = tag("tr", *(tag("th", one, scope="col") for one in heads))
    body = [tag("tr", *(tag("td", one, data_label=name) for name, one in zip(heads, row, strict=True))) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=kind)


def _sure(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _arms(series: Sequence[Point]) -> list[Element]:
    """Both tracks' totals side by side."""
    rows = list[Sequence[Element | str]]()
    for name, arms in (("canary", [one.canary for one in series]), ("stable", [one.stable for one in series])):
        total = Arm(requests=sum(one.requests or 0 for one in arms), errors=sum(one.errors or 0 for one in arms))
        times = sorted(value for one in arms if (value := _sure(one.p95)) is not None)
        middle = _milliseconds(times[len(times) // 2]) if times else "-"
        rate = "-" if total.rate is None else percent(total.rate)
        rows.append((tag("b", name), f"{total.requests:,.0f}", f"{total.errors:,.0f}", rate, middle))
    return [_table("arms", ("", "requests", "failed", "of these", "p95, median"), rows)] if series else []


def _charts(page: Page) -> list[Element]:
    """The figures, each with the table behind it."""
    moments = [one.at for one in page.series] or [_when(one) for one in page.updates]
    if not moments:
        return [tag("p", "Nothing has been measured yet.", class_="soft")]
    begin, end = min(moments), max([*moments, *map(_when, page.updates)])
    moves = [(max(begin, _when(one)), _weight(one)) for one in page.updates]
    moves = [one for i, one in enumerate(moves) if i + 1 == len(moves) or moves[i + 1][0] > begin]
    moves = [one for i, one in enumerate(moves) if i == 0 or one[1] != moves[i - 1][1]]

    def column(get: Callable[[Point], float | None]) -> Values:
        return [(one.at, _sure(get(one))) for one in page.series]

    def plot(show: Callable[[float], str], columns: Iterable[Values], *reach: float, log: bool = False) -> Plot:
        seen = [value for one in columns for _, value in one if value is not None]
        return Plot(begin, end, moves, show, [*reach, *seen], log)

    def figure(title: str, about: str, drawn: Plot, columns: Mapping[str, Values]) -> Element:
        rows = list[list[Element | str]]()
        for row in zip(*columns.values(), strict=True):
            rows.append([_time(row[0][0]), *("-" if value is None else drawn.show(value) for _, value in row)])
        table = tag("div", _table("figures", ("time", *columns), rows), tabindex=0)
        behind = tag("details", tag("summary", f"{title} as a table"), table)
        return tag("figure", tag("figcaption", tag("h3", title), tag("span", about)), drawn.svg(title), behind)

    def arms(
        title: str, about: str, show: Callable[[float], str], get: Callable[[Arm], float | None], limit: float | None
    ) -> Element:
        tracks = {"canary": column(lambda one: get(one.canary)), "stable": column(lambda one: get(one.stable))}
        drawn = plot(show, tracks.values(), 0 if limit is None else 1.05 * limit)
        if limit is not None:
            drawn.limit(limit, f"limit {show(limit)}")
        for name, values in reversed(tracks.items()):
            drawn.line(name, values, name)
        return figure(title, f"{about} canary (solid) and stable (dashed)", drawn, tracks)

    share, low = column(lambda one: one.share), column(lambda one: one.share_low)
    high = column(lambda one: one.share_high)
    traffic = plot(percent, [share], *(min(1, 1.3 * weight / 100) for _, weight in moves))
    traffic.band(low, high)
    traffic.steps("weight", [(at, weight / 100) for at, weight in moves])
    traffic.line("canary", share, "share")
    for group in _groups(page):
        # A long wait is marked in its middle: at its begin it would touch the mark of what it followed.
        at, one = group[len(group) // 2 if group[0][1].kind == "hold" else 0]
        traffic.mark(at, _MARKS[one.kind], one.kind, f"{at:%H:%M:%S} {one.kind}: {one.reason}")
    about = "to canary: the weight (thin steps), the share measured (thick), its interval (band); above, the verdicts"
    found = [
        figure("Traffic", about, traffic, {"share": share, "at least": low, "at most": high}),
        arms("Errors", "share of failed requests,", percent, lambda arm: arm.rate, page.error_limit),
        arms("Latency", "95th percentile,", _milliseconds, lambda arm: arm.p95, page.p95_limit),
    ]
    if page.threshold is not None:
        values, doubt = column(lambda one: one.evidence), math.sqrt(page.threshold)
        drawn = plot(_odds, [values], page.threshold, log=True)
        drawn.limit(doubt, f"no advance above {_odds(doubt)}", "doubt")
        drawn.limit(page.threshold, f"rollback at {_odds(page.threshold)}")
        drawn.line("evidence", values, "")
        about = "that canary is worse than stable: the odds against chance, on a logarithmic scale"
        found.append(figure("Evidence", about, drawn, {"evidence": values}))
    return found


def _groups(page: Page) -> list[list[tuple[datetime, Verdict]]]:
    """Verdicts that say the same, with no update between them."""

    def key(told: tuple[datetime, Verdict]) -> tuple[str, int]:
        return told[1].kind, sum(one.began < told[0] for one in page.updates)

    return [list(group) for _, group in groupby(page.verdicts, key)]


def _verdicts(page: Page) -> list[Element]:
    """The list of verdicts, the last one of a group first, and the queries that they name."""
    asked = dict.fromkeys(query for _, one in page.verdicts for query in one.queries)
    numbers = {query: f"Q{number}" for number, query in enumerate(asked, 1)}

    def item(told: tuple[datetime, Verdict], *inside: Element) -> Element:
        at, one = told
        links = (tag("a", f"{numbers[query]} ", href=f"#{numbers[query]}") for query in one.queries)
        text = tag("p", one.reason, *(tag("span", note, class_="note") for note in one.notes))
        kind = tag("span", _mark(one.kind), one.kind, class_="kind")
        row = tag("div", _time(at), kind, text, tag("span", *links, class_="asked"), class_="row")
        return tag("li", row, *inside, class_=one.kind)

    items = list[Element]()
    for *earlier, last in _groups(page):
        more = tag("ol", *map(item, earlier))
        summary = f"{len(earlier)} more before it, since {earlier[0][0]:%H:%M:%S}" if earlier else ""
        items.append(item(last, *([tag("details", tag("summary", summary), more)] if earlier else [])))
    texts = (tag("li", name, tag("pre", query), id=name) for query, name in numbers.items())
    again = tag("code", f"rollout judge --stack {page.stack} --at TIME")
    about = "Judged again from what Prometheus has stored, by the gate as it is now; what was done, and why, is below."
    return [
        tag("h2", "Verdicts"),
        *([tag("p", about, class_="soft")] if items else []),
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
        others = ", ".join(f"{key} {text}" for key, text in one.said.items() if key not in ("verdict", "reason", "who"))
        why = tag("div", one.said.get("reason") or one.message, tag("div", others, class_="note"))
        lasted = f"took {clock((one.ended - one.began).total_seconds())}" if one.ended else ""
        when = tag("div", _time(one.began), tag("div", lasted, class_="soft"))
        weight = tag("div", f"{moved}{_weight(one)} %", tag("div", "halted" if one.halted else ""))
        commit = tag("div", tag("code", one.commit[:10]), tag("div", "and edits" if one.commit.endswith("+") else ""))
        result = tag("span", one.result, class_=one.result)
        rows.append((str(one.version), when, one.said.get("who") or one.author, weight, result, images, commit, why))
    heads = "#", "when", "who", "weight", "result", "images", "commit", "why"
    return [tag("h2", "Updates"), _table("updates", heads, rows)]
