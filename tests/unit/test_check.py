"""What `rollout check` says of a pull request, and that it decides as the update would."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import jsonschema
import pulumi
import pytest
import yaml

import transition
from core import checks, record, routes
from core.model import Settings
from live import Live
from rollout import stackfile
from rollout.cli import Stop
from tests import generate, program, pull_requests
from tests.pull_requests import CANARY, CASES, MERGED, WEIGHT, Repository

DOCS = program.ROOT / "docs" / "pull-requests.md"
MARK = "<!-- what follows is made by tests/unit/test_check.py -->\n"
QA = 'to: canary}\n        - {name: first-users, users: ["1", "2", "3", "4", "5"], to: canary}'


@pytest.fixture(autouse=True)
def _no_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CLI that happens to be there would ask whatever backend this machine is logged in to."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


# --- pull requests ---


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the check says of each case, by title."""
    return {case.title: pull_requests.markdown(tmp_path_factory.mktemp("case"), case) for case in CASES}


@pytest.mark.parametrize("title", [case.title for case in CASES])
def test_a_pull_request_ends_as_its_title_says(title: str, said: dict[str, str]) -> None:
    assert said[title].startswith("<!-- rollout check -->\n"), "the comment is found again by its first line"
    assert "#### Stack `prod`: " in said[title]


def test_the_examples_in_the_documentation_are_current(said: dict[str, str], update_golden: bool) -> None:
    whole = MARK
    for title, text in said.items():
        lines = text.split("\n", 3)[3].splitlines()
        whole += f"\n### {title}\n\n" + "\n".join(f"> {line}".rstrip() for line in lines) + "\n"
    before, mark, _ = DOCS.read_text().partition(MARK)
    assert mark, "the documentation has a place for them"
    if update_golden:
        DOCS.write_text(before + whole)
    assert DOCS.read_text() == before + whole, "if the difference is meant: make golden"


def test_a_step_says_from_to_rung_who_what_changes_and_the_way_back(repository: Repository) -> None:
    option = repository.live()
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    told = repository.told(option)
    (web,) = told["services"]
    assert (web["from"], web["to"], web["rung"]) == (5, 10, "2 of 5, held 10m")
    assert web["exposed"] == ["5 of 100 viewers"]
    assert told["expected"] == ["web-vs", "edge-keys"]
    assert told["undo"][0].startswith("Pulumi.prod.yaml:9: `canary:weight: 0`")
    assert "`canary:weight: 5`" in told["undo"][1]
    assert (told["verdict"], told["allowedFrom"]) == ("allowed", "2026-11-23T10:00:00Z")


def test_an_unchanged_file_is_no_matter(repository: Repository) -> None:
    code, text = repository.check()
    assert (code, "No stack file differs from main." in text) == (0, True)


def test_a_stack_that_is_named_is_checked_though_its_file_did_not_change(repository: Repository) -> None:
    told = repository.told("--stack", "prod", repository.live())
    assert (told["services"], told["expected"], told["verdict"]) == ([], [], "allowed")


def test_without_the_edge_a_weight_is_a_share_of_requests_and_with_it_of_viewers(tmp_path: Path) -> None:
    text = pull_requests.prod()
    start, end = text.index("  canary:edge:"), text.index("  aws:region")
    repository = Repository(tmp_path, text[:start] + text[end:])
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    told = repository.told()
    assert told["services"][0]["exposed"] == ["5 of 100 requests"]
    assert "without `canary:edge` nobody is pinned" in told["audience"]
    assert "edge-keys" not in told["expected"]


def test_only_whom_a_rule_newly_reaches_is_named(repository: Repository) -> None:
    repository.edit(
        ('"5"], to: canary', '"5", "6"], to: canary'), ("[203.0.113.0/24]", "[203.0.113.0/24, 192.0.2.0/24]")
    )
    exposed = repository.told()["services"][0]["exposed"]
    assert exposed == ["rule `first-users`: users `6`", "viewers from 192.0.2.0/24 (green)"]


def test_a_cohort_that_is_kept_on_stable_no_more_is_named(repository: Repository) -> None:
    repository.edit(("blueCidrs: [198.51.100.0/24]", "blueCidrs: []"))
    assert repository.told()["services"][0]["exposed"] == ["viewers from 198.51.100.0/24 (no longer blue)"]


