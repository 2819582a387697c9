"""Queries for Prometheus as pure functions: what the alerts watch and what a judge of canary asks is one text.

In ambient mode each door counts the requests that it decides on, and nobody else does: the ingress gateway as `source`,
the waypoint as `waypoint`.  A query names one reporter per door, so nothing is counted twice.  Tracks are told apart by
the workload that answered; a request that found no endpoint has the workload, hence the track, `unknown`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core import routes
from core.model import Settings

WINDOW = 300
"""Seconds that a rate looks back."""

MIN_FAILURES, MIN_REQUESTS = 5, 100
"""Fewer failures in a window are a hiccup of a quiet service; of fewer requests no percentile is taken."""

IGNORED, SIGMAS = 0.1, 4
"""Canary is worse than stable by its failures beyond chance, above so small a part of `gate.errorRate`."""

WEIGHT = "canary_weight"
"""The configured weight in per cent, by `stack` and `service`, as `rollout watch` exports it."""

RECORDS = {
    "requests": "canary:requests:rate5m",
    "failures": "canary:failures:rate5m",
    "p95": "canary:p95_milliseconds:rate5m",
    "share": "canary:share",
}
DOORS = {
    "gateway": f'reporter="source",source_workload="{routes.INGRESS}"'
    f',source_workload_namespace="{routes.INGRESS_NAMESPACE}"',
    "waypoint": 'reporter="waypoint"',
}
GRPC_FAILURES = ("2", "4", "12", "13", "14", "15")
"""gRPC's codes for what HTTP calls 5xx; the HTTP status beside them is 200."""

_GRPC_FAILURES = f'response_code!~"5..",grpc_response_status=~"{"|".join(GRPC_FAILURES)}"'


class Counts(ABC):
    """Figures by service and track.  A track may join some, `stable|canary`; labels are `service` and `track`."""

    @abstractmethod
    def series(self, what: str, track: str) -> str:
        """The expression for one of `RECORDS`."""

    def requests(self, track: str) -> str:
        """Requests per second; those whose client went away count as none."""
        return self.series("requests", track)

    def failures(self, track: str) -> str:
        """Failed requests per second: 0, not nothing, where none failed."""
        return self.series("failures", track)

    def p95(self, track: str) -> str:
        """95th percentile of the duration in milliseconds."""
        return self.series("p95", track)


@dataclass(frozen=True)
class Recorded(Counts):
    """What the recording rules keep under these labels; `smooth` averages over so many seconds."""

    labels: Mapping[str, str]
    smooth: int = 0

    def series(self, what: str, track: str) -> str:
        """As `Counts` says, and `share`: canary's of the requests, smoothed."""
        labels = "".join(f'{name}="{value}",' for name, value in self.labels.items())
        found = f'{RECORDS[what]}{{{labels}track=~"{track}"}}'
        return f"avg_over_time({found}[{self.smooth}s])" if self.smooth else found


@dataclass(frozen=True)
class Raw(Counts):
    """From the metrics of the mesh or, where `uses_app`, of the services.  Without `door` both doors are added up."""

    settings: Settings
    services: tuple[str, ...] = ()
    door: Literal["gateway", "waypoint"] | None = None
    window: int = WINDOW

    def series(self, what: str, track: str) -> str:
        """As `Counts` says."""
        app = uses_app(self.settings)
        metric = "http_requests_total" if app else "istio_requests_total"
        counted, failed = ("", ['status=~"5.."']) if app else ('response_code!="0"', ['response_code=~"5.."'])
        if not app and any(service.protocol == "grpc" for service in self.settings.services.values()):
            failed.append(_GRPC_FAILURES)
        if what == "requests":
            return self._sum(metric, [counted], track)
        if what == "failures":
            return f"({self._sum(metric, failed, track)} or 0 * {self.requests(track)})"
        name = "http_request_duration_seconds_bucket" if app else "istio_request_duration_milliseconds_bucket"
        found = f"histogram_quantile(0.95, {self._sum(name, [counted], track, 'le')})"
        return f"1000 * {found}" if app else found

    def selectors(self, metric: str, conditions: Sequence[str], track: str) -> list[str]:
        """Selectors of the counters themselves, one for each door and condition: no series is in two of them."""
        pods, prefix = self._pods
        doors = [""]
        if not uses_app(self.settings):
            space = f'destination_service_namespace="{self.settings.namespace}"'
            doors = [f"{door},{space}" for name, door in DOORS.items() if self.door in (None, name)]
        of = f'{pods[0]}=~"{"|".join(self.services or self.settings.services)}",{pods[1]}=~"{prefix}({track})"'
        chosen = [",".join(filter(None, (door, of, one))) for door in doors for one in conditions]
        return [f"{metric}{{{one}}}" for one in chosen]

    @property
    def _pods(self) -> tuple[tuple[str, str], str]:
        """The labels that tell service and track, and what may stand before the track."""
        if uses_app(self.settings):
            return ("app", "version"), ""
        return ("destination_service_name", "destination_workload"), "(?:.+-)?"

    def _sum(self, metric: str, conditions: Sequence[str], track: str, *more: str) -> str:
        pods, prefix = self._pods
        rates = " or ".join(f"rate({one}[{self.window}s])" for one in self.selectors(metric, conditions, track))
        total = f"sum by ({', '.join((*pods, *more))}) ({rates})"
        for label, source, pattern in (("service", pods[0], "(.+)"), ("track", pods[1], f"{prefix}({track})")):
            total = f'label_replace({total}, "{label}", "$1", "{source}", "{pattern}")'
        return f"sum by ({', '.join(('service', 'track', *more))}) ({total})"


def uses_app(settings: Settings) -> bool:
    """True where the services count their own requests: because the gate says so, or because there is no mesh."""
    return settings.gate.metrics == "app" or settings.strategy == "replicas"


def error_share(of: Counts, track: str = "canary") -> str:
    """Failed requests over all, 0 to 1; nothing where there are none."""
    return f"{of.failures(track)} / {of.requests(track)}"


def split(of: Counts) -> str:
    """Canary's share of the requests that somebody answered, by service."""
    return f"sum by (service) ({of.requests('canary')}) / sum by (service) ({of.requests('stable|canary')})"


def no_endpoint(of: Counts) -> str:
    """Requests that found no endpoint, as a share of those that may have been canary's, by service."""
    return f"sum by (service) ({of.requests('unknown')}) / sum by (service) ({of.requests('canary|unknown')})"


def at_least(rate: str, number: int) -> str:
    """Condition: so many in a window."""
    return f"{rate} * {WINDOW} >= {number}"


def worse_than_stable(of: Counts, error_rate: float) -> str:
    """Canary's error share where it is above stable's by more than chance explains, else nothing.

    Were canary as good as stable, its failures in a window would be Poisson with mean `expected`.
    """
    expected = f"{WINDOW} * {of.requests('canary')} * on (service) group_left () ({error_share(of, 'stable')})"
    return (
        f"{error_share(of)} > {error_rate * IGNORED:.12g} and {WINDOW} * {of.failures('canary')} >"
        f" {expected} + {SIGMAS} * sqrt({expected}) + {MIN_FAILURES}"
        f" and on (service) {at_least(of.requests('stable'), MIN_REQUESTS)}"
    )
