"""Access log lines become Istio's metrics with the labels that ambient mode gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import telemetry
from lab.telemetry import Metrics, Tail, Workload, destination_service, scrape_target, workload_of

Json = dict[str, Any]
GATEWAY = Workload("istio-ingressgateway", "istio-ingress")
CANARY = Workload("web-canary", "shop", "web", "canary")


def line(**changed: Any) -> Json:
    return {
        "role": "gateway",
        "method": "GET",
        "upstream_cluster": "outbound|80|canary|web.shop.svc.cluster.local",
        "upstream_host": "10.244.1.5:3000",
        "response_code": 200,
        "response_flags": "-",
        "duration": 7,
        "client": "10.244.9.9",
    } | changed


def text_of(*lines: Json) -> str:
    metrics = Metrics()
    for one in lines:
        metrics.add(one, GATEWAY, {"10.244.1.5": CANARY})
    return metrics.text()


def test_a_gateway_reports_as_source_with_the_pod_that_answered() -> None:
    [total] = [x for x in text_of(line(), line()).splitlines() if x.startswith("istio_requests_total")]
    assert total.endswith("} 2")
    for label in (
        'reporter="source"',
        'source_workload="istio-ingressgateway"',
        'destination_workload="web-canary"',
        'destination_version="canary"',
        'destination_service="web.shop.svc.cluster.local"',
        'destination_service_namespace="shop"',
    ):
        assert label in total


def test_a_waypoint_reports_as_waypoint_and_knows_its_service() -> None:
    text = text_of(line(role="waypoint", upstream_cluster="inbound-vip|80|http/canary|web.shop.svc.cluster.local"))
    assert 'reporter="waypoint",source_workload="unknown"' in text
    assert 'destination_service_name="web"' in text


def test_a_grpc_call_tells_its_own_status() -> None:
    text = text_of(line(grpc_status=14), line(grpc_status=None))
    assert 'request_protocol="grpc",response_code="200",grpc_response_status="14"' in text
    assert 'request_protocol="http",response_code="200",grpc_response_status=""' in text


def test_prometheus_is_told_of_sample_pods_with_their_labels() -> None:
    pod = {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web", "version": "canary", "x": "y"}},
        "spec": {"containers": [{"image": "registry/sample-web:2.0", "ports": [{"containerPort": 8080}]}]},
        "status": {"podIP": "10.244.1.9"},
    }
    labels = {"namespace": "shop", "pod": "web-1", "app": "web", "version": "canary"}
    assert scrape_target(pod) == {"targets": ["10.244.1.9:8080"], "labels": labels}
    grpc = pod | {"spec": {"containers": [{"image": "sample-grpc:1.0"}]}}
    assert (scrape_target(grpc) or {})["targets"] == ["10.244.1.9:9102"]
    assert scrape_target(pod | {"spec": {"containers": [{"image": "istio/proxyv2:1"}]}}) is None
    assert scrape_target(pod | {"status": {}}) is None


@pytest.mark.parametrize(
    ("flags", "host", "cluster", "service"),
    [
        ("UH", None, "outbound|80|canary|web.shop.svc.cluster.local", "web"),
        ("NC", None, None, "unknown"),
        ("NR", None, None, "unknown"),
        ("UF,URX", "10.244.1.5:3000", "outbound|80|canary|web.shop.svc.cluster.local", "web"),
    ],
)
def test_no_endpoint_means_an_unknown_destination(flags: str, host: Any, cluster: Any, service: str) -> None:
    text = text_of(line(response_code=503, response_flags=flags, upstream_host=host, upstream_cluster=cluster))
    assert 'destination_workload="unknown"' in text and 'destination_version="unknown"' in text
    assert f'destination_service_name="{service}"' in text and f'response_flags="{flags}"' in text


def test_buckets_are_istios_and_cumulative() -> None:
    buckets = [x for x in text_of(line(duration=7), line(duration=3_600_001)).splitlines() if "_bucket{" in x]
    counts = {x.split('le="')[1].split('"')[0]: int(x.rsplit(" ", 1)[1]) for x in buckets}
    assert list(counts) == [
        *("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000"),
        *("60000", "300000", "600000", "1800000", "3600000", "+Inf"),
    ]
    assert (counts["5"], counts["10"], counts["3600000"], counts["+Inf"]) == (0, 1, 1, 2)


def test_a_connection_without_request_counts_nowhere() -> None:
    assert "istio_requests_total{" not in text_of(line(method=None, response_code=0))


def test_names_come_from_the_pods_owner_and_labels() -> None:
    pod = {
        "metadata": {
            "name": "web-stable-5d4-x",
            "namespace": "shop",
            "labels": {"app": "web", "version": "stable", "pod-template-hash": "5d4"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-stable-5d4", "controller": True}],
        }
    }
    assert workload_of(pod) == Workload("web-stable", "shop", "web", "stable", "web", "stable")
    assert destination_service("nonsense") == ("unknown", "unknown", "unknown")


def test_the_tail_survives_half_lines_truncation_and_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "MAX_LOG_BYTES", 10)
    path = tmp_path / "a.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text('{"a":1}\n{"b"')
    assert [json.loads(x) for x in tail.lines()] == [{"a": 1}]
    with path.open("a") as log:
        log.write(":2}\n")
    assert tail.lines() == [b'{"b":2}']
    assert tail.lines() == [] and path.stat().st_size == 0, "a long log that was read is emptied"
    path.write_text("{}\n")
    assert tail.lines() == [b"{}"]
    (tmp_path / "new").write_text("[]\n")
    (tmp_path / "new").replace(path)
    assert tail.lines() == [b"[]"]