def test_fewer_rules_expose_nobody(repository: Repository) -> None:
    repository.edit(('"5"], to: canary', '"4a"], to: canary'), ('"4", "4a"', '"4"'))
    told = repository.told()
    assert told["services"][0]["exposed"] == []
    assert told["verdict"] == "allowed"


def test_a_new_canary_at_weight_0_meets_those_whom_rules_and_cohorts_name(tmp_path: Path) -> None:
    text = pull_requests.prod().replace(WEIGHT, "canary:weight: 0\n")
    start, end = text.index("      canary:\n"), text.index("      hosts:")
    repository = Repository(tmp_path, text[:start] + text[end:])
    repository.write(text)
    told = repository.told()
    assert told["services"][0]["kind"] == "start"
    assert told["services"][0]["exposed"] == [
        "rule `qa`: header `x-canary` exact `true`",
        "rule `first-users`: users `1`, `2`, `3`, `4`, `5`",
        "viewers from 203.0.113.0/24 (green)",
        "viewers who send `x-canary` (trusted now)",
    ]
    assert "+web-canary" in told["expected"]


def test_many_services_that_move_alike_make_one_row(tmp_path: Path) -> None:
    data = yaml.safe_load((program.ROOT / "Pulumi.dev.yaml").read_text())
    web = data["config"]["canary:services"].pop("web")
    for number in range(50):
        data["config"]["canary:services"][f"web-{number}"] = {**web, "hosts": [f"{number}.example.com"]}
    repository = Repository(tmp_path, yaml.safe_dump(data))
    repository.edit(("canary:weight: 0\n", "canary:weight: 5\n"))
    code, text = repository.check()
    assert code == 0
    assert text.count("5 of 100 requests") == 1
    assert "and 40 more" in text


# --- when ---


def test_a_step_before_its_hold_has_passed_is_held_and_says_until_when(repository: Repository) -> None:
    option = repository.live(since="2026-11-23T09:50:00Z")
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    code, text = repository.check(option)
    assert code == 5
    assert "held until 2026-11-23T10:05:00Z" in text
    assert "what was last recorded live (live.json)" in text


def test_without_the_live_stack_the_hold_counts_from_the_bases_commit_and_that_is_said(repository: Repository) -> None:
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    code, text = repository.check(at="2026-11-23T08:40:00Z")
    assert code == 5
    assert "held until 2026-11-23T08:45:00Z" in text
    assert "the base's commit, because what is live could not be read (pulumi is not on the PATH)" in text


def test_an_edit_of_something_else_does_not_start_the_hold_again(repository: Repository) -> None:
    repository.edit(("replicas: 6", "replicas: 7"))
    repository.commit("more pods", "2026-11-23T09:55:00+00:00")
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    assert repository.told()["verdict"] == "allowed"


def test_a_hold_that_ends_outside_the_window_waits_for_the_window(repository: Repository) -> None:
    option = repository.live(since="2026-11-26T14:55:00Z")  # a Thursday; the window closes at 15:00 UTC
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    assert repository.told(option, at="2026-11-26T14:58:00Z")["allowedFrom"] == "2026-11-30T08:00:00Z"


def test_time_does_not_help_a_skipped_rung_even_in_a_freeze(repository: Repository) -> None:
    repository.edit((WEIGHT, "canary:weight: 25\n"))
    told = repository.told(at="2026-12-21T10:00:00Z")
    assert (told["verdict"], told["allowedFrom"]) == ("refused", None)


# --- what is live ---


def test_a_file_below_what_is_live_is_warned_of_and_one_that_is_not_is_not(repository: Repository) -> None:
    option = repository.live(25)
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    (warning,) = repository.told(option)["warnings"]
    assert "25 % is live and the base says 5" in warning
    assert "set canary:weight to 25 to stay" in warning
    assert repository.told(repository.live(5))["warnings"] == []


def test_rules_go_by_what_is_live(repository: Repository) -> None:
    option = repository.live(0)
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    code, text = repository.check(option)
    assert code == 2
    assert "weight 0 -> 10 skips a rung" in text


