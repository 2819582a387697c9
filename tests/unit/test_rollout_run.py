"""`rollout run`: where it ends, and what it shows meanwhile."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from core.bets import Counts
from core.judge import Tally, Verdict
from rollout.cli import Exit, Stop
from rollout.engine import Failed, Locked
from rollout.run import PATIENCE, Progress, picture, walk
from rollout.steps import Action
from tests.unit.test_rollout_steps import view

RISE = Action(kind="rise", text="fine", weight=10)
HOLD = Action(kind="hold", text="1:10 of at least 5:00 at 5 %")


class FakeStepper:
    """Looks find `looks`, one after another; acting on a rise raises what `errors` hold."""

    def __init__(self, looks: Sequence[Action | Failed], errors: Sequence[Stop] = ()) -> None:
        self.looks, self.errors, self.acted = list(looks), list(errors), list[str]()

    def look(self) -> Any:
        found = self.looks.pop(0)
        if isinstance(found, Failed):
            raise found
        return view(5), Verdict("advance", "fine"), found

    def act(self, *found: Any) -> Exit:
        self.acted.append(found[-1].kind)
        if self.errors:
            raise self.errors.pop(0)
        return Exit.ROLLED_BACK if found[-1].kind == "rollback" else Exit.DONE


def walked(looks: Sequence[Action | Failed], errors: Sequence[Stop] = ()) -> tuple[Exit, list[str], list[str]]:
    stepper, said = FakeStepper(looks, errors), list[str]()
    with Progress(Console(file=io.StringIO()), said) as progress:
        code = walk(stepper, progress, 0.0, None, False)  # type: ignore[arg-type]
    assert stepper.looks == [], "it went on to the end"
    return code, stepper.acted, said


def act(kind: Any) -> Action:
    return Action(kind=kind, text="because")


@pytest.mark.parametrize(
    ("looks", "code", "acted"),
    [
        ([RISE, HOLD, HOLD, RISE, act("promote")], Exit.DONE, ["rise", "rise", "promote"]),
        ([HOLD, act("rollback")], Exit.ROLLED_BACK, ["rollback"]),
        ([RISE, act("halted")], Exit.ROLLED_BACK, ["rise"]),
        ([act("halted")], Exit.HELD, []),
        ([act("idle")], Exit.BAD_INPUT, []),
        ([HOLD, act("idle")], Exit.DONE, []),
        ([act("drift")] * PATIENCE, Exit.DRIFT, []),
        ([*[act("drift")] * (PATIENCE - 1), HOLD, act("drift"), act("rollback")], Exit.ROLLED_BACK, ["rollback"]),
        ([Failed(["no backend"]), RISE, act("promote")], Exit.DONE, ["rise", "promote"]),
    ],
)
def test_it_ends_where_the_rollout_ends(looks: Sequence[Any], code: Exit, acted: list[str]) -> None:
    assert walked(looks)[:2] == (code, acted)


@pytest.mark.parametrize("error", [Locked("locked"), Failed(["skips a rung; canary:override"])])
def test_a_lock_or_a_refusal_passes_and_it_tries_again(error: Stop) -> None:
    code, acted, said = walked([RISE, RISE, act("promote")], [error])
    assert (code, acted) == (Exit.DONE, ["rise", "rise", "promote"])
    assert error.message in said


def test_a_failed_update_ends_it() -> None:
    with pytest.raises(Stop, match="helm is stuck"):
        walked([RISE], [Failed(["helm is stuck"])])


def test_without_a_terminal_a_line_is_written_only_when_something_has_changed() -> None:
    said = walked([HOLD, HOLD, HOLD, act("rollback")])[2]
    assert [line.split(": ")[1] for line in said] == ["hold", "rollback"]


def test_the_picture_has_the_ladder_the_counts_the_evidence_and_the_next_decision() -> None:
    tallies = {"web": Tally(Counts(2930, 10), Counts(26400, 31))}
    verdict = Verdict("hold", HOLD.text, notes=("a note",), evidence=5.0, wait=110.0, tallies=tallies)
    out = io.StringIO()
    Console(file=out, width=110).print(picture(view(5), verdict, HOLD, 10))
    text = out.getvalue()
    for told in ("5 %", "100 %", "2,930", "0.34 %", "26,400", "5 : 1", "100 : 1", "1:50", HOLD.text, "a note"):
        assert told in text, told
