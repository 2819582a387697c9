"""etcd, the API server and the controller manager: how each is started, and what the cluster needs before use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab import parts
from lab.kube import LAB_ID, Api, ApiError
from lab.namespace import NODE_IP, LabError
from lab.paths import LAB

NODE = "lab-node"
ETCD = "http://127.0.0.1:2379"
READY_SECONDS = 60

# Those that the lab has a use for. Without the node-lifecycle controller the node needs no heartbeat.
_CONTROLLERS = (
    "deployment-controller,replicaset-controller,daemonset-controller,statefulset-controller,job-controller,"
    "disruption-controller,endpointslice-controller,horizontal-pod-autoscaler-controller,"
    "serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,"
    "clusterrole-aggregation-controller,garbage-collector-controller,namespace-controller"
)


@dataclass(frozen=True)
class Command:
    """A part's process: its log is `.lab/logs/<name>.log`."""

    name: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def binary(name: str) -> str:
    """Path of a part that the lab cannot do without."""
    path = parts.find(name)
    if path is None:
        raise LabError(f"{name} was not found in $LAB_PARTS, on PATH or in the cache: run `make setup`")
    return str(path)


def etcd() -> Command:
    data = LAB / "etcd"
    data.mkdir(mode=0o700, exist_ok=True)
    peer = "http://127.0.0.1:2380"
    flags = {
        "name": "lab",
        "data-dir": data,
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"lab={peer}",
        "unsafe-no-fsync": "true",  # the lab's data does not outlive the lab
        "log-level": "warn",
    }
    return Command("etcd", [binary("etcd"), *_flags(flags)])


def api_server() -> Command:
    pki = LAB / "pki"
    flags = {
        "etcd-servers": ETCD,
        "bind-address": "0.0.0.0",  # all addresses of the namespace
        "secure-port": "6443",
        "advertise-address": NODE_IP,  # without a default route there is nothing to guess it from
        "endpoint-reconciler-type": "none",
        "enable-aggregator-routing": "true",  # webhooks reach pods without kube-proxy
        "service-cluster-ip-range": "10.96.0.0/16",
        "authorization-mode": "RBAC",
        "allow-privileged": "true",
        "event-ttl": "10m",
        "client-ca-file": pki / "ca.crt",
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "service-account-key-file": pki / "service-account.key",
        "service-account-signing-key-file": pki / "service-account.key",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "enable-priority-and-fairness": "false",
        "profiling": "false",
    }
    return Command("kube-apiserver", [binary("kube-apiserver"), *_flags(flags)])


def controller_manager() -> Command:
    pki = LAB / "pki"
    flags = {
        "kubeconfig": LAB / "kubeconfig",
        "bind-address": "127.0.0.1",
        "controllers": _CONTROLLERS,
        "horizontal-pod-autoscaler-sync-period": "1s",  # no metrics here: it keeps to its limits, and does so soon
        "leader-elect": "false",
        "root-ca-file": pki / "ca.crt",
        "service-account-private-key-file": pki / "service-account.key",
        "use-service-account-credentials": "false",
        "kube-api-qps": "200",
        "kube-api-burst": "400",
        "profiling": "false",
    }
    return Command("kube-controller-manager", [binary("kube-controller-manager"), *_flags(flags)])


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


async def wait_ready(api: Api) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not await api.ready():
        if time.monotonic() > deadline:
            raise LabError(f"the API server was not ready after {READY_SECONDS} s: see .lab/logs/kube-apiserver.log")
        await asyncio.sleep(0.1)


async def prepare(api: Api) -> None:
    """What a managed cluster brings along: a node and the Gateway API."""
    await asyncio.gather(_add_node(api), *(_add_crd(api, path) for path in _gateway_api()))


async def mark(api: Api, lab_id: str) -> None:
    """Write the lab's id on kube-system, which the API server makes right after its start."""
    for _ in range(100):
        try:
            await api.patch("/api/v1/namespaces/kube-system", {"metadata": {"annotations": {LAB_ID: lab_id}}})
            return
        except ApiError as error:
            if error.code != 404:
                raise
            await asyncio.sleep(0.1)
    raise LabError("the API server made no namespace kube-system within 10 s: see .lab/logs/kube-apiserver.log")


async def _add_node(api: Api) -> None:
    labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}
    await api.apply(f"/api/v1/nodes/{NODE}", node)
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "500"}  # promises only: nothing is reserved
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "reason": "LabNodeReady", "message": "a stand-in for kubelet"}
    status = {
        "capacity": amounts,
        "allocatable": amounts,
        "addresses": [{"type": "InternalIP", "address": NODE_IP}, {"type": "Hostname", "address": NODE}],
        "conditions": [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
    }
    await api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})
    # The API server taints a new node as not ready, and a controller that is not run here would take that back:
    # with the taint no DaemonSet gets a pod.
    await api.patch(f"/api/v1/nodes/{NODE}", {"spec": {"taints": None}})


def _gateway_api() -> list[Path]:
    """The standard channel's CRDs. Its admission policy, which only guards their upgrades, is left out."""
    folder = parts.find("crds")
    found = sorted((folder / "gateway-api").glob("gateway.networking.k8s.io_*.yaml")) if folder else []
    if not found:
        raise LabError("the Gateway API's CRDs were not found in the cache: run `make setup`")
    return [path for path in found if "_vap_" not in path.name]


async def _add_crd(api: Api, path: Path) -> None:
    group, plural = path.stem.split("_", 1)
    await api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}", path.read_text())
