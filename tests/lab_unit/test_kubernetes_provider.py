"""The Kubernetes provider stand-in without a cluster: values on the wire, diffs, replacement, ownership, waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.plugins import LANGUAGE, awaits, diff, install, objects, protos
from lab.plugins.cluster import ApiError, Cluster, Route, Unreachable, load_access
from lab.plugins.helm import Releases
from lab.plugins.protos import UNKNOWN, Secret
from lab.plugins.resources import Objects, Options
from lab.plugins.serving import Partial

Json = dict[str, Any]


def virtual_service(weight: int, **metadata: Any) -> Json:
    tracks = (("stable", 100 - weight), ("canary", weight))
    route = [{"destination": {"host": "web", "subset": track}, "weight": share} for track, share in tracks]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop", **metadata},
        "spec": {"hosts": ["web"], "http": [{"route": route}]},
    }


def recorded(inputs: Json, **live: Any) -> Json:
    return objects.checkpoint(inputs, {**inputs, **live}, inputs, "pulumi-kubernetes-0badcafe")


class FakeCluster(Cluster):
    """Answers from a dictionary path → object (or error), and keeps the requests."""

    def __init__(self, answers: dict[tuple[str, str], Any] | None = None) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # no connection is made
        self.answers = answers or {}
        self.asked: list[tuple[str, str, Any, Any]] = []

    def route(self, api_version: str, kind: str) -> Route:
        return Route(api_version, kind.lower() + "s", kind not in ("Namespace", "ClusterRole"))

    def path_of(self, obj: Any, named: bool = True) -> str:
        name = obj["metadata"].get("name", "") if named else ""
        return self.route(obj["apiVersion"], obj["kind"]).path(obj["metadata"].get("namespace", ""), name)

    def request(
        self, method: str, path: str, query: Any = None, body: Any = None, content_type: str = "application/json"
    ) -> Json:
        self.asked.append((method, path, query, body))
        answer = self.answers.get((method, path))
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise ApiError(404, {"message": f"{path} not found", "reason": "NotFound"})
        return dict(answer)


VS = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
URN = "urn:pulumi:lab::canary::kubernetes:networking.istio.io/v1:VirtualService::web"


class TestValues:
    def test_values_survive_the_wire_with_their_marks(self) -> None:
        bag = {"a": [1, 2.5, True, None, "x"], "b": {"c": Secret({"d": "e"})}, "f": UNKNOWN, "empty": {}, "none": []}
        assert protos.decode(protos.encode(bag)) == bag

    def test_whole_numbers_come_back_as_integers_because_weights_are_integers(self) -> None:
        assert isinstance(protos.decode(protos.encode({"weight": 5}))["weight"], int)

    def test_secret_marks_follow_the_inputs_and_nothing_else_is_hidden(self) -> None:
        marked = protos.mark_secrets({"spec": {"a": "1", "b": "2"}}, {"spec": {"a": Secret("1"), "b": "2"}})
        assert marked == {"spec": {"a": Secret("1"), "b": "2"}}


class TestDiff:
    def test_a_weight_step_names_the_two_weights_and_nothing_else(self) -> None:
        assert diff.changes(virtual_service(5), virtual_service(10)) == {
            "spec.http[0].route[0].weight": "update",
            "spec.http[0].route[1].weight": "update",
        }

    def test_equal_objects_have_no_diff(self) -> None:
        assert diff.changes(virtual_service(5), virtual_service(5)) == {}

    def test_keys_with_dots_are_quoted(self) -> None:
        assert diff.changes({"labels": {}}, {"labels": {"a.b/c": "x"}}) == {'labels["a.b/c"]': "add"}

    def test_list_items_come_and_go_by_index(self) -> None:
        assert diff.changes({"hosts": ["a"]}, {"hosts": ["a", "b"]}) == {"hosts[1]": "add"}
        assert diff.changes({"hosts": ["a", "b"]}, {"hosts": ["a"]}) == {"hosts[1]": "delete"}

    def test_quantities_compare_as_numbers_only_among_resources(self) -> None:
        assert diff.changes({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}) == {}
        assert diff.changes({"limits": {"cpu": "1"}}, {"limits": {"cpu": "900m"}}) == {"limits.cpu": "update"}
        assert diff.changes({"data": {"cpu": "1"}}, {"data": {"cpu": "1000m"}}) == {"data.cpu": "update"}

    def test_true_is_not_one(self) -> None:
        assert diff.changes({"a": 1}, {"a": True}) == {"a": "update"}

    def test_a_value_not_known_yet_counts_as_a_change(self) -> None:
        assert diff.changes({"a": "x"}, {"a": UNKNOWN}) == {"a": "update"}

    @pytest.mark.parametrize(
        ("kind", "path", "replaced"),
        [
            ("apps/v1/Deployment", "spec.selector.matchLabels.app", True),
            ("apps/v1/Deployment", "spec.template.spec.containers[0].image", False),
            ("apps/v1/Deployment", "spec.selectorless", False),
            ("v1/Service", "spec.clusterIP", True),
            ("v1/Service", "spec.ports[0].port", False),
            ("v1/ConfigMap", "data.k", True),
            ("v1/Secret", "data.k", True),
            ("v1/Secret", "metadata.labels.k", False),
            ("policy/v1/PodDisruptionBudget", "spec.maxUnavailable", False),
            ("autoscaling/v2/HorizontalPodAutoscaler", "spec.minReplicas", False),
            ("networking.istio.io/v1/VirtualService", "spec.http[0].route[0].weight", False),
            ("networking.istio.io/v1/VirtualService", "metadata.name", True),
        ],
    )
    def test_immutable_fields_force_a_new_object(self, kind: str, path: str, replaced: bool) -> None:
        api_version, _, name = kind.rpartition("/")
        forced = diff.force_new({"apiVersion": api_version, "kind": name})
        assert diff.replacements({path: "update"}, forced) == ([path] if replaced else [])


def secret(**content: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "shop"}, **content}


class TestSecrets:
    urn = "urn:pulumi:lab::canary::kubernetes:core/v1:Secret::keys"
    path = "/api/v1/namespaces/shop/secrets"

    def test_values_stay_secret_even_where_the_program_does_not_say_so(self) -> None:
        inputs = Objects(FakeCluster(), Options()).check(
            self.urn, {"metadata": {"name": "keys"}, "data": {"A": "YQ=="}}
        )
        assert inputs["data"] == Secret({"A": "YQ=="})
        cluster = FakeCluster({("POST", self.path): secret(data={"A": "YQ=="})})
        _, state = Objects(cluster, Options()).create(self.urn, secret(data=Secret({"A": "YQ=="})), 0, False)
        assert (state["data"], state["__inputs"]["data"]) == (Secret({"A": "YQ=="}), Secret({"A": "YQ=="}))

    def test_text_is_compared_as_the_base64_that_the_server_gives_back(self) -> None:
        state = recorded(secret(stringData={"A": Secret("a")}), data={"A": "YQ=="})
        objects_ = Objects(FakeCluster(), Options())
        assert objects_.diff(state, secret(stringData={"A": Secret("a")})).paths == {}
        change = objects_.diff(state, secret(stringData={"A": Secret("b")}))
        assert (change.paths, change.replaces) == ({"data.A": "update"}, ["data.A"])

    def test_text_not_known_yet_is_a_change(self) -> None:
        state = recorded(secret(stringData={"A": "a"}), data={"A": "YQ=="})
        assert Objects(FakeCluster(), Options()).diff(state, secret(stringData={"A": UNKNOWN})).paths == {
            "data.A": "update"
        }


WEB = "/apis/apps/v1/namespaces/shop/deployments/web"


class TestIgnoredChanges:
    urn = "urn:pulumi:lab::canary::kubernetes:apps/v1:Deployment::web"

    def web(self, replicas: int, image: str, *owners: str) -> Json:
        managed: list[Json] = [
            {"manager": owner, "operation": "Apply" if owner == "pulumi-kubernetes-0badcafe" else "Update",
             "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
            for owner in owners
        ]  # fmt: skip
        named = {"name": "web", "namespace": "shop", **({"managedFields": managed} if managed else {})}
        spec = {"replicas": replicas, "template": {"image": image}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": spec}

    def applied(self, *owners: str) -> Json:
        cluster = FakeCluster({("GET", WEB): self.web(5, "a", *owners), ("PATCH", WEB): self.web(5, "b")})
        state, options = recorded(self.web(2, "a")), Options()
        with pytest.raises(Partial):  # nothing rolls this Deployment out
            Objects(cluster, options).update(self.urn, state, self.web(2, "b"), 0.01, False, ["spec.replicas"])
        spec: Json = next(body for method, _, _, body in cluster.asked if method == "PATCH")["spec"]
        return spec

    def test_a_field_that_an_autoscaler_took_is_left_out_of_the_patch(self) -> None:
        assert self.applied("kube-controller-manager") == {"template": {"image": "b"}}

    def test_a_field_that_is_still_ours_keeps_its_live_value(self) -> None:
        ours = "pulumi-kubernetes-0badcafe"
        assert self.applied(ours)["replicas"] == self.applied(ours, "kube-controller-manager")["replicas"] == 5

    def test_an_ignored_path_is_no_difference_and_its_namesake_is_one(self) -> None:
        state = recorded(self.web(2, "a"))
        assert Objects(FakeCluster(), Options()).diff(state, self.web(3, "a"), ["spec.replicas"]).paths == {}
        assert Objects(FakeCluster(), Options()).diff(state, self.web(3, "a"), ["spec.rep"]).paths == {
            "spec.replicas": "update"
        }


class TestObjects:
    def objects(self, cluster: Cluster | None = None, **options: Any) -> Objects:
        return Objects(cluster or FakeCluster(), Options(**options))

    def test_defaults_of_the_server_are_no_difference(self) -> None:
        state = recorded(virtual_service(5), status={"ok": True})
        state["metadata"] = {**state["metadata"], "uid": "1", "resourceVersion": "7", "managedFields": []}
        assert self.objects().diff(state, virtual_service(5)).paths == {}

    def test_a_fixed_name_is_deleted_before_it_is_made_again(self) -> None:
        fixed: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}}
        change = self.objects().diff(recorded({**fixed, "data": {"a": "1"}}), {**fixed, "data": {"a": "2"}})
        assert (change.replaces, change.delete_first) == (["data.a"], True)

    def test_check_fills_in_type_and_namespace_and_asks_for_a_name(self) -> None:
        urn = "urn:pulumi:lab::canary::kubernetes:core/v1:ConfigMap::settings"
        first = self.objects().check(urn, {"metadata": {"name": "settings"}})
        assert (first["apiVersion"], first["kind"], first["metadata"]["namespace"]) == ("v1", "ConfigMap", "default")
        with pytest.raises(ValueError, match=r"set metadata\.name of the ConfigMap"):
            self.objects().check(urn, {"data": {}})

    def test_check_gives_no_namespace_to_a_cluster_wide_kind(self) -> None:
        urn = "urn:pulumi:lab::canary::kubernetes:core/v1:Namespace::shop"
        assert self.objects().check(urn, {"metadata": {"name": "shop"}})["metadata"] == {"name": "shop"}

    @pytest.mark.parametrize(
        "token", ["core/v1:NamespacePatch", "core/v1:ConfigMapList", "apps/v1:StatefulSet", "batch/v1:Job"]
    )
    def test_types_without_support_are_refused_by_name(self, token: str) -> None:
        with pytest.raises(ValueError, match=token.split(":")[1]):
            self.objects().check(f"urn:pulumi:lab::canary::kubernetes:{token}::x", {})

    @pytest.mark.parametrize("note", ["replaceUnready", "deletionPropagationPolicy"])
    def test_annotations_without_support_are_refused_by_name(self, note: str) -> None:
        with pytest.raises(ValueError, match=f"pulumi.com/{note}"):
            self.objects().check(URN, virtual_service(5, annotations={f"pulumi.com/{note}": "true"}))

    def test_update_applies_as_the_recorded_manager_without_force(self) -> None:
        cluster = FakeCluster({("GET", VS): virtual_service(5, managedFields=[{"manager": "x", "operation": "Apply"}])})
        cluster.answers["PATCH", VS] = virtual_service(10)
        after = self.objects(cluster).update(URN, recorded(virtual_service(5)), virtual_service(10), 0, False)
        method, _path, query, body = cluster.asked[-1]
        assert (method, query) == ("PATCH", {"fieldManager": "pulumi-kubernetes-0badcafe", "force": "false"})
        assert body["spec"] == virtual_service(10)["spec"]
        assert after["__inputs"]["spec"] == virtual_service(10)["spec"]

    def test_a_preview_is_a_dry_run(self) -> None:
        cluster = FakeCluster({("GET", VS): virtual_service(5), ("PATCH", VS): virtual_service(10)})
        self.objects(cluster).update(URN, recorded(virtual_service(5)), virtual_service(10), 0, True)
        assert [query["dryRun"] for method, _, query, _ in cluster.asked if method == "PATCH"] == ["All"]

    def test_a_conflict_names_the_other_manager_and_records_what_is_live(self) -> None:
        conflict = ApiError(409, {"reason": "Conflict", "message": 'conflict with "other" using v1: .spec.http'})
        live = virtual_service(77, managedFields=[{"manager": "other", "operation": "Update"}])
        cluster = FakeCluster({("GET", VS): live, ("PATCH", VS): conflict})
        with pytest.raises(Partial, match='conflict with "other"') as caught:
            self.objects(cluster).update(URN, recorded(virtual_service(5)), virtual_service(10), 0, False)
        assert caught.value.state["spec"] == virtual_service(77)["spec"]

    def test_patch_force_by_annotation_or_option(self) -> None:
        live = virtual_service(5, managedFields=[{"manager": "other", "operation": "Update"}])
        annotated = virtual_service(5, annotations={"pulumi.com/patchForce": "true"})
        assert objects.must_force(annotated, live, always=False, preview=False)
        assert objects.must_force(virtual_service(5), live, always=True, preview=False)
        assert not objects.must_force(virtual_service(5), live, always=False, preview=False)

    def test_what_kubectl_wrote_is_taken_over_and_what_others_wrote_is_not(self) -> None:
        fields = {"fieldsType": "FieldsV1", "apiVersion": "v1", "operation": "Update"}
        edits = [
            {**fields, "manager": "kubectl-patch", "fieldsV1": {"f:spec": {"f:http": {}}}},
            {**fields, "manager": "flagger", "fieldsV1": {"f:spec": {"f:hosts": {}}}},
        ]
        managed = objects.take_over(virtual_service(5, managedFields=edits), "mine")
        assert managed is not None
        assert {m["manager"]: m["fieldsV1"] for m in managed} == {
            "flagger": {"f:spec": {"f:hosts": {}}},
            "mine": {"f:spec": {"f:http": {}}},
        }
        assert objects.take_over(virtual_service(5, managedFields=edits[1:]), "mine") is None

    def test_an_object_that_is_gone_reads_as_gone_and_fails_an_update(self) -> None:
        gone = self.objects(FakeCluster())
        assert gone.read(URN, "shop/web", virtual_service(5), recorded(virtual_service(5))) is None
        with pytest.raises(ValueError, match="unable to get cluster state"):
            gone.update(URN, recorded(virtual_service(5)), virtual_service(10), 0, False)

    def test_a_refresh_sees_a_hand_edit(self) -> None:
        cluster = FakeCluster({("GET", VS): virtual_service(33, uid="1")})
        found = self.objects(cluster).read(URN, "shop/web", virtual_service(5), recorded(virtual_service(5)))
        assert found is not None
        assert found[0] == virtual_service(33)

    def test_deleting_what_is_gone_succeeds(self) -> None:
        self.objects(FakeCluster()).delete("shop/web", recorded(virtual_service(5)), 0)

    @pytest.mark.parametrize(("reason", "code"), [("AlreadyExists", 409), ("Forbidden", 403)])
    def test_a_preview_tolerates_what_only_the_update_can_know(self, reason: str, code: int) -> None:
        path = VS.removesuffix("/web")
        cluster = FakeCluster({("POST", path): ApiError(code, {"reason": reason, "message": reason})})
        assert self.objects(cluster).create(URN, virtual_service(5), 0, True) == ("", virtual_service(5))
        with pytest.raises(ValueError, match=reason):
            self.objects(cluster).create(URN, virtual_service(5), 0, False)

    def test_a_preview_shows_what_the_server_refuses(self) -> None:
        invalid = ApiError(422, {"reason": "Invalid", "message": "weight: must be an integer"})
        cluster = FakeCluster({("POST", VS.removesuffix("/web")): invalid})
        with pytest.raises(ValueError, match="must be an integer"):
            self.objects(cluster).create(URN, virtual_service(5), 0, True)


def deployment(**status: Any) -> Json:
    conditions = [
        {"type": "Available", "status": "True"},
        {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
    ]
    full = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "conditions": conditions}
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {**full, **status}}


class TestReadiness:
    def test_a_rolled_out_deployment_is_ready(self) -> None:
        assert awaits.deployment(deployment()).ready

    @pytest.mark.parametrize(
        "status",
        [
            {"observedGeneration": 1},
            {"readyReplicas": 1},
            {"updatedReplicas": 1},
            {"conditions": [{"type": "Available", "status": "True"}]},
            {
                "conditions": [
                    {"type": "Available", "status": "True"},
                    {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"},
                ]
            },
        ],
    )
    def test_a_deployment_on_its_way_is_not(self, status: Json) -> None:
        assert not awaits.deployment(deployment(**status)).ready

    def test_a_passed_deadline_is_told(self) -> None:
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
        status = awaits.deployment(deployment(conditions=[late], readyReplicas=1))
        assert "[ProgressDeadlineExceeded] timed out" in status.reasons
        assert not status.ready

    def test_zero_replicas_are_ready(self) -> None:
        empty = deployment(readyReplicas=0, updatedReplicas=0)
        assert awaits.deployment({**empty, "spec": {"replicas": 0}}).ready

    def test_pods_say_why_they_are_not_ready_and_ready_ones_say_nothing(self) -> None:
        waiting = {"reason": "CrashLoopBackOff", "message": "back-off"}
        bad = {
            "metadata": {"namespace": "shop", "name": "web-1"},
            "status": {"containerStatuses": [{"name": "app", "ready": False, "state": {"waiting": waiting}}]},
        }
        good = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        assert awaits.pod_reasons([good, bad]) == ["[Pod shop/web-1]: [CrashLoopBackOff] back-off"]

    def test_a_waypoint_that_is_not_programmed_says_why(self) -> None:
        unknown = {"type": "Programmed", "status": "Unknown", "reason": "Pending", "message": "no controller"}
        gateway: Json = {"metadata": {"generation": 1}, "status": {"conditions": [unknown]}}
        assert awaits.wait_for("condition=Programmed")(gateway).reasons == (
            "Programmed=Unknown: [Pending] no controller",
        )

    def test_endpoints_that_are_going_away_are_not_waited_for(self) -> None:
        states = [{"ready": True}, {"ready": False}, {"ready": False, "terminating": True}]
        assert awaits.endpoints([{"endpoints": [{"conditions": state} for state in states]}]) == (1, 1)

    def test_only_a_load_balancer_waits_for_an_address(self) -> None:
        assert awaits.load_balancer({"spec": {"type": "ClusterIP"}}).ready
        waiting = {"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}
        assert not awaits.load_balancer(waiting).ready
        waiting["status"] = {"loadBalancer": {"ingress": [{"ip": "10.99.0.1"}]}}
        assert awaits.load_balancer(waiting).ready

    @pytest.mark.parametrize(
        ("expression", "holds"),
        [
            ("condition=Programmed", True),
            ("condition=programmed=true", True),
            ("condition=Accepted", False),
            ("condition=Accepted=False", True),
        ],
    )
    def test_wait_for_expressions(self, expression: str, holds: bool) -> None:
        conditions = [{"type": "Programmed", "status": "True"}, {"type": "Accepted", "status": "False"}]
        status = {"conditions": conditions}
        assert awaits.wait_for(expression)({"metadata": {"generation": 1}, "status": status}).ready is holds

    def test_a_condition_of_an_older_generation_does_not_count(self) -> None:
        old = {"type": "Programmed", "status": "True", "observedGeneration": 1}
        obj = {"metadata": {"generation": 2}, "status": {"conditions": [old]}}
        assert not awaits.wait_for("condition=Programmed")(obj).ready

    @pytest.mark.parametrize("expression", ["Programmed", "jsonpath={.spec}", "condition="])
    def test_wait_for_refuses_what_it_does_not_understand(self, expression: str) -> None:
        with pytest.raises(ValueError, match="waitFor"):
            awaits.wait_for(expression)

    def test_timeouts_come_from_the_options_then_the_annotation_then_ten_minutes(self) -> None:
        annotated = {"metadata": {"annotations": {"pulumi.com/timeoutSeconds": "8"}}}
        assert [awaits.timeout_of(annotated, 3), awaits.timeout_of(annotated, 0), awaits.timeout_of({}, 0)] == [
            3,
            8,
            600,
        ]


class TestReleases:
    def test_a_repository_is_refused_with_the_way_out(self) -> None:
        news = {"name": "base", "chart": "base", "repositoryOpts": {"repo": "https://charts.example"}}
        with pytest.raises(ValueError, match=r"canary:istio\.chartSource"):
            Releases(FakeCluster(), "default").check(news)

    def test_options_without_support_are_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match="atomic"):
            Releases(FakeCluster(), "default").check({"name": "base", "chart": "base", "atomic": True})

    def test_values_and_names_differ_differently(self) -> None:
        releases = Releases(FakeCluster(), "default")
        inputs = {"name": "base", "namespace": "istio-system", "chart": "c", "values": {"a": "1"}}
        state = {**inputs, "__inputs": Secret(inputs)}
        assert releases.diff(state, inputs).paths == {}
        assert releases.diff(state, {**inputs, "values": {"a": "2"}}).replaces == []
        assert releases.diff(state, {**inputs, "name": "other"}).replaces == ["name"]

    def test_a_release_is_there_while_one_of_its_objects_is(self) -> None:
        cluster = FakeCluster({("GET", VS): virtual_service(5)})
        inputs = {"name": "base", "namespace": "s"}
        state = {**inputs, "objects": [virtual_service(5)], "__inputs": Secret(inputs)}
        assert Releases(cluster, "default").read(state) == (inputs, state)
        cluster.answers.clear()
        assert Releases(cluster, "default").read(state) is None


class TestKubeconfig:
    def test_a_missing_context_is_named_with_those_there_are(self) -> None:
        with pytest.raises(Unreachable, match=r'"prod".*it has: lab'):
            load_access('{"contexts": [{"name": "lab", "context": {}}]}', "prod")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(Unreachable, match=r"none\.yaml does not exist"):
            load_access(str(tmp_path / "none.yaml"))


class TestInstall:
    def test_executables_for_what_is_missing_and_a_link_to_what_is_real(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class FoundPart:
            real, path = True, "/opt/pulumi-resource-kubernetes"

        exec_file = tmp_path / "exec"
        exec_file.write_text("#!/usr/bin/env python\n")
        monkeypatch.setenv("LAB_PULUMI_EXEC", str(exec_file))
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "pulumi-resource-kubernetes").write_text("left by an earlier run")
        parts: Any = {"pulumi-resource-kubernetes": FoundPart()}
        install(tmp_path / "bin", Path("/venv/bin/python"), parts)
        names = sorted(path.name for path in (tmp_path / "bin").iterdir())
        assert names == [LANGUAGE, f"{LANGUAGE}-exec", "pulumi-resource-aws", "pulumi-resource-kubernetes"]
        link = tmp_path / "bin" / "pulumi-resource-kubernetes"
        assert str(link.readlink()) == FoundPart.path, "the engine looks on PATH, not in a folder of real parts"
        assert "/venv/bin/python" in (tmp_path / "bin" / LANGUAGE).read_text()
