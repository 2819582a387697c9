"""The lab's private network and mount namespace: who holds it, how to enter it, and which processes are in it.

A keeper process holds the namespace. It has its own loopback, on which every address of the lab lives, and its own
`/etc/hosts`, a file below `.lab/`. Nothing in it is reachable from outside, and nothing outside from it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.paths import LAB, ROOT

NODE_IP = "10.244.0.1"
API_IP = "10.96.0.1"
AWS_HOST = "aws.lab.test"
AWS_ACCOUNT = "000000000000"
# SDKs put the account before the host of a KeyValueStore's endpoint.
FIXED_HOSTS = ("127.0.0.1 localhost", "::1 localhost", f"{NODE_IP} {AWS_HOST} {AWS_ACCOUNT}.{AWS_HOST}")
HOSTS = LAB / "hosts"
STATE = LAB / "state.json"

_CLONE_NEWUSER, _CLONE_NEWNS, _CLONE_NEWNET = 0x10000000, 0x00020000, 0x40000000
_START_SECONDS = 10
# Envoy may bind an address before the node adds it; a user namespace's root may bind port 80; and load tests open
# more connections than the default range of ports allows.
_KEEPER = f"""
set -e
mount --bind "$1" /etc/hosts
ip link set lo up
ip addr add {NODE_IP}/32 dev lo
ip addr add {API_IP}/32 dev lo
set_if_can() {{ echo "$2" > "/proc/sys/net/ipv4/$1" 2>/dev/null || echo "lab: sysctl $1 could not be set" >&2; }}
set_if_can ip_nonlocal_bind 1
set_if_can ip_unprivileged_port_start 0
set_if_can ip_local_port_range "15300 65000"
set_if_can tcp_tw_reuse 1
echo held
exec sleep infinity
"""


class LabError(Exception):
    """Something that a user can understand and mend; printed without a traceback."""


@dataclass(frozen=True)
class Process:
    """A process told apart from a later one of the same number by its start time (clock ticks since boot)."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process:
        started = _start_time(pid)
        if started is None:
            raise LabError(f"process {pid} ended right after its start")
        return cls(pid, started)

    def alive(self) -> bool:
        return _start_time(self.pid) == self.start

    def kill(self, number: int) -> None:
        """Signal it if it is still the same process."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for no process or one that has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass
class State:
    """What `.lab/state.json` remembers of a running lab."""

    id: str
    keeper: Process
    network: str  # the kernel's name of the network namespace, such as net:[4026532281]
    user_namespace: bool
    supervisor: Process | None = None
    environment: dict[str, str] = field(default_factory=dict)
    path_first: list[str] = field(default_factory=list)

    def save(self) -> None:
        write_atomic(STATE, json.dumps(asdict(self), indent=1))


def load() -> State | None:
    """The lab of this checkout, running or not; None if there is none."""
    try:
        raw: dict[str, Any] = json.loads(STATE.read_text())
    except FileNotFoundError:
        return None
    for name in ("keeper", "supervisor"):
        raw[name] = Process(**raw[name]) if raw.get(name) else None
    return State(**raw)


def running() -> State:
    """The lab of this checkout; LabError if it is not running."""
    state = load()
    if state is None or not state.keeper.alive():
        raise LabError("the lab is not running: start it with `make lab` (or `python -m lab up`)")
    return state


def write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def create(lab_id: str) -> State:
    """Make the namespace and its keeper. Not root: inside a user namespace, where the caller counts as root."""
    HOSTS.write_text("\n".join(FIXED_HOSTS) + "\n")
    as_root = os.geteuid() == 0
    flags = ["-n", "-m"] if as_root else ["-U", "-r", "-n", "-m"]
    log = LAB / "logs" / "keeper.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            ["unshare", *flags, "--", "sh", "-c", _KEEPER, "lab-keeper", str(HOSTS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd="/",
        )
    assert child.stdout is not None
    with child.stdout:
        answer = child.stdout.readline()
    if answer != b"held\n":
        child.wait(_START_SECONDS)
        how = "as root" if as_root else "in an unprivileged user namespace"
        hint = "" if as_root else " Where the system forbids these (sysctl user.max_user_namespaces=0), run as root."
        raise LabError(f"no network namespace could be made {how}: {log.read_text().strip()}.{hint}")
    network = os.readlink(f"/proc/{child.pid}/ns/net")
    return State(lab_id, Process.of(child.pid), network, user_namespace=not as_root)


def inside(state: State) -> bool:
    """Whether the calling process is in the lab's namespace."""
    return os.readlink("/proc/self/ns/net") == state.network


def enter(state: State) -> None:
    """Move the calling process, which must have one thread only, into the namespace; its folder stays."""
    if inside(state):
        return
    folder = Path.cwd()
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = [("mnt", _CLONE_NEWNS), ("net", _CLONE_NEWNET)]
    if state.user_namespace:
        kinds.insert(0, ("user", _CLONE_NEWUSER))
    try:
        # All are opened first: inside the user namespace, what /proc shows of the keeper may change.
        handles = [(os.open(f"/proc/{state.keeper.pid}/ns/{kind}", os.O_RDONLY), kind, flag) for kind, flag in kinds]
    except PermissionError as error:
        raise LabError(f"the lab belongs to another user: {error}") from error
    for handle, kind, flag in handles:
        if libc.setns(handle, flag) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise LabError(f"cannot enter the lab's {kind} namespace: {reason} (the lab was started by another user?)")
        os.close(handle)
    os.chdir(folder)


def environment(state: State, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what `.lab/env` sets."""
    path = [entry for entry in base.get("PATH", os.defpath).split(os.pathsep) if entry not in state.path_first]
    return {**base, **state.environment, "PATH": os.pathsep.join([*state.path_first, *path])}


def python_path() -> str:
    """PYTHONPATH for processes of the lab, whatever their folder."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_inside(arguments: Iterable[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `python -m lab …` so that it runs in the namespace; for callers that have threads and cannot enter."""
    command = [sys.executable, "-m", "lab", *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path()}, **options)


def members(state: State) -> list[Process]:
    """Every process in the lab's network namespace but the keeper and the caller: all were started by the lab."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (state.keeper.pid, os.getpid()):
            continue
        try:
            if os.readlink(entry / "ns" / "net") == state.network:
                found.append(Process.of(int(entry.name)))
        except (OSError, LabError):
            continue  # another user's process, or one that has just ended
    return found


def stop_all(state: State, grace: float) -> None:
    """End all members, then the keeper. Without a living keeper only the supervisor can be told to be ours."""
    if not state.keeper.alive():
        if state.supervisor is not None:
            state.supervisor.kill(signal.SIGTERM)
        return
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for process in members(state):
            process.kill(number)
        deadline = time.monotonic() + wait
        while members(state) and time.monotonic() < deadline:
            time.sleep(0.05)
    left = members(state)
    if left:
        raise LabError(f"processes of the lab do not end: {', '.join(str(process.pid) for process in left)}")
    state.keeper.kill(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while state.keeper.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
