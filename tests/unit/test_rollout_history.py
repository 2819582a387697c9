"""The engine's entries as a timeline: what canary had, and who said why."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.history import message, plain, said, timeline

BEGAN = datetime(2026, 11, 18, 12)
SERVICES = {"web": {"stable": {"image": "web:1"}, "canary": {"image": "web:2"}}}


def entry(number: int, weight: int, result: str = "succeeded", **more: Any) -> dict[str, Any]:
    config = {"canary:weight": str(weight), "canary:services": json.dumps(SERVICES), **more.pop("config", {})}
    began = BEGAN + timedelta(minutes=number)
    return {
        "kind": "update",
        "version": 0,
        "start_time": began,
        "end_time": began + timedelta(seconds=3),
        "message": "by hand",
        "environment": {"git.author": "ann", "git.head": "abc", "git.dirty": "true"},
        "config": {key: SimpleNamespace(value=value, secret=value == "[secret]") for key, value in config.items()},
        "result": result,
        "resource_changes": {"same": 9, "update": 1},
        **more,
    }


def weights(*entries: dict[str, Any]) -> list[int]:
    return [one.weight for one in timeline(list(reversed(entries)))]


def test_updates_come_oldest_first_with_numbers_images_author_and_commit() -> None:
    first, second = timeline([entry(2, 10), entry(1, 5)])
    assert (first.version, first.weight, second.version, second.weight) == (1, 5, 2, 10)
    assert second.images == {"web": {"stable": "web:1", "canary": "web:2"}}
    assert (second.author, second.commit, second.message) == ("ann", "abc+", "by hand")
    assert second.began.tzinfo is not None and second.ended is not None
    assert json.loads(json.dumps(plain(second)))["began"] == "2026-11-18T12:02:00Z"


def test_a_refused_update_changed_nothing() -> None:
    assert weights(entry(1, 5), entry(2, 50, "failed", resource_changes={"same": 1})) == [5, 5]
    assert weights(entry(1, 5), entry(2, 0, "failed", resource_changes=None)) == [5, 5]


def test_an_update_that_failed_on_its_way_counts_as_the_lower_of_both() -> None:
    assert weights(entry(1, 5), entry(2, 10, "failed")) == [5, 5]
    assert weights(entry(1, 5), entry(2, 0, "failed")) == [5, 0]
    assert weights(entry(1, 5, "failed")) == [0]


def test_what_makes_the_weight_void_makes_it_zero() -> None:
    serve = json.dumps({"serve": "Sat 09:00-10:00 UTC"})
    assert weights(
        entry(1, 5, config={"canary:halted": "true"}),
        entry(2, 5, config={"canary:windows": serve}),
        entry(3, 0, config={"canary:services": json.dumps({"web": {"stable": {"image": "web:1"}}})}),
        entry(4, 5, kind="destroy"),
    ) == [0, 0, 0, 0]
    assert timeline([entry(1, 5, config={"canary:halted": "true"})])[0].halted


def test_a_stack_with_an_edge_has_a_history_although_the_engine_tells_no_secret() -> None:
    config = {
        "canary:edge": '{"aliases": ["shop.example.com"], "certificateArn": "arn:aws:acm:us-east-1:1:certificate/a"}',
        "canary:originSecret": "[secret]",
        "canary:services": json.dumps({"web": {**SERVICES["web"], "hosts": ["shop.example.com"]}}),
    }
    (found,) = timeline([entry(1, 5, config=config)])
    assert (found.weight, found.images) == (5, {"web": {"stable": "web:1", "canary": "web:2"}})


def test_what_todays_program_would_refuse_was_deployed_all_the_same() -> None:
    (found,) = timeline([entry(1, 5, config={"canary:anOldKey": "7"})])
    assert (found.weight, found.halted, found.images) == (5, False, {"web": {"stable": "web:1", "canary": "web:2"}})
    (found,) = timeline([entry(1, 5, config={"canary:anOldKey": "7", "canary:halted": "true"})])
    assert found.halted


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert said(message("rollback", "it smells"))["who"].startswith(f"{os.getuid()}@")


def test_refreshes_and_previews_are_no_updates() -> None:
    assert weights(entry(1, 5), entry(2, 5, kind="refresh"), entry(3, 5, kind="preview")) == [5]


@pytest.mark.parametrize("text", ["", "just words", "Rollout-\n", "a: b"])
def test_what_others_wrote_says_nothing(text: str) -> None:
    assert "verdict" not in said(text)


def test_a_message_says_what_was_put_into_it_whatever_that_is() -> None:
    told = message("rollback", "many: errors\nRollout-Verdict: advance", by="judge", evidence=None)
    assert said(told) == {
        "verdict": "rollback",
        "reason": "many: errors Rollout-Verdict: advance",
        "by": "judge",
        "who": said(told)["who"],
    }
    assert told.splitlines()[0] == "rollout: rollback: many: errors"
