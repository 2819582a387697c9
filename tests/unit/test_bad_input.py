"""Wrong settings stop before anything is touched, with a line that names key, value and fix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from core import checks

Change = Callable[[dict[str, Any]], object]


def _service(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["services"]["web"]
    return found


def _rules(*rules: dict[str, Any]) -> Change:
    return lambda raw: _service(raw).update(rules=list(rules))


CASES: list[tuple[str, Change, str, str]] = [
    ("weight below 0", lambda raw: raw.update(weight=-1), "canary:weight: got -1", "integer from 0 to 100"),
    (
        "weight above 100",
        lambda raw: raw.update(weight="101"),
        "canary:weight: got '101'",
        "integer from 0 to 100",
    ),
    (
        "weight with decimals",
        lambda raw: raw.update(weight="5.5"),
        "canary:weight: got '5.5'",
        "integer from 0 to 100",
    ),
    (
        "weight as a float",
        lambda raw: raw.update(weight=5.0),
        "canary:weight: got 5.0",
        "integer from 0 to 100",
    ),
    (
        "weight as a word",
        lambda raw: raw.update(weight="abc"),
        "canary:weight: got 'abc'",
        "integer from 0 to 100",
    ),
    (
        "weight as a truth value",
        lambda raw: raw.update(weight=True),
        "canary:weight: got True",
        "integer from 0",
    ),
    (
        "autoscaler upside down",
        lambda raw: _service(raw).update(autoscale={"min": 4, "max": 2}),
        "services.web.autoscale: got",
        "max 2 below min 4",
    ),
    (
        "image missing",
        lambda raw: _service(raw).update(stable={}),
        "services.web.stable.image: got nothing",
        "add it",
    ),
    (
        "canary image missing",
        lambda raw: _service(raw).update(canary={}),
        "web.canary.image: got nothing",
        "add it",
    ),
    (
        "key with a typing error",
        lambda raw: raw.update(wieght=5),
        "canary:wieght: got 5",
        "did you mean weight?",
    ),
    (
        "unknown key",
        lambda raw: _service(raw).update(colour="red"),
        "web.colour: got 'red'",
        "known here: autoscale, canary, ",
    ),
    (
        "unknown key of a track",
        lambda raw: _service(raw)["stable"].update(cpu=1),
        "web.stable.cpu: got 1",
        "known here: autoscale, config, drain, env, image",
    ),
    (
        "weight without canary",
        lambda raw: _service(raw).pop("canary"),
        "canary:weight: got 5",
        "set weight to 0",
    ),
    (
        "ladder not rising",
        lambda raw: raw.update(steps=[5, 25, 25]),
        "canary:steps: got [5, 25, 25]",
        "must rise",
    ),
    (
        "a time that is none",
        lambda raw: raw.update(override={"reason": "x", "until": "tomorrow", "from": 5, "to": 50}),
        "canary:override.until: got 'tomorrow'",
        "such as 2026-12-18T09:00:00Z",
    ),
    (
        "a day that is none",
        lambda raw: raw.update(windows={"freezes": [{"from": "2026-02-30", "to": "2026-03-01", "why": "x"}]}),
        "freezes[0].from: got '2026-02-30'",
        "such as 2026-12-18",
    ),
    ("ladder empty", lambda raw: raw.update(steps=[]), "canary:steps: got []", "at least one weight"),
    ("ladder with 0", lambda raw: raw.update(steps=[0, 5]), "canary:steps: got [0, 5]", "1 to 100"),
    (
        "hold without a unit",
        lambda raw: raw.update(steps=[{"weight": 5, "hold": "15"}]),
        "hold: got '15'",
        "15m",
    ),
    ("host *", lambda raw: _service(raw).update(hosts=["*"]), "web.hosts[0]: got '*'", "full DNS name"),
    ("rule without match", _rules({"name": "all"}), "rules[0]: got 'all'", "add a condition"),
    ("rule by path only", _rules({"name": "all", "uri": "/a"}), "rules[0]: got 'all'", "add a condition"),
    (
        "regex that RE2 does not know",
        _rules({"name": "a", "headers": {"x": {"regex": "(?=b)"}}}),
        "rules[0].headers.x: got '(?=b)'",
        "no look-around",
    ),
    (
        "regex too long",
        _rules({"name": "a", "headers": {"x": {"regex": "b" * 1025}}}),
        "rules[0].headers.x: got 'bbb",
        "longer than 1024 bytes",
    ),
    (
        "two rules of one name",
        _rules({"name": "a", "headers": {"x": "1"}}, {"name": "a", "headers": {"x": "2"}}),
        "rules[1].name: got 'a'",
        "must differ",
    ),
    (
        "rule that is never reached",
        _rules(
            {"name": "a", "headers": {"x": {"prefix": "b"}}},
            {"name": "c", "headers": {"x": "beta", "y": "1"}},
        ),
        "rules[1]: got 'c'",
        "taken by rule a",
    ),
    (
        "rule on the edge's stamp",
        _rules({"name": "a", "headers": {"X-Deployment": "green"}}),
        "rules[0].headers.X-Deployment",
        "choose another header",
    ),
    (
        "two ways to match at once",
        _rules({"name": "a", "headers": {"x": {"exact": "a", "prefix": "b"}}}),
        "rules[0].headers.x",
        "one of exact, prefix, regex",
    ),
    (
        "too many users",
        _rules({"name": "a", "users": [f"u{n}" for n in range(501)]}),
        "rules[0].users: got 501",
        "header of their own",
    ),
    (
        "service name too long for its children",
        lambda raw: raw.update(services={"w" * 57: raw["services"]["web"]}),
        f"services.{'w' * 57}",
        "shorten it",
    ),
    (
        "one host on two services",
        lambda raw: raw["services"].update(api={"stable": {"image": "a:1"}, "hosts": ["shop.lab.test"]}),
        "services.api.hosts[0]: got 'shop.lab.test'",
        "already belongs to service web",
    ),
]


@pytest.mark.parametrize(("change", "names", "fix"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_wrong_settings_are_refused_with_key_value_and_fix(
    web: dict[str, Any], change: Change, names: str, fix: str
) -> None:
    change(web)
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(web)
    line = next((line for line in caught.value.lines if names in line), None)
    assert line is not None, caught.value.lines
    assert line.startswith("canary:")
    assert fix in line
    assert "\n" not in line


def test_the_value_of_a_key_that_nobody_knows_is_not_shown_because_it_may_be_secret(web: dict[str, Any]) -> None:
    value = "hunter2-" * 30  # longer than a line holds: what is cut short is masked by no engine
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(web | {"orginSecret": value})
    assert "hunter2" not in str(caught.value)
    assert caught.value.lines == ["canary:orginSecret: got '(not shown)': is no known key; did you mean originSecret?"]


def test_the_unchanged_settings_are_accepted_without_a_warning(web: dict[str, Any]) -> None:
    settings, warnings = checks.parse(web)
    assert settings.weight == 5
    assert warnings == []


ONLY_CANARY: list[tuple[str, Change]] = [
    ("canary without an image", lambda raw: _service(raw).update(canary={})),
    ("canary that is no mapping", lambda raw: _service(raw).update(canary="2.0")),
    ("ladder not rising", lambda raw: raw.update(steps=[25, 5])),
    ("ladder of words", lambda raw: raw.update(steps="all")),
    ("rule without match", _rules({"name": "all"})),
    *(
        (f"{key} that holds nothing", lambda raw, key=key: raw.update({key: None}))
        for key in (
            "steps",
            "hold",
            "gate",
            "windows",
            "rejected",
        )
    ),
    ("rules that hold nothing", lambda raw: _service(raw).update(rules=None)),
    ("override without end", lambda raw: raw.update(override={"reason": "x"})),
]


@pytest.mark.parametrize("down", [{"weight": 0}, {"weight": "0"}, {"halted": True}, {"halted": "true"}], ids=str)
@pytest.mark.parametrize("change", [case[1] for case in ONLY_CANARY], ids=[case[0] for case in ONLY_CANARY])
def test_a_revert_passes_whatever_is_wrong_with_canary(
    web: dict[str, Any], change: Change, down: dict[str, Any]
) -> None:
    change(web)
    web.update(down)
    settings, warnings = checks.parse(web)
    assert settings.effective_weight == 0
    assert warnings, "what was left out is named"


def test_a_canary_that_cannot_be_rendered_counts_as_absent_in_a_revert(web: dict[str, Any]) -> None:
    _service(web)["canary"] = {"image": 7}
    web["weight"] = 0
    settings, _ = checks.parse(web)
    assert settings.services["web"].canary is None


def test_halted_passes_even_with_a_weight_that_is_no_number(web: dict[str, Any]) -> None:
    settings, warnings = checks.parse(web | {"weight": "abc", "halted": True})
    assert settings.effective_weight == 0
    assert any("'abc'" in warning for warning in warnings)


@pytest.mark.parametrize("change", [lambda raw: _service(raw).update(stable={}), lambda raw: raw.update(wieght=0)])
def test_a_revert_still_needs_what_renders_the_stable_route(web: dict[str, Any], change: Change) -> None:
    change(web)
    with pytest.raises(checks.SettingsError):
        checks.parse(web | {"weight": 0})


def test_parsing_leaves_the_raw_configuration_as_it_was(web: dict[str, Any]) -> None:
    _service(web)["canary"] = {}
    before = copy.deepcopy(web | {"weight": 0})
    checks.parse(before)
    assert _service(before)["canary"] == {}


def test_digit_strings_are_integers_because_config_set_writes_strings(web: dict[str, Any]) -> None:
    _service(web)["replicas"] = "3"
    settings, _ = checks.parse(web | {"weight": "25"})
    assert (settings.weight, settings.services["web"].replicas) == (25, 3)


def test_weight_zero_is_a_value_and_not_a_default(web: dict[str, Any]) -> None:
    assert checks.parse(web | {"weight": 0})[0].weight == 0


@pytest.mark.parametrize("until", ["2026-12-01T09:00:00Z", "2026-12-01"])
def test_dates_work_quoted_or_not(web: dict[str, Any], until: str) -> None:
    import yaml

    for text in (until, f'"{until}"'):
        end = yaml.safe_load(text)
        override = {
            "reason": "x",
            "until": str(end) if not isinstance(end, str) else end,
            "from": 5,
            "to": 50,
        }
        settings, _ = checks.parse(web | {"override": override})
        assert settings.override is not None
        assert settings.override.until.date().isoformat() == "2026-12-01"