def test_an_image_that_was_rejected_live_does_not_rise(repository: Repository) -> None:
    image = program.stack_config("prod")["canary:services"]["web"]["canary"]["image"]
    option = repository.live(rejected=[image])
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    assert "which was rolled back" in repository.told(option)["refused"][0]


def test_a_stack_that_was_never_deployed_has_no_holds(repository: Repository) -> None:
    (repository.folder / "live.json").write_text("{}")
    repository.edit(("replicas: 6", "replicas: 7"))
    assert repository.told("--live=live.json")["services"][0]["kind"] == "first deployment"


def test_outputs_of_something_else_are_not_taken_for_this_stacks(repository: Repository) -> None:
    (repository.folder / "live.json").write_text('{"services": {"web": {"url": "https://x"}}}')
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    told = repository.told("--live=live.json")
    assert (told["verdict"], "not of this stack's making" in told["holdFrom"]) == ("allowed", True)


def test_a_base_that_was_broken_does_not_hold_up_its_repair(tmp_path: Path) -> None:
    for text in ("config: [\n", "config:\n  canary:wieght: 5\n"):
        (folder := tmp_path / str(len(text))).mkdir()
        repository = Repository(folder, text)
        repository.write(pull_requests.prod())
        for option in ((), (repository.live(),)):
            told = repository.told(*option)
            assert told["verdict"] == "allowed"
            assert "the base's file is unusable" in told["warnings"][0]


@pytest.mark.parametrize(("weight", "rung"), [(7, "between 5 and 10"), (3, "between 0 and 5"), (0, "none")])
def test_a_weight_that_is_no_rung_says_between_which_it_is(repository: Repository, weight: int, rung: str) -> None:
    repository.edit((WEIGHT, f"canary:weight: {weight}\n"))
    assert repository.told()["services"][0]["rung"] == rung


def test_a_cli_that_fails_is_no_error_and_its_first_line_is_told(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cli := repository.folder / "bin" / "pulumi").parent.mkdir()
    cli.write_text("#!/bin/sh\necho 'error: no backend' >&2\nexit 1\n")
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cli.parent}:/usr/bin:/bin")
    monkeypatch.setattr(shutil, "which", lambda name: str(cli))
    repository.edit((WEIGHT, "canary:weight: 10\n"))
    code, text = repository.check()
    assert (code, "could not be read (error: no backend)" in text) == (0, True)


def test_a_cli_that_answers_is_believed(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.live(25)
    (cli := repository.folder / "bin" / "pulumi").parent.mkdir()
    cli.write_text(
        "#!/bin/sh\n[ \"$*\" = 'stack output --json --non-interactive --stack prod' ] && "
        f"cat {repository.folder}/live.json\n"
    )
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cli.parent}:/usr/bin:/bin")
    monkeypatch.setattr(shutil, "which", lambda name: str(cli))
    repository.edit((WEIGHT, "canary:weight: 50\n"))
    assert repository.told()["services"][0]["from"] == 25


# --- the way back ---


@pytest.mark.parametrize("down", ["canary:weight: 0\n", "canary:weight: 5\n  canary:x: 1\n"])
def test_a_revert_is_allowed_in_a_freeze_on_hold_and_with_a_broken_canary_but_not_with_a_broken_file(
    repository: Repository, down: str
) -> None:
    repository.edit((WEIGHT, down), ('canary:hold: ""', 'canary:hold: "legal"'), (CANARY, 'canary:\n        image: "'))
    code, _ = repository.check(at="2026-12-21T10:00:00Z")
    assert code == (0 if "weight: 0" in down else 2)


