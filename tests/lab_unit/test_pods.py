"""What a container of the lab's node is given: variables and files, or why it cannot start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lab import pods
from lab.addresses import Loopback, Pool
from lab.containers import ConfigError, MountError
from lab.kube import Api, ApiError

Json = dict[str, Any]
STORED: dict[str, Json] = {
    "configmaps/settings": {"data": {"MODE": "fast", "app.ini": "a=1"}, "binaryData": {"logo": "/w=="}},
    "secrets/keys": {"data": {"TOKEN": "aHVzaA=="}},
}


class FakeApi(Api):
    """Answers gets of the objects in STORED."""

    def __init__(self) -> None:
        pass

    async def get(self, path: str) -> Json:
        name = path.removeprefix("/api/v1/namespaces/shop/")
        if name not in STORED:
            raise ApiError(404, "not found")
        return STORED[name]


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pods, "LAB", tmp_path)
    return tmp_path


def given(container: Json, volumes: list[Json] | None = None) -> dict[str, str]:
    spec = {"containers": [container], "restartPolicy": "Always", "volumes": volumes or []}
    pod = {"metadata": {"namespace": "shop", "name": "web-1", "uid": "1"}, "spec": spec}
    made = pods.Pod(FakeApi(), Pool(), Loopback(), pod)
    return asyncio.run(made.environment({"name": "web", **container}))


def test_variables_come_from_config_maps_and_secrets_and_a_later_one_wins() -> None:
    whole = [{"secretRef": {"name": "keys"}, "prefix": "S_"}, {"secretRef": {"name": "none", "optional": True}}]
    token = {"name": "T", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}}
    absent = {"name": "U", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "NONE", "optional": True}}}
    own = {"name": "S_TOKEN", "value": "mine $(T)"}
    assert given({"envFrom": whole, "env": [token, absent, own]}) == {"S_TOKEN": "mine hush", "T": "hush"}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, 'configmap "none" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "B"}}}]},
            "couldn't find key B in secret shop/keys",
        ),
    ],
)
def test_what_is_missing_is_named_as_kubelet_does(container: Json, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        given(container)
    assert caught.value.reason == "CreateContainerConfigError"


def test_volumes_are_files_below_lab_root(folder: Path) -> None:
    volumes: list[Json] = [
        {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "app.ini", "path": "conf/app.ini"}]}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "token", "projected": {"sources": []}},
    ]
    paths = {"keys": "/etc/app/keys", "settings": "/etc/app", "scratch": "/tmp", "token": "/var/run/token"}
    mounts = [{"name": name, "mountPath": path} for name, path in paths.items()]
    root = Path(given({"volumeMounts": mounts}, volumes)["LAB_ROOT"])
    assert root.is_relative_to(folder)
    assert (root / "etc/app/conf/app.ini").read_text() == "a=1"
    assert (root / "etc/app/keys/TOKEN").read_text() == "hush"
    assert (root / "tmp").is_dir()
    assert not (root / "var").exists()


def test_a_volume_without_its_source_keeps_the_container_from_being_made(folder: Path) -> None:
    with pytest.raises(MountError, match=r'volume "v" : configmap "none" not found'):
        given({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, [{"name": "v", "configMap": {"name": "none"}}])


@pytest.mark.parametrize(("resource", "told"), [("limits.memory", "1073741824"), ("limits.cpu", "1")])
def test_limits_are_told_in_bytes_and_whole_cores(resource: str, told: str) -> None:
    variable = {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "0"}}}
    assert given({"env": [variable], "resources": {"limits": {"memory": "1Gi", "cpu": "500m"}}}) == {"A": told}
