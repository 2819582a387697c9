"""The function on answers, as published, under njs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from core import edge
from tests.edge import njs
from tests.edge.conftest import Make
from tests.edge.test_viewer_request import buckets


def answered(make: Make, ip: str, cookies: dict[str, str], response: dict[str, Any]) -> Any:
    event = njs.request(ip, cookies=cookies) | {"response": response}
    return njs.on_requests(make(), [event], event="viewer-response")[0]["answer"]


def plain(**more: Any) -> dict[str, Any]:
    return {"statusCode": 200, "headers": {"content-type": {"value": "text/plain"}}, **more}


@pytest.mark.parametrize("cookies", [{}, {"cookies": {}}, {"cookies": {"session": {"value": "1"}}}])
def test_a_viewer_without_a_bucket_is_given_the_one_that_its_address_has(make: Make, cookies: dict[str, Any]) -> None:
    found = answered(make, "192.0.2.1", {}, plain(**cookies))
    crumb = found["cookies"].pop(edge.COOKIE)
    assert crumb["value"] == str(buckets(["192.0.2.1"])[0])
    assert found == plain(cookies=cookies.get("cookies", {}))


def test_the_cookie_is_secure_not_for_scripts_of_the_site_and_ends(make: Make) -> None:
    attributes = answered(make, "192.0.2.1", {}, plain())["cookies"][edge.COOKIE]["attributes"].split("; ")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} < set(attributes)
    age = next(match for match in (re.fullmatch(r"Max-Age=(\d+)", one) for one in attributes) if match)
    assert 3600 <= int(age[1]) <= 366 * 86_400


def test_with_the_cookie_the_next_request_has_the_same_bucket_from_any_address(make: Make) -> None:
    settings = make(50)
    for ip in ("192.0.2.1", "2001:db8::1", "192.0.2.99", "198.51.100.4"):
        crumb = answered(make, ip, {}, plain())["cookies"][edge.COOKIE]["value"]
        before, *after = njs.stamps(settings, [(ip, None), (ip, crumb), ("203.0.113.50", crumb), ("::1", crumb)])
        assert after == [before] * 3


def test_a_bucket_that_is_there_stays_and_one_that_is_none_is_replaced(make: Make) -> None:
    assert answered(make, "192.0.2.1", {edge.COOKIE: "17"}, plain()) == plain()
    assert edge.COOKIE in answered(make, "192.0.2.1", {edge.COOKIE: "green"}, plain())["cookies"]


def test_whatever_goes_wrong_the_answer_goes_out_as_it_is(make: Make) -> None:
    assert answered(make, "no address", {}, plain()) == plain()
    event = njs.request("192.0.2.1") | {"response": plain()}
    del event["request"]
    assert njs.on_requests(make(), [event], event="viewer-response")[0]["answer"] == plain()
