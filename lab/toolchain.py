"""The pinned tools built from Go modules or unpacked from Debian packages, and where the cache keeps them.

Each Go tool is a small wrapper module below `lab/toolchain/` whose go.sum pins everything that goes into it.
The name of its folder in the cache carries a hash of what decides the result, so a second checkout finds it and
a changed pin misses it.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.paths import CACHE, TOOLCHAIN, VENV

GO_MINIMUM = (1, 26)
GO_LOCK = TOOLCHAIN / "go.txt"
MINISTACK_LOCK = TOOLCHAIN / "ministack" / "requirements.txt"
# No C compiler is taken for granted, and one setting for all lets the builds share their standard library.
BUILD_ENV = {
    "CGO_ENABLED": "0",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
}

# Only makes the builds quicker (measured on etcd: 28 % less CPU time), so it is no part of a folder's hash: the
# compiler collects garbage less often, and does not write the debug information that the linker drops anyway.
QUICKER_ENV = {"GOGC": "400"}
QUICKER_FLAGS = ("-gcflags=all=-dwarf=false",)


@dataclass(frozen=True)
class Copy:
    """Files of a Go module used as they are: `pattern` in the module, `to` a file, or a folder with a /."""

    module: str
    pattern: str
    to: str


@dataclass(frozen=True)
class GoTool:
    """One folder of the cache: `packages` built and `copies` taken, all from one wrapper module."""

    name: str
    wrapper: str
    provides: tuple[str, ...]
    packages: tuple[str, ...] = ()
    ldflags: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    output: str = ""  # needed where the package's own last path element is not the command's name

    @property
    def source(self) -> Path:
        return TOOLCHAIN / self.wrapper

    def directory(self) -> Path:
        parts: list[bytes] = [(self.source / name).read_bytes() for name in ("go.mod", "go.sum")]
        parts.append(repr((self, sorted(BUILD_ENV.items()), platform.system(), platform.machine())).encode())
        return CACHE / f"{self.name}-{digest(parts)}"


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package. `unpack`: into the cache only, so that no daemon of it can ever start on the host."""

    name: str
    provides: dict[str, str]  # the lab's name -> path inside the package
    unpack: bool
    without: str  # what does not work where it is missing

    def directory(self) -> Path:
        return CACHE / f"debian-{self.name}-{digest([_os_release(), platform.machine().encode()])}"


EXEC_FILE = "pulumi-language-python-exec"
_EXEC_COPY = Copy("github.com/pulumi/pulumi/sdk/v3", f"python/cmd/{EXEC_FILE}", EXEC_FILE)
PULUMI_VERSION = "v3.259.0"
KUBERNETES_VERSION = "v1.36.3"