def test_a_promotion_may_be_taken_back_though_the_base_does_not_say_what_was_before(tmp_path: Path) -> None:
    old = pull_requests.prod()
    repository = Repository(tmp_path, old.replace(WEIGHT, "canary:weight: 100\n"))
    images = program.stack_config("prod")["canary:services"]["web"]
    start, end = old.index("      canary:\n"), old.index("      hosts:")
    promoted = (old[:start] + old[end:]).replace(images["stable"]["image"], images["canary"]["image"])
    repository.write(promoted.replace(WEIGHT, "canary:weight: 0\n"))
    told = repository.told()
    assert told["services"][0]["kind"] == "promotion"
    assert told["undo"][0].startswith("`git revert` of this change")
    repository.commit("promote", "2026-11-23T10:00:00+00:00")
    repository.git("revert", "--no-commit", "HEAD", when=MERGED)
    again = repository.told(at="2026-11-23T10:01:00Z")
    assert (again["verdict"], again["services"][0]["kind"]) == ("allowed", "way back")
    assert repository.told(repository.live(0, services={}), at="2026-11-23T10:01:00Z")["verdict"] == "refused", (
        "unknown"
    )


# --- what is wrong ---


def test_what_is_wrong_is_said_once_with_file_and_line(repository: Repository) -> None:
    repository.edit(("replicas: 6", "replicas: none"), ("targetPort: 3000", "tragetPort: 3000"))
    code, text = repository.check()
    assert code == 2
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == 2, lines
    assert lines[0].startswith("- Pulumi.prod.yaml:26: canary:services.web.tragetPort: got 3000: is no known key")
    assert lines[1].startswith("- Pulumi.prod.yaml:27: canary:services.web.replicas: got 'none'")


def test_a_file_that_is_no_yaml_says_where(repository: Repository) -> None:
    repository.edit(('canary:hold: ""', 'canary:hold: ["'))
    code, text = repository.check()
    assert code == 2
    assert "Pulumi.prod.yaml:" in text


def test_a_base_that_is_unknown_is_bad_usage(repository: Repository) -> None:
    code, text = repository.check(base="nowhere")
    assert (code, "no commit of this repository" in text) == (2, True)


def test_outside_the_projects_folder_it_does_not_pass_for_want_of_stack_files(repository: Repository) -> None:
    (repository.folder / "Pulumi.yaml").unlink()
    code, text = repository.check()
    assert (code, "run it in the project's folder" in text) == (2, True)


def test_a_stack_file_that_is_gone_is_told_with_what_is_left(repository: Repository) -> None:
    repository.file.unlink()
    code, text = repository.check()
    assert (code, "`pulumi destroy`" in text) == (0, True)


def test_a_new_stack_file_is_a_first_deployment(repository: Repository) -> None:
    shutil.copy(program.ROOT / "Pulumi.dev.yaml", repository.folder)
    told = repository.told()
    assert (told["stack"], told["services"][0]["kind"], told["verdict"]) == ("dev", "first deployment", "allowed")


def test_the_worst_of_all_stacks_is_the_end(repository: Repository) -> None:
    shutil.copy(program.ROOT / "Pulumi.dev.yaml", repository.folder)
    repository.edit((WEIGHT, "canary:weight: 25\n"))
    code, text = repository.check()
    assert code == 2
    assert text.index("Stack `dev`: allowed") < text.index("Stack `prod`: **refused**")


def test_no_secret_is_ever_printed(repository: Repository) -> None:
    plain, sealed = "in-plain-text-0123456789", "v1:Tso4I31fCDhce2"
    repository.edit(
        ("  aws:region", f"  canary:secret-token: {plain}\n  canary:originSecretBefore: {{a: {plain}}}\n  aws:region")
    )
    for more in ((), ("--json",)):
        code, text = repository.check(*more)
        assert code == 2
        assert plain not in text
        assert sealed not in text
        assert "canary:secret-token" in text, "that it is in plain text is said"


# --- policies ---

PREVIEW = """Previewing update (prod):
 ~  kubernetes:networking.istio.io/v1:VirtualService web-vs update
Policies:
    {sign} canary@v0.1.0 (local: policies)
{lines}
Resources:
    ~ 1 to update
"""


@pytest.mark.parametrize(("level", "code"), [("mandatory", 2), ("advisory", 0)])
def test_what_policies_say_is_told_and_a_mandatory_one_refuses(repository: Repository, level: str, code: int) -> None:
    line = (
        f"        - [{level}]  weights-sum-to-100  (VirtualService: cart)\n          must sum to 100, got 90 + 5 = 95"
    )
    (repository.folder / "preview.txt").write_text(PREVIEW.format(sign="❌", lines=line))
    ended, text = repository.check("--stack=prod", "--preview=preview.txt")
    assert ended == code
    assert "must sum to 100, got 90 + 5 = 95" in text.split("<details>")[0]


