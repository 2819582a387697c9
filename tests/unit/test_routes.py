"""Who serves a request, as Istio reads it."""

from __future__ import annotations

from typing import Any

import pytest

from core import checks, matches, routes


def _spec(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    settings, _ = checks.parse(raw | changes)
    return routes.virtual_service_spec("web", settings)


def _names(spec: dict[str, Any]) -> list[str]:
    return [route["name"] for route in spec["http"]]


def _leads_to(spec: dict[str, Any], name: str) -> list[str]:
    route = next(route for route in spec["http"] if route["name"] == name)
    return [leg["destination"]["subset"] for leg in route["route"]]


def test_routes_stand_in_the_order_of_the_contract(web: dict[str, Any]) -> None:
    assert _names(_spec(web)) == [
        "edge-blue-cidr", "rule-qa", "rule-first-users", "edge-green", "edge-stamped", "default",
    ]  # fmt: skip


@pytest.mark.parametrize("weight", [0, 1, 5, 50, 99, 100])
def test_weights_sum_to_100_and_canary_gets_its_own(web: dict[str, Any], weight: int) -> None:
    legs = _spec(web, weight=weight)["http"][-1]["route"]
    assert [leg["weight"] for leg in legs] == [100 - weight, weight]
    assert [leg["destination"]["subset"] for leg in legs] == ["stable", "canary"]


def test_at_weight_zero_a_green_stamp_by_bucket_means_stable(web: dict[str, Any]) -> None:
    spec = _spec(web, weight=0)
    assert _names(spec).index("edge-green-late") < _names(spec).index("edge-green")
    assert _leads_to(spec, "edge-green-late") == ["stable"]
    assert _leads_to(spec, "edge-green") == ["canary"], "a green CIDR still reaches canary: that is what QA uses"


def test_above_weight_zero_every_green_stamp_means_canary(web: dict[str, Any]) -> None:
    assert "edge-green-late" not in _names(_spec(web, weight=1))


def test_a_stamp_that_is_not_green_means_stable(web: dict[str, Any]) -> None:
    spec = _spec(web)
    assert _leads_to(spec, "edge-stamped") == ["stable"]
    assert spec["http"][4]["match"] == [{"headers": {"x-deployment": {"regex": ".*"}}}]


@pytest.mark.parametrize("change", [{"halted": True}, {"halted": True, "weight": 100}])
def test_halted_sends_everybody_to_stable_whatever_rules_and_stamps_say(
    web: dict[str, Any], change: dict[str, Any]
) -> None:
    spec = _spec(web, **change)
    assert _names(spec) == ["default"]
    assert [leg["weight"] for leg in spec["http"][0]["route"]] == [100, 0]


def test_without_a_canary_no_rule_and_no_stamp_leads_to_one(web: dict[str, Any]) -> None:
    del web["services"]["web"]["canary"]
    assert _names(_spec(web, weight=0)) == ["default"]


def test_every_route_has_a_name_a_timeout_and_retries(web: dict[str, Any]) -> None:
    for route in _spec(web)["http"]:
        assert route["name"]
        assert route["timeout"] == "15s"
        assert route["retries"]["attempts"] == 2


def test_no_retries_means_attempts_0_and_nothing_beside_it(web: dict[str, Any]) -> None:
    web["services"]["web"]["retries"] = 0
    assert all(route["retries"] == {"attempts": 0} for route in _spec(web)["http"]), (
        "Istio refuses other fields beside 0"
    )


def test_a_service_without_public_hosts_is_reachable_inside_the_mesh_only(web: dict[str, Any]) -> None:
    web["services"]["web"]["hosts"] = []
    spec = _spec(web)
    assert spec["gateways"] == ["mesh"]
    assert spec["hosts"] == ["web.shop.svc.cluster.local"]


def test_public_and_mesh_callers_meet_the_same_routes(web: dict[str, Any]) -> None:
    spec = _spec(web)
    assert spec["gateways"] == ["istio-ingress/public", "mesh"]
    assert spec["hosts"] == ["shop.lab.test", "web.shop.svc.cluster.local"]


def test_the_destination_rule_always_holds_both_subsets() -> None:
    assert [subset["name"] for subset in routes.destination_rule_spec("web", "shop")["subsets"]] == [
        "stable",
        "canary",
    ]


def test_users_become_one_anchored_and_escaped_expression(web: dict[str, Any]) -> None:
    web["services"]["web"]["rules"] = [{"name": "first", "users": ["1", "a.b"]}]
    assert _spec(web)["http"][1]["match"] == [{"headers": {"user-id": {"regex": r"^(1|a\.b)$"}}}]


def test_the_rules_that_were_asked_for_render_as_istio_writes_them(web: dict[str, Any]) -> None:
    web["services"]["web"]["rules"] = [{"name": "u", "users": ["1", "2", "3", "4", "5"]}]
    assert _spec(web)["http"][1]["match"] == [{"headers": {"user-id": {"regex": "^(1|2|3|4|5)$"}}}]


def test_a_certificate_turns_plain_http_into_a_redirect(web: dict[str, Any]) -> None:
    settings, _ = checks.parse(web | {"gateway": {"tlsSecret": "shop-tls"}})
    http, https = routes.gateway_spec(settings)["servers"]
    assert http["tls"] == {"httpsRedirect": True}
    assert https["tls"] == {"mode": "SIMPLE", "credentialName": "shop-tls", "minProtocolVersion": "TLSV1_2"}


def test_without_a_certificate_there_is_no_redirect(web: dict[str, Any]) -> None:
    servers = routes.gateway_spec(checks.parse(web)[0])["servers"]
    assert len(servers) == 1
    assert "tls" not in servers[0]


def test_taking_a_user_off_a_list_opens_nothing(web: dict[str, Any]) -> None:
    before, _ = routes.exposure(_spec(web)["http"])
    web["services"]["web"]["rules"][1]["users"] = ["1"]
    after, _ = routes.exposure(_spec(web)["http"])
    assert after < before


def test_a_cookie_is_matched_whole_and_anywhere_in_the_header() -> None:
    match = matches.StringMatch(regex=matches.cookie_regex("arm", "canary"))
    assert match.accepts("a=b; arm=canary")
    assert match.accepts("arm=canary; z=1")
    assert not match.accepts("arm=canaryx")
    assert not match.accepts("charm=canary")