GO_TOOLS = (
    GoTool(
        "crds",
        "crds",
        provides=("crds",),
        copies=(
            Copy("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml", "istio.yaml"),
            Copy("sigs.k8s.io/gateway-api", "config/crd/standard/*.yaml", "gateway-api/"),
        ),
    ),
    # On its own too: a user who has a Pulumi CLI should not build one for the sake of this file.
    GoTool("pulumi-exec", "pulumi", provides=(EXEC_FILE,), copies=(_EXEC_COPY,)),
    GoTool(
        "actionlint",
        "actionlint",
        provides=("actionlint",),
        packages=("github.com/rhysd/actionlint/cmd/actionlint",),
    ),
    GoTool(
        "etcd",
        "etcd",
        provides=("etcd",),
        packages=("go.etcd.io/etcd/server/v3",),
        output="etcd",
    ),
    GoTool(
        "pulumi",
        "pulumi",
        provides=("pulumi",),
        packages=("github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",),
        ldflags=(f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={PULUMI_VERSION}",),
        copies=(_EXEC_COPY,),
    ),
    GoTool(
        "kubernetes",
        "kubernetes",
        provides=("kube-apiserver", "kube-controller-manager"),
        packages=("k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ldflags=(
            f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
            "-X k8s.io/component-base/version.gitMajor=1",
            "-X k8s.io/component-base/version.gitMinor=36",
        ),
    ),
)

# Built when something first asks for it: one test does, and it takes about as long as the Pulumi CLI.
FLAGGER = GoTool(
    "flagger",
    "flagger",
    provides=("flagger", "loadtester", "hey", "flagger-crds.yaml"),
    packages=(
        "github.com/fluxcd/flagger/cmd/flagger",
        "github.com/fluxcd/flagger/cmd/loadtester",
        "github.com/rakyll/hey",
    ),
    copies=(Copy("github.com/fluxcd/flagger", "artifacts/flagger/crd.yaml", "flagger-crds.yaml"),),
)

DEBIAN = (
    DebianPackage(
        "prometheus",
        {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"},
        unpack=True,
        without="metrics of the lab are not collected: gates, analysis and alerts cannot be tried",
    ),
    DebianPackage(
        "prometheus-alertmanager",
        {"alertmanager": "usr/bin/prometheus-alertmanager", "amtool": "usr/bin/amtool"},
        unpack=True,
        without="alerts of the lab are not delivered",
    ),
    DebianPackage(
        "njs",
        {"njs": "usr/bin/njs"},
        unpack=True,
        without="the functions of the edge cannot be tried: tests/edge and the edge's benchmark are skipped",
    ),
    DebianPackage("nginx", {"nginx": "usr/sbin/nginx"}, unpack=True, without="the lab has no edge"),
    DebianPackage(
        "libnginx-mod-http-js",
        {"ngx_http_js_module.so": "usr/lib/nginx/modules/ngx_http_js_module.so"},
        unpack=True,
        without="the lab has no edge",
    ),
    DebianPackage(
        "chromium",
        {"chromium": "usr/bin/chromium"},
        unpack=False,
        without="the evidence page is not looked at in a browser: those tests are skipped",
    ),
    DebianPackage(
        "iproute2",
        {"ip": "sbin/ip"},
        unpack=False,
        without="the lab cannot set up its network: nothing but `make check` works",
    ),
    DebianPackage(
        "util-linux",
        {"unshare": "usr/bin/unshare", "nsenter": "usr/bin/nsenter"},
        unpack=False,
        without="the lab cannot make its namespace: nothing but `make check` works",
    ),
)


def venv_directory(name: str, lock_file: Path) -> Path:
    """Where the environment of that lock file is for this very Python."""
    python = f"{sys.implementation.cache_tag} {sys.base_prefix}"
    return CACHE / f"{name}-{digest([lock_file.read_bytes(), python.encode()])}"


def is_complete(venv: Path) -> bool:
    # The interpreter is a link: it dangles when the Python it was made from is gone.
    return (venv / ".complete").exists() and (venv / "bin" / "python").exists()


def cached(name: str) -> Path | None:
    """The file (or folder, for `crds`) that the cache holds under this name."""
    for tool in (*GO_TOOLS, FLAGGER):
        if name in tool.provides:
            path = tool.directory() if name == tool.name == "crds" else tool.directory() / name
            return path if path.exists() else None
    for package in DEBIAN:
        if name in package.provides:
            path = package.directory() / package.provides[name]
            return path if path.exists() else None
    if name == "ministack":
        venv = venv_directory(name, MINISTACK_LOCK)
        return venv / "bin" / "ministack" if is_complete(venv) else None
    if name == "envoy":
        found = sorted(VENV.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
        return found[0].resolve() if found else None
    return None


def digest(parts: Iterable[bytes]) -> str:
    """A short name for content; 12 hex digits are plenty for a folder that holds a handful of entries."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()[:12]


def _os_release() -> bytes:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return b"unknown"
    return "\n".join(sorted(line for line in lines if line.startswith(("ID=", "VERSION_ID=")))).encode()