def test_policies_that_all_agree_are_told_too(repository: Repository) -> None:
    (repository.folder / "preview.txt").write_text(PREVIEW.format(sign="✅", lines=""))
    told = repository.told("--stack=prod", "--preview=prod=preview.txt")
    assert told["policies"].strip() == "✅ canary@v0.1.0 (local: policies)"


def test_a_preview_without_policies_is_not_taken_for_one_that_passed(repository: Repository) -> None:
    (repository.folder / "preview.txt").write_text('{"steps": []}\n')
    assert "says nothing of them" in repository.told("--stack=prod", "--preview=preview.txt")["policies"]


# --- the check decides as the update does ---


def _changed(rng: Random, raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration after an edit or two."""
    found = copy.deepcopy(raw)
    ladder = [int(one["weight"] if isinstance(one, dict) else one) for one in found["steps"]]
    rung = next((weight for weight in ladder if weight > int(found["weight"])), 100)
    for service in rng.choices(list(found["services"].values()), k=rng.randint(1, 2)):
        edits: list[Callable[..., object]] = [
            lambda: found.update(weight=rng.choice([0, 5, 10, 25, 50, 100, *range(100)])),
            *[lambda: found.update(weight=rung)] * 4,
            lambda: found.update(halted=rng.random() < 0.5),
            lambda: found.update(hold=rng.choice(["", "no"])),
            lambda: found.pop("override", None),
            lambda: found.update(
                override={"reason": "x", "until": "2026-11-24", "from": raw["weight"], "to": found["weight"]}
            ),
            lambda: found.pop("windows", None),
            lambda: found.update(steps=[5, 50, 100]),
            lambda it=service: it["stable"].update(image=rng.choice(generate.IMAGES)),
            lambda it=service: it.update(canary={"image": rng.choice(generate.IMAGES)}),
            lambda it=service: it.pop("canary", None),
            lambda it=service: it.update(rules=[]),
            lambda it=service: it.update(port=81),
        ]
        rng.choice(edits)()
    return found


def _records(settings: Settings, when: datetime) -> dict[str, record.Record]:
    """What an update to `settings` would leave behind, read back."""
    found = {}
    for name in settings.services:
        notes = record.notes(None, record.wanted(name, settings), configured=settings.weight, now=when, cluster=None)
        written = {"metadata": {"annotations": notes}, "spec": routes.virtual_service_spec(name, settings)}
        entry = record.read(written, None)
        assert entry is not None
        found[name] = entry
    return found


def _usable(raw: dict[str, Any]) -> Settings | None:
    with contextlib.suppress(checks.SettingsError):
        return checks.parse(raw)[0]
    return None


def test_the_check_and_the_update_agree_on_random_pull_requests(tmp_path: Path) -> None:
    merged = datetime.fromisoformat(MERGED)
    seen = {"allowed": 0, "held": 0, "refused": 0, "unusable": 0}
    for number in range(60):
        rng = Random(f"{generate.SEED}-pull-request-{number}")
        base = generate.valid(rng)
        head = _changed(rng, base)
        at = merged + timedelta(minutes=rng.choice([1, 20, 300, 1440, 12 * 1440]))
        (folder := tmp_path / str(number)).mkdir()
        repository = Repository(
            folder, yaml.safe_dump({"config": {f"canary:{key}": one for key, one in base.items()}}, sort_keys=False)
        )
        repository.write(
            yaml.safe_dump({"config": {f"canary:{key}": one for key, one in head.items()}}, sort_keys=False)
        )
        told = repository.told("--stack=prod", at=at.isoformat())
        was, wanted = _usable(base), _usable(head)
        assert was is not None
        assert (wanted is None) == (told["verdict"] == "unusable"), (number, told)
        seen[told["verdict"]] += 1
        if wanted is None:
            continue
        with mock.patch.object(pulumi.log, "warn"):
            try:
                transition.decide(wanted, _records(was, merged), Live(), at)
                refusal = []
            except pulumi.RunError as error:
                refusal = str(error).splitlines()
        assert told["refused"] == refusal, number
        assert (told["verdict"] == "allowed") == (not refusal), number
    assert min(seen.values()) >= 2, f"every outcome is met: {seen}"


def test_what_is_expected_to_change_is_what_the_program_changes(repository: Repository) -> None:
    config = program.stack_config("prod")
    before = program.run(config)
    now = program.run(config | {"canary:weight": 0}, recorded=program.recorded_from(before))
    old = {(one.type, one.name): program.without_times(str(one.inputs)) for one in before.resources}
    new = {(one.type, one.name): program.without_times(str(one.inputs)) for one in now.resources}
    repository.edit((WEIGHT, "canary:weight: 0\n"))
    assert repository.told()["expected"] == sorted(
        (name for kind, name in new if old.get((kind, name)) != new[kind, name]), reverse=True
    )


# --- stack files ---


def test_an_edit_changes_its_line_and_keeps_comments_and_order(tmp_path: Path) -> None:
    for name in ("dev", "lab", "prod"):
        shutil.copy(program.ROOT / f"Pulumi.{name}.yaml", tmp_path)
        file = stackfile.load(tmp_path / f"Pulumi.{name}.yaml")
        before = file.text.splitlines()
        file.set("weight", 42)
        file.save()
        after = file.path.read_text().splitlines()
        (line,) = [number for number, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]]
        assert line == file.line("weight")
        assert file.settings_raw["weight"] == "42"


def test_a_stack_file_reads_as_the_engine_would_hand_it_on(tmp_path: Path) -> None:
    (path := tmp_path / "Pulumi.x.yaml").write_text(
        "config:\n  canary:weight: 010\n  canary:hold:\n  canary:steps: '[5, 10]'\n  other:key: 1\n"
        "  canary:services:\n    web: {env: {A: yes, B: 2026-12-18, C: 5, D: 0.5, E: true, F: null, G: '7'}}\n"
    )
    file = stackfile.load(path)
    assert file.settings_raw == {
        "weight": "010",
        "hold": "",
        "steps": [5, 10],
        "services": {"web": {"env": {"A": "yes", "B": "2026-12-18", "C": 5, "D": 0.5, "E": True, "F": None, "G": "7"}}},
    }
    assert file.line(("services", "web", "env", "C")) == 7
    assert file.line(("services", "api", "stable")) == 6, "what is missing belongs to what would hold it"


def test_a_secret_stays_sealed_and_a_changed_one_shows(tmp_path: Path) -> None:
    text = "config:\n  canary:secret-a:\n    secure: v1:{}\n"
    one, same, other = (
        stackfile.StackFile(tmp_path / "Pulumi.x.yaml", text.format(value)) for value in ("abcdef", "abcdef", "ghijkl")
    )
    assert one.settings_raw == same.settings_raw != other.settings_raw
    assert "abcdef" not in str(one.settings_raw)
    one.set("weight", 5)
    assert "secure: v1:abcdef" in one.text, "and an edit leaves it as it is"


def test_a_value_is_set_where_nothing_was_and_taken_out(tmp_path: Path) -> None:
    file = stackfile.StackFile(
        tmp_path / "Pulumi.x.yaml", "config:\n  # ours\n  canary:services:\n    web: {stable: {image: a}}\n"
    )
    file.set(("services", "web", "canary"), {"image": "b"})
    file.set("halted", True)
    assert file.settings_raw["services"]["web"]["canary"] == {"image": "b"}
    file.set(("services", "web", "canary"), None)
    file.set("halted", None)
    file.set(("windows", "raise"), None)
    assert file.text == "config:\n  # ours\n  canary:services:\n    web: {stable: {image: a}}\n"


def test_a_file_that_somebody_else_wrote_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (path := tmp_path / "Pulumi.x.yaml").write_text("config:\n  canary:weight: 5\n")
    file = stackfile.load(path)
    path.write_text("config:\n  canary:weight: 0\n")
    file.set("weight", 10)
    with pytest.raises(Stop, match="changed by somebody else"):
        file.save()
    assert path.read_text() == "config:\n  canary:weight: 0\n"
    assert [one.name for one in tmp_path.iterdir()] == ["Pulumi.x.yaml"], "and nothing lies about"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("config: [\n", ":2: is no YAML"),
        ("config: 5\n", ":1: must be a mapping"),
        ("config:\n  canary:weight: 5\n  canary:weight: 6\n", ":3: canary:weight is there twice"),
        ("config:\n\t- x\n", "is no YAML"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    (path := tmp_path / "Pulumi.x.yaml").write_text(text)
    with pytest.raises(Stop) as caught:
        stackfile.load(path)
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_a_value_cannot_be_set_inside_another(tmp_path: Path) -> None:
    file = stackfile.StackFile(tmp_path / "Pulumi.x.yaml", "config:\n  canary:edge: no\n")
    with pytest.raises(Stop, match="edge holds a value"):
        file.set(("edge", "aliases"), [])


def test_what_an_alias_shares_is_not_edited_for_one_of_its_users(tmp_path: Path) -> None:
    text = (
        "config:\n  canary:services:\n    web:\n      stable: &s {image: web:1}\n      canary: *s\n  canary:weight: 5\n"
    )
    file = stackfile.StackFile(tmp_path / "Pulumi.x.yaml", text)
    with pytest.raises(Stop, match=r"x.yaml:4: canary is shared under the YAML anchor &s: image would change too"):
        file.set(("services", "web", "canary", "image"), "web:2")
    assert file.text == text
    file.set("weight", 0)
    assert file.settings_raw["weight"] == "0", "the way down needs no alias"


# --- editors ---

SCHEMA = json.loads((program.ROOT / "schema" / "stack.schema.json").read_text())
STACKS = [*sorted(program.ROOT.glob("Pulumi.*.yaml")), *sorted((program.ROOT / "tests" / "stacks").glob("*.yaml"))]


def _marked(text: str) -> list[str]:
    """Where an editor draws red lines; it reads dates as text."""
    data = yaml.load(text, Loader=yaml.BaseLoader if "BASE" in text else yaml.SafeLoader)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [
        ".".join(map(str, error.absolute_path))
        for error in validator.iter_errors(json.loads(json.dumps(data, default=str)))
    ]


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.name)
def test_an_editor_marks_nothing_in_our_stack_files_and_knows_their_schema(path: Path) -> None:
    assert _marked(path.read_text()) == []
    if path.parent == program.ROOT:
        line = next(line for line in path.read_text().splitlines() if line.startswith("# yaml-language-server"))
        assert line == "# yaml-language-server: $schema=schema/stack.schema.json"


def test_settings_of_an_editor_lead_to_the_schema() -> None:
    told = json.loads((program.ROOT / ".vscode" / "settings.json").read_text())["yaml.schemas"]
    assert {name: (program.ROOT / name).is_file() for name in told} == {"schema/stack.schema.json": True}


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (WEIGHT, "canary:weight: 101\n", "config.canary:weight"),
        (WEIGHT, "canary:weight: 5.5\n", "config.canary:weight"),
        (WEIGHT, "canary:wieght: 5\n", "config"),
        ("replicas: 6", "replicas: 0", "config.canary:services.web.replicas"),
        ("protocol", "protocol", ""),
        ("targetPort: 3000", "targetPort: 70000", "config.canary:services.web.targetPort"),
        (
            "to: canary}\n        - {name: first",
            "to: blue}\n        - {name: first",
            "config.canary:services.web.rules.0.to",
        ),
        ("secure: v1", "secret: v1", "config.canary:originSecret"),
    ],
)
def test_an_editor_marks_what_is_wrong(old: str, new: str, where: str) -> None:
    text = pull_requests.prod()
    if old != new:
        assert text.count(old) == 1
    assert _marked(text.replace(old, new)) == ([where] if where else [])


@pytest.mark.parametrize("value", ['"5"', "5"])
def test_what_config_set_writes_is_not_marked(value: str) -> None:
    text = pull_requests.prod().replace(WEIGHT, f"canary:weight: {value}\n").replace("halted: false", 'halted: "false"')
    assert _marked(text) == []
