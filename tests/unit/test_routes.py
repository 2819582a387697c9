"""Who serves a request, as Istio reads it."""

from __future__ import annotations

from typing import Any

import pytest

from core import checks, matches, routes, specs


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


def test_a_list_of_users_that_fits_no_single_expression_becomes_several_matches_of_one_route(
    web: dict[str, Any],
) -> None:
    users = [f"customer.{number}@example.com" for number in range(500)]
    web["services"]["web"]["rules"] = [{"name": "many", "users": users, "headers": {"x-beta": "1"}}]
    found = [route for route in _spec(web)["http"] if route["name"].startswith("rule-")]
    assert [route["name"] for route in found] == ["rule-many"]
    regexes = [match["headers"]["user-id"]["regex"] for match in found[0]["match"]]
    assert all(match["headers"]["x-beta"] == {"exact": "1"} for match in found[0]["match"]), "in each of them"
    assert [user for regex in regexes for user in matches.users_from_regex(regex) or []] == users
    lengths = [len(regex.encode()) for regex in regexes]
    assert max(lengths) <= 1024
    assert min(lengths[:-1]) > 1024 - 40, "no more matches than it takes"


def test_an_expression_of_users_may_be_as_long_as_istio_takes_it_and_no_longer() -> None:
    fitting = ["u" * 255, "v" * 255, "w" * 255, "x" * 252]
    assert [len(regex) for regex in matches.users_regexes(fitting)] == [1024]
    assert len(matches.users_regexes([*fitting[:3], "x" * 253])) == 2


@pytest.mark.parametrize("user", ["a.b", "x|y", "(z)", "c-3", "björn", "ann@example.com", "a b", "^$", "\\d", "…"])
def test_a_user_is_read_back_from_the_expression_that_matches_nobody_else(user: str) -> None:
    (regex,) = matches.users_regexes([user, "1"])
    assert matches.users_from_regex(regex) == [user, "1"]
    match = matches.StringMatch(regex=regex)
    assert match.accepts(user)
    assert not any(match.accepts(other) for other in ("", user + "1", "x" + user, user + "|1", "2"))


def test_an_expression_that_is_no_list_of_users_is_not_taken_for_one() -> None:
    for regex in ("^(a.b)$", "^(a|)$", "(a|b)", "^(a|b+)$", "^(a|(b))$", r"^(\d)$"):
        assert matches.users_from_regex(regex) is None


def test_each_destination_names_route_and_track_in_the_response(web: dict[str, Any]) -> None:
    told = {
        leg["headers"]["response"]["set"]["x-canary-route"] for route in _spec(web)["http"] for leg in route["route"]
    }
    assert told == {
        "edge-blue-cidr/stable", "rule-qa/canary", "rule-first-users/canary", "edge-green/canary",
        "edge-stamped/stable", "default/stable", "default/canary",
    }  # fmt: skip


def test_the_response_header_can_be_switched_off(web: dict[str, Any]) -> None:
    assert "x-canary-route" not in str(_spec(web, routeHeader=False))
    assert "headers" not in _spec(web, routeHeader=False)["http"][-1]["route"][0]


def test_a_grpc_service_says_so_to_istio_and_retries_only_calls_that_no_server_began(web: dict[str, Any]) -> None:
    web["services"]["web"]["protocol"] = "grpc"
    settings, _ = checks.parse(web)
    (port,) = specs.service_spec("web", settings.services["web"])["ports"]
    assert (port["name"], port["appProtocol"]) == ("grpc", "grpc")
    words = {word for route in _spec(web)["http"] for word in route["retries"]["retryOn"].split(",")}
    assert {"unavailable", "resource-exhausted"} < words
    assert not words & {"cancelled", "deadline-exceeded", "internal", "5xx", "reset", "retriable-status-codes"}


def test_http_is_http_to_istio(web: dict[str, Any]) -> None:
    (port,) = specs.service_spec("web", checks.parse(web)[0].services["web"])["ports"]
    assert (port["name"], port["appProtocol"]) == ("http", "http")
    assert "unavailable" in _spec(web)["http"][-1]["retries"]["retryOn"], "a proxied gRPC call may pass here too"


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
