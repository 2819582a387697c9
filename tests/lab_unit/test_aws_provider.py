"""The AWS provider stand-in: names, checks, diffs and replacement by itself; the rest against the lab's AWS."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pulumi  # noqa: F401 - before the stand-ins put an empty package in its place
import pytest

from core import checks
from core import edge as specs
from core.model import Edge, Settings
from lab import aws, parts
from lab.paths import ROOT
from lab.plugins import diff, protos
from lab.plugins.aws_provider import Provider
from lab.plugins.aws_resources import KINDS
from lab.plugins.aws_schema import SCHEMAS, aligned, checked, fields
from lab.plugins.protos import UNKNOWN, Secret
from lab.plugins.serving import pb

Json = dict[str, Any]
TOKENS = {token.rpartition(":")[2]: token for token in KINDS}
ARN = "arn:aws:cloudfront::000000000000:key-value-store/s"
SECRET = "origin-secret-of-the-tests"


class Aborted(Exception):
    """What the engine would be told."""


class Context:
    """A gRPC call, as far as a provider sees it."""

    details: Any = None

    def abort(self, _code: object, text: str) -> None:
        raise Aborted(text)

    def set_trailing_metadata(self, pairs: Any) -> None:
        status = protos.stub("status_pb2").Status.FromString(dict(pairs)["grpc-status-details-bin"])
        self.details = pb.ErrorResourceInitFailed()
        status.details[0].Unpack(self.details)


class Engine:
    """Calls a provider as the engine does; `kind` is the last part of a type."""

    def __init__(self) -> None:
        self.provider = Provider()
        self.provider.Configure(pb.ConfigureRequest(variables={"aws:config:region": "us-east-1"}), Context())
        self.saved = ""
        self.calls: list[tuple[str, Json]] = []
        client = self.provider._aws
        assert client is not None
        call = client.call

        def recorded(
            what: str, service: str, operation: str, region: str = "", absent: str = "", **parameters: Any
        ) -> Json:
            self.calls.append((operation, parameters))
            return call(what, service, operation, region, absent, **parameters)

        client.call = recorded  # type: ignore[method-assign]

    def urn(self, kind: str, name: str) -> str:
        return f"urn:pulumi:lab::canary::canary:index:Edge${TOKENS.get(kind, kind)}::{name}"

    def check(self, kind: str, news: Json, olds: Json | None = None, seed: bytes = b"s", name: str = "edge") -> Any:
        bags = {"news": protos.encode(news), "olds": protos.encode(olds or {})}
        request = pb.CheckRequest(urn=self.urn(kind, name), randomSeed=seed, **bags)
        return self.provider.Check(request, Context())

    def inputs(self, kind: str, news: Json, **more: Any) -> Json:
        answer = self.check(kind, news, **more)
        assert not answer.failures, answer.failures
        return protos.decode(answer.inputs)

    def problems(self, kind: str, **news: Any) -> dict[str, str]:
        return {one.property: one.reason for one in self.check(kind, news).failures}

    def diff(self, kind: str, state: Json, news: Json) -> Any:
        bags = {"olds": protos.encode(state), "news": protos.encode(news)}
        return self.provider.Diff(pb.DiffRequest(urn=self.urn(kind, "edge"), **bags), Context())

    def create(self, kind: str, news: Json, timeout: float = 0, preview: bool = False) -> tuple[str, Json]:
        request = pb.CreateRequest(
            urn=self.urn(kind, "edge"), properties=protos.encode(news), timeout=timeout, preview=preview
        )
        answer = self.provider.Create(request, context := Context())
        assert context.details is None
        return answer.id, protos.decode(answer.properties)

    def made(self, kind: str, news: Json, name: str = "edge") -> tuple[str, Json, Json]:
        """(id, inputs, state) of a new one."""
        inputs = self.inputs(kind, news, name=name, seed=os.urandom(8))
        return (*(made := self.create(kind, inputs))[:1], inputs, made[1])

    def update(self, kind: str, identity: str, state: Json, news: Json) -> Json:
        bags = {"olds": protos.encode(state), "news": protos.encode(news)}
        request = pb.UpdateRequest(id=identity, urn=self.urn(kind, "edge"), **bags)
        return protos.decode(self.provider.Update(request, Context()).properties)

    def failed(self, call: str, kind: str, *arguments: Any, **more: Any) -> tuple[str, Json]:
        """(error, state that the engine keeps) of an update or creation."""
        if call == "create":
            bags: Json = {"properties": protos.encode(arguments[0]), **more}
            request: Any = pb.CreateRequest(urn=self.urn(kind, "edge"), **bags)
        else:
            identity, state, news = arguments
            bags = {"olds": protos.encode(state), "news": protos.encode(news)}
            request = pb.UpdateRequest(id=identity, urn=self.urn(kind, "edge"), **bags)
        context = Context()
        with pytest.raises(Aborted) as caught:
            getattr(self.provider, call.capitalize())(request, context)
        kept = protos.decode(context.details.properties) if context.details is not None else {}
        return str(caught.value), kept

    def read(self, kind: str, identity: str, inputs: Json, state: Json) -> tuple[Json, Json] | None:
        bags = {"inputs": protos.encode(inputs), "properties": protos.encode(state)}
        answer = self.provider.Read(pb.ReadRequest(id=identity, urn=self.urn(kind, "edge"), **bags), Context())
        return (protos.decode(answer.inputs), protos.decode(answer.properties)) if answer.id else None

    def delete(self, kind: str, identity: str, state: Json) -> None:
        bag = protos.encode(state)
        self.provider.Delete(pb.DeleteRequest(id=identity, urn=self.urn(kind, "edge"), properties=bag), Context())


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A provider that reaches no AWS."""
    for name, value in aws.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Engine()


# --- by itself ---


def configured() -> tuple[Settings, Edge]:
    """The settings of a stack with an edge."""
    settings, _ = checks.parse(
        {
            "namespace": "shop",
            "services": {"web": {"stable": {"image": "sample-web:1.0"}, "hosts": ["shop.lab.test"]}},
            "edge": {
                "aliases": ["shop.lab.test"],
                "certificateArn": "arn:aws:acm:us-east-1:000000000000:certificate/lab",
                "origin": "gateway.lab.test",
            },
            "originSecret": SECRET,
        }
    )
    assert settings.edge is not None
    return settings, settings.edge


def distribution(functions: Json | None = None, policies: Json | None = None) -> Json:
    settings, edge = configured()
    parts: Json = {"functions": functions or {}, "policies": policies or {}, "tags": {"stack": "lab"}}
    return specs.distribution_args(settings, edge, origin=edge.origin, secret=Secret(SECRET), **parts)


class TestNames:
    def test_a_name_is_the_resources_own_and_seven_digits_that_the_seed_decides(self, engine: Engine) -> None:
        first, again, other = (engine.inputs("KeyValueStore", {}, seed=seed)["name"] for seed in (b"a", b"a", b"b"))
        assert first == again != other
        assert (first[:5], len(first)) == ("edge-", 12)

    def test_a_name_given_before_is_kept_and_one_of_the_users_is_taken(self, engine: Engine) -> None:
        before = engine.inputs("Function", {"code": "x", "runtime": "cloudfront-js-2.0"}, seed=b"a")
        news = {"code": "y", "runtime": "cloudfront-js-2.0"}
        assert engine.inputs("Function", news, olds=before, seed=b"b")["name"] == before["name"]
        own = engine.inputs("Function", {**news, "name": "own"}, olds=before)
        assert (own["name"], "__defaults" in own) == ("own", False)

    def test_what_has_no_name_gets_none(self, engine: Engine) -> None:
        assert "name" not in engine.inputs("KeyvaluestoreKeysExclusive", {"keyValueStoreArn": ARN})


class TestCheck:
    def test_defaults_are_those_of_the_real_provider(self, engine: Engine) -> None:
        function = engine.inputs("Function", {"code": "x", "runtime": "cloudfront-js-2.0"})
        assert function["publish"] is True
        origin = protos.reveal(engine.inputs("Distribution", distribution()))["origins"][0]
        assert (origin["connectionAttempts"], origin["customOriginConfig"]["originKeepaliveTimeout"]) == (3, 5)
        assert origin["customOriginConfig"]["originReadTimeout"] == 60, "as declared"
        assert engine.inputs("CachePolicy", specs.cache_policy_args(*configured()))["minTtl"] == 0

    def test_a_default_fills_in_at_any_depth(self) -> None:
        schema = {"a!": [{"b": 5, "c": None}]}
        assert checked(schema, {"a": [{}, {"b": 0}]}, "", []) == {"a": [{"b": 5}, {"b": 0}]}

    @pytest.mark.parametrize(
        ("kind", "news", "path", "reason"),
        [
            ("Function", {"code": "x"}, "runtime", "Missing required"),
            ("Function", {"code": "x", "runtime": "cloudfront-js-3.0"}, "runtime", "cloudfront-js-2.0"),
            ("Function", {"code": "x", "runtime": "cloudfront-js-2.0", "name": "a b"}, "name", "does not match"),
            ("KeyValueStore", {"name": "x" * 65}, "name", "does not match"),
            ("KeyvaluestoreKeysExclusive", {"keyValueStoreArn": "store"}, "keyValueStoreArn", "does not match"),
            ("KeyvaluestoreKeysExclusive", {}, "keyValueStoreArn", "Missing required"),
            ("Distribution", {"staging": True}, "staging", "does not support"),
            ("Distribution", {"origins": "x"}, "origins", "expected a list"),
            ("ResponseHeadersPolicy", {"removeHeadersConfig": {"items": [{}]}}, "removeHeadersConfig.items[0].header",
             "Missing required"),
        ],
    )  # fmt: skip
    def test_what_the_real_one_refuses_in_preview_is_refused_by_name(
        self, engine: Engine, kind: str, news: Json, path: str, reason: str
    ) -> None:
        assert reason in engine.problems(kind, **news)[path]

    def test_unknown_values_pass(self, engine: Engine) -> None:
        news = {"keyValueStoreArn": UNKNOWN, "resourceKeyValuePairs": [{"key": "a", "value": UNKNOWN}]}
        assert engine.inputs("KeyvaluestoreKeysExclusive", news)["keyValueStoreArn"] is UNKNOWN

    def test_types_without_support_are_refused_by_name(self, engine: Engine) -> None:
        with pytest.raises(Aborted, match="aws:s3/bucket:Bucket"):
            engine.check("aws:s3/bucket:Bucket", {})
        with pytest.raises(Aborted, match="getRegion"):
            engine.provider.Invoke(pb.InvokeRequest(tok="aws:index/getRegion:getRegion"), Context())

    def test_it_speaks_to_the_labs_aws_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        with pytest.raises(Aborted, match="AWS_ENDPOINT_URL is missing"):
            Provider().Configure(pb.ConfigureRequest(variables={"aws:config:region": "us-east-1"}), Context())
        with pytest.raises(Aborted, match="assumeRoles"):
            Provider().Configure(pb.ConfigureRequest(variables={"aws:config:assumeRoles": "[]"}), Context())

    def test_its_inputs_are_inputs_of_the_sdk(self) -> None:
        import importlib

        for token, kind in KINDS.items():
            module, name = token.split(":")[1].partition("/")[0], token.rpartition(":")[2]
            args = getattr(importlib.import_module(f"pulumi_aws.{module}"), f"{name}Args")
            known = {
                vars(one.fget)["_pulumi_name"] for one in vars(args).values() if isinstance(one, property) and one.fget
            }
            assert {name for name, _, _ in fields(SCHEMAS[kind.__name__])} <= known, token
            assert set(kind.forced) <= known, token


class TestDiff:
    def changes(self, schema: Any, old: Any, new: Any) -> dict[str, str]:
        return diff.changes(*aligned(schema, old, new))

    def test_the_order_of_a_set_is_no_difference_and_that_of_a_list_is_one(self, engine: Engine) -> None:
        assert self.changes({"a": [None]}, {"a": ["x", "y"]}, {"a": ["y", "x"]}) == {}
        assert (
            self.changes({"a": [{"b": [None]}]}, {"a": [{"b": [1, 2]}, {"b": [3]}]}, {"a": [{"b": [3]}, {"b": [2, 1]}]})
            == {}
        )
        news = {"deliverySourceName": "s", "deliveryDestinationArn": ARN, "recordFields": ["a", "b"]}
        assert engine.diff("LogDelivery", news, {**news, "recordFields": ["b", "a"]}).diffs == []
        assert engine.diff("LogDelivery", news, {**news, "recordFields": ["b", "a"]}).detailedDiff

    def test_one_key_changed_is_one_path(self, engine: Engine) -> None:
        def pairs(weight: int) -> Json:
            values = {"blue_cidrs": "b", "green_cidrs": "g", "green_percentage": str(weight)}
            listed = [{"key": key, "value": value} for key, value in values.items()]
            return {"keyValueStoreArn": ARN, "maxBatchSize": 50, "resourceKeyValuePairs": listed}

        found = engine.diff("KeyvaluestoreKeysExclusive", {**pairs(5), "totalSizeInBytes": 9}, pairs(10))
        assert dict(found.detailedDiff).keys() == {"resourceKeyValuePairs[2].value"}
        assert not found.replaces

    def test_a_value_not_known_yet_is_a_change_and_in_a_forced_input_a_new_resource(self, engine: Engine) -> None:
        found = engine.diff("KeyvaluestoreKeysExclusive", {"keyValueStoreArn": ARN}, {"keyValueStoreArn": UNKNOWN})
        assert found.replaces == ["keyValueStoreArn"]

    @pytest.mark.parametrize(
        ("kind", "field", "replaced"),
        [
            ("KeyValueStore", "name", True),
            ("KeyValueStore", "tags", False),
            ("KeyvaluestoreKeysExclusive", "keyValueStoreArn", True),
            ("KeyvaluestoreKeysExclusive", "maxBatchSize", False),
            ("Function", "name", True),
            ("Function", "code", False),
            ("Function", "runtime", False),
            ("CachePolicy", "name", False),
            ("OriginRequestPolicy", "name", False),
            ("ResponseHeadersPolicy", "name", False),
            ("Distribution", "comment", False),
            ("LogDeliverySource", "resourceArn", True),
            ("LogDeliveryDestination", "outputFormat", True),
            ("LogDelivery", "deliverySourceName", True),
        ],
    )
    def test_what_makes_a_new_resource(self, engine: Engine, kind: str, field: str, replaced: bool) -> None:
        found = engine.diff(kind, {field: "a"}, {field: "b"})
        assert list(found.replaces) == ([field] if replaced else [])
        assert found.detailedDiff[field].kind == (5 if replaced else 4)

    def test_a_name_of_the_users_own_is_given_up_before_it_is_taken_again(self, engine: Engine) -> None:
        assert engine.diff("KeyValueStore", {"name": "a"}, {"name": "b"}).deleteBeforeReplace
        assert not engine.diff(
            "KeyValueStore", {"name": "a"}, {"name": "b", "__defaults": ["name"]}
        ).deleteBeforeReplace

    def test_what_aws_adds_is_no_difference(self, engine: Engine) -> None:
        state = {"code": "x", "name": "f", "etag": "1", "arn": ARN, "liveStageEtag": "2", "status": "UNPUBLISHED"}
        assert not engine.diff("Function", state, {"code": "x", "name": "f"}).detailedDiff

    def test_a_preview_leaves_open_what_aws_decides(self, engine: Engine) -> None:
        identity, state = engine.create("KeyValueStore", {"name": "s"}, preview=True)
        assert (identity, state["arn"], state["name"]) == ("", UNKNOWN, "s")
        assert engine.calls == []


# --- against the lab's AWS ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The lab's AWS on a port of its own, outside any lab."""
    if parts.find("ministack") is None:
        pytest.skip("ministack is not installed: run `make setup`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("aws")
    command = aws.command("127.0.0.1", port, folder)
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            command.arguments, env={**os.environ, **command.environment}, stdout=log, stderr=log, cwd=ROOT
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}{aws.FAULTS}").raise_for_status()
                break
            except httpx.TransportError:
                assert child.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "the lab's AWS does not answer"
                time.sleep(0.1)
        yield port
    finally:
        child.terminate()
        child.wait(10)


@pytest.fixture
def world(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A provider, and AWS as an administrator sees it."""
    known = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else str(host)
        return known("127.0.0.1" if text.endswith("aws.lab.test") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name, value in {**aws.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://aws.lab.test:{server}"}.items():
        monkeypatch.setenv(name, value)
    world = World(server)
    world.faults()
    yield world
    left = world.faults()
    assert all(one["times"] == 0 or one["times"] > 50 for one in left), f"faults that nothing met: {left}"


class World:
    """One provider over the lab's AWS, and that AWS by hand."""

    def __init__(self, port: int) -> None:
        import boto3

        self.port = port
        self.engine = Engine()
        self.cf: Any = boto3.client("cloudfront")
        self.kv: Any = boto3.client("cloudfront-keyvaluestore")

    def faults(self, *wanted: Json) -> list[Json]:
        answer = httpx.put(f"http://127.0.0.1:{self.port}{aws.FAULTS}", content=json.dumps(wanted))
        answer.raise_for_status()
        found: list[Json] = answer.json()
        return found

    def keys(self, arn: str) -> dict[str, str]:
        return {item["Key"]: item["Value"] for item in self.kv.list_keys(KvsARN=arn)["Items"]}

    def put(self, arn: str, **values: str) -> None:
        puts = [{"Key": key, "Value": value} for key, value in values.items()]
        self.kv.update_keys(KvsARN=arn, IfMatch=self.kv.describe_key_value_store(KvsARN=arn)["ETag"], Puts=puts)

    def store(self) -> tuple[str, Json]:
        identity, _, state = self.engine.made("KeyValueStore", {"tags": {"stack": "lab"}}, "edge-store")
        return identity, state


def pairs(arn: str, **values: str) -> Json:
    listed = [{"key": key, "value": value} for key, value in values.items()]
    return {"keyValueStoreArn": arn, "maxBatchSize": 50, "resourceKeyValuePairs": listed}


def code(arn: str, text: str = "one") -> Json:
    return {"runtime": "cloudfront-js-2.0", "publish": True, "code": text, "keyValueStoreAssociations": [arn]}


KEYS = "KeyvaluestoreKeysExclusive"
THROTTLED = {"code": "ThrottlingException", "status": 429, "message": "Rate exceeded"}


@pytest.mark.lab
class TestLife:
    """From creation to deletion, with what the edge declares."""

    def test_every_resource_of_the_edge_comes_back_as_it_was_declared_and_goes(self, world: World) -> None:
        engine, (settings, edge) = world.engine, configured()
        made: list[tuple[str, str, Json, Json]] = []

        def make(kind: str, news: Json, name: str) -> tuple[str, Json]:
            identity, inputs, state = engine.made(kind, news, name)
            made.append((kind, identity, inputs, state))
            return identity, state

        arn = make("KeyValueStore", {"tags": {"stack": "lab"}}, "edge-store")[1]["arn"]
        functions = {
            event: make("Function", specs.function_args(event, settings, edge, arn), f"edge-{event}")[1]["arn"]
            for event in specs.FUNCTIONS
        }
        make(KEYS, specs.keys_args(settings, edge, arn), "edge-keys")
        policies = {
            "cachePolicyId": make("CachePolicy", specs.cache_policy_args(settings, edge), "edge-cache")[0],
            "originRequestPolicyId": make("OriginRequestPolicy", specs.origin_request_policy_args(), "edge-request")[0],
            "responseHeadersPolicyId": make(
                "ResponseHeadersPolicy", specs.response_headers_policy_args(), "edge-response"
            )[0],
        }
        identity, state = make("Distribution", distribution(functions=functions, policies=policies), "edge-d")
        logged = {"region": "us-east-1"}
        source = make(
            "LogDeliverySource", {"logType": "ACCESS_LOGS", "resourceArn": state["arn"], **logged}, "edge-log-source"
        )[0]
        target = {"deliveryDestinationConfiguration": {"destinationResourceArn": "arn:aws:s3:::logs"}, **logged}
        to = make("LogDeliveryDestination", {**target, "outputFormat": "json"}, "edge-log-target")[1]["arn"]
        delivery = {"deliverySourceName": source, "deliveryDestinationArn": to, "recordFields": [*specs.LOG_FIELDS]}
        make("LogDelivery", {**delivery, **logged}, "edge-log")

        assert {kind for kind, *_ in made} == set(TOKENS)
        for kind, known, inputs, state in made:
            assert not engine.diff(kind, state, inputs).detailedDiff, kind
            state |= {"status": "DEPLOYED"} if kind == "Function" else {}  # since the distribution has it
            assert engine.read(kind, known, inputs, state) == (inputs, state), kind
        live = world.cf.get_distribution_config(Id=identity)["DistributionConfig"]
        associated = live["DefaultCacheBehavior"]["FunctionAssociations"]["Items"]
        assert {one["EventType"]: one["FunctionARN"] for one in associated} == functions
        assert live["Origins"]["Items"][0]["CustomHeaders"]["Items"] == [
            {"HeaderName": "x-origin-secret", "HeaderValue": SECRET}
        ]
        for kind, known, inputs, state in reversed(made):
            engine.delete(kind, known, state)
            assert kind == KEYS or engine.read(kind, known, inputs, state) is None, kind
            engine.delete(kind, known, state)  # again: gone is gone
        assert world.cf.list_distributions()["DistributionList"]["Quantity"] == 0

    def test_the_origins_secret_stays_secret_in_the_state(self, world: World) -> None:
        identity, inputs, state = world.engine.made("Distribution", distribution())
        found = world.engine.read("Distribution", identity, inputs, state)
        assert found is not None
        for bag in (inputs, state, *found):
            assert isinstance(bag["origins"], Secret)
            assert SECRET not in str({key: one for key, one in bag.items() if not isinstance(one, Secret)})
        world.engine.delete("Distribution", identity, state)

    def test_tags_follow(self, world: World) -> None:
        identity, state = world.store()
        inputs = {"name": state["name"], "tags": {"team": "shop"}}
        after = world.engine.update("KeyValueStore", identity, state, inputs)
        assert after["tagsAll"] == {"team": "shop"}
        found = world.engine.read("KeyValueStore", identity, inputs, after)
        assert found is not None
        assert found[0]["tags"] == {"team": "shop"}

    def test_a_distribution_changed_by_hand_is_updated_all_the_same_and_disabled_before_it_goes(
        self, world: World
    ) -> None:
        engine = world.engine
        identity, inputs, state = engine.made("Distribution", distribution())
        live = world.cf.get_distribution_config(Id=identity)
        config = {**live["DistributionConfig"], "Comment": "by hand", "HttpVersion": "http2"}
        world.cf.update_distribution(Id=identity, IfMatch=live["ETag"], DistributionConfig=config)
        seen = engine.read("Distribution", identity, inputs, state)
        assert seen is not None
        assert (seen[0]["httpVersion"], seen[0]["comment"]) == ("http2", "by hand")
        assert set(engine.diff("Distribution", seen[1], inputs).detailedDiff) == {"httpVersion", "comment"}
        after = engine.update("Distribution", identity, state, inputs)
        assert world.cf.get_distribution_config(Id=identity)["DistributionConfig"]["HttpVersion"] == "http2and3"
        engine.calls.clear()
        engine.delete("Distribution", identity, after)
        changing = [name for name, _ in engine.calls if not name.startswith(("get", "list"))]
        assert changing == ["update_distribution", "delete_distribution"]


@pytest.mark.lab
class TestKeys:
    def test_all_keys_go_in_one_request_and_only_those_that_changed(self, world: World) -> None:
        _, store = world.store()
        first = pairs(store["arn"], a="1", b="2", c="3")
        identity, state = world.engine.create(KEYS, first)
        assert [len(sent["Puts"]) for name, sent in world.engine.calls if name == "update_keys"] == [3]
        world.engine.calls.clear()
        world.engine.update(KEYS, identity, state, pairs(store["arn"], a="1", b="4", c="3"))
        sent = [sent for name, sent in world.engine.calls if name == "update_keys"]
        assert [one["Puts"] for one in sent] == [[{"Key": "b", "Value": "4"}]]
        assert world.keys(store["arn"]) == {"a": "1", "b": "4", "c": "3"}

    def test_keys_of_others_are_shown_by_a_refresh_and_removed_in_a_request_of_their_own(self, world: World) -> None:
        _, store = world.store()
        arn, inputs = store["arn"], pairs(store["arn"], a="1", b="2")
        identity, state = world.engine.create(KEYS, inputs)
        world.put(arn, foreign="x", b="by hand")
        seen = world.engine.read(KEYS, identity, inputs, state)
        assert seen is not None
        assert seen[0] == pairs(arn, a="1", b="by hand", foreign="x")
        assert set(world.engine.diff(KEYS, seen[1], inputs).detailedDiff) == {
            "resourceKeyValuePairs[1].value", "resourceKeyValuePairs[2]"
        }  # fmt: skip
        world.engine.calls.clear()
        world.engine.update(KEYS, identity, seen[1], inputs)
        sent = [sent for name, sent in world.engine.calls if name == "update_keys"]
        assert [sorted(one.keys() & {"Puts", "Deletes"}) for one in sent] == [["Puts"], ["Deletes"]]
        assert world.keys(arn) == {"a": "1", "b": "2"}

    def test_deleting_them_leaves_them(self, world: World) -> None:
        _, store = world.store()
        identity, state = world.engine.create(KEYS, pairs(store["arn"], a="1"))
        world.engine.delete(KEYS, identity, state)
        assert world.keys(store["arn"]) == {"a": "1"}

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ({"overtaken": True}, "ValidationException.*Pre-Condition failed"),
            ({"code": "ConflictException", "status": 409, "message": "changed"}, "ConflictException.*changed"),
            ({"code": "AccessDeniedException", "status": 403, "message": "not authorized"}, "not authorized"),
            ({**THROTTLED, "times": 99}, "ThrottlingException.*Rate exceeded"),
        ],
        ids=["stale", "conflict", "denied", "throttled"],
    )
    def test_a_refused_write_says_why_changes_nothing_and_goes_through_the_next_time(
        self, world: World, fault: Json, reason: str
    ) -> None:
        _, store = world.store()
        arn = store["arn"]
        identity, state = world.engine.create(KEYS, pairs(arn, a="1", b="2"))
        wanted = pairs(arn, a="3", b="4")
        world.faults({"operation": "UpdateKeys", "times": 1, **fault})
        text, kept = world.engine.failed("update", KEYS, identity, state, wanted)
        assert re.search(reason, text), text
        assert {key: world.keys(arn)[key] for key in "ab"} == {"a": "1", "b": "2"}
        assert kept == state, "what is recorded is what the store holds"
        world.faults()
        world.engine.update(KEYS, identity, kept, wanted)
        assert world.keys(arn) == {"a": "3", "b": "4"}

    def test_a_store_that_is_not_ready_or_not_there_is_said_to_be_so(self, world: World) -> None:
        identity, store = world.store()
        arn, inputs = store["arn"], pairs(store["arn"], a="1")
        world.faults({"operation": "DescribeKeyValueStore", "times": 1, "provisioning": True})
        assert "not READY" in world.engine.failed("create", KEYS, inputs)[0]
        keys, state = world.engine.create(KEYS, inputs)
        world.cf.delete_key_value_store(Name=store["name"], IfMatch=store["etag"])
        assert "the store is not there" in world.engine.failed("update", KEYS, keys, state, pairs(arn, a="2"))[0]
        assert world.engine.read(KEYS, keys, inputs, state) is None
        assert world.engine.read("KeyValueStore", identity, {"name": store["name"]}, store) is None

    def test_a_store_of_the_same_name_begins_empty(self, world: World) -> None:
        _, store = world.store()
        world.engine.create(KEYS, pairs(store["arn"], a="1"))
        world.cf.delete_key_value_store(Name=store["name"], IfMatch=store["etag"])
        world.cf.create_key_value_store(Name=store["name"])
        assert world.keys(store["arn"]) == {}


@pytest.mark.lab
class TestStores:
    def test_a_new_store_is_waited_for(self, world: World) -> None:
        world.faults({"operation": "DescribeKeyValueStore", "times": 2, "provisioning": True})
        world.engine.create("KeyValueStore", {"name": "late-store"})
        asked = [name for name, _ in world.engine.calls if name == "describe_key_value_store"]
        assert len(asked) > 3, "two answers that it is not READY, one that it is, and one to read it"

    def test_not_for_ever_and_then_it_is_forgotten_as_by_the_real_provider(self, world: World) -> None:
        world.faults({"operation": "DescribeKeyValueStore", "times": 99, "provisioning": True})
        text, kept = world.engine.failed("create", "KeyValueStore", {"name": "never-store"}, timeout=0.3)
        assert "timeout" in text
        assert kept == {}

    def test_a_name_is_given_once(self, world: World) -> None:
        world.engine.create("KeyValueStore", {"name": "twice"})
        assert "EntityAlreadyExists" in world.engine.failed("create", "KeyValueStore", {"name": "twice"})[0]


@pytest.mark.lab
class TestFunctions:
    def made(self, world: World) -> tuple[str, Json, Json]:
        _, store = world.store()
        return world.engine.made("Function", code(store["arn"]), "edge-viewer")

    def stages(self, world: World, name: str) -> tuple[bytes, bytes]:
        both = [world.cf.get_function(Name=name, Stage=stage)["FunctionCode"] for stage in ("DEVELOPMENT", "LIVE")]
        return both[0].read(), both[1].read()

    def test_an_update_is_published(self, world: World) -> None:
        name, inputs, state = self.made(world)
        after = world.engine.update("Function", name, state, {**inputs, "code": "two"})
        assert self.stages(world, name) == (b"two", b"two")
        assert after["etag"] != state["etag"]
        assert after["liveStageEtag"] != state["liveStageEtag"]

    def test_the_etag_of_the_last_read_counts(self, world: World) -> None:
        name, inputs, state = self.made(world)
        config = world.cf.describe_function(Name=name, Stage="DEVELOPMENT")["FunctionSummary"]["FunctionConfig"]
        world.cf.update_function(Name=name, IfMatch=state["etag"], FunctionConfig=config, FunctionCode=b"by hand")
        wanted = {**inputs, "code": "two"}
        assert "PreconditionFailed" in world.engine.failed("update", "Function", name, state, wanted)[0]
        seen = world.engine.read("Function", name, inputs, state)
        assert seen is not None
        assert seen[0]["code"] == "by hand"
        world.engine.update("Function", name, seen[1], wanted)
        assert self.stages(world, name) == (b"two", b"two")

    def test_one_that_is_too_large_is_refused_and_one_at_the_limit_is_not(self, world: World) -> None:
        name, inputs, state = self.made(world)
        text, _ = world.engine.failed("update", "Function", name, state, {**inputs, "code": "x" * 10_241})
        assert "FunctionSizeLimitExceeded" in text
        assert self.stages(world, name) == (b"one", b"one")
        world.engine.update("Function", name, state, {**inputs, "code": "x" * 10_240})

    def test_one_that_could_not_be_published_is_kept(self, world: World) -> None:
        _, store = world.store()
        world.faults({"operation": "PublishFunction", "times": 99, "code": "ServiceUnavailable", "status": 503})
        inputs = world.engine.inputs("Function", code(store["arn"]), name="edge-new", seed=b"unpublished")
        text, kept = world.engine.failed("create", "Function", inputs)
        assert "publishing" in text
        assert kept["code"] == "one"
        assert "etag" not in kept, "the real one reads it after it has published"
        found = world.engine.read("Function", inputs["name"], inputs, kept)
        assert found is not None
        assert (found[1]["status"], found[1]["liveStageEtag"]) == ("UNPUBLISHED", "")

    def test_a_refused_update_leaves_the_new_code_in_the_state_as_the_real_provider_does(self, world: World) -> None:
        name, inputs, state = self.made(world)
        wanted = {**inputs, "code": "two"}
        world.faults({"operation": "UpdateFunction", "times": 99, **THROTTLED})
        _, kept = world.engine.failed("update", "Function", name, state, wanted)
        assert (kept["code"], kept["etag"]) == ("two", state["etag"])
        world.faults()
        assert not world.engine.diff("Function", kept, wanted).detailedDiff
        after = world.engine.update("Function", name, kept, wanted)
        assert after["code"] == "one", "the engine's next update publishes what is there; the one after sees it"
        assert set(world.engine.diff("Function", after, wanted).detailedDiff) == {"code"}

    def test_one_in_use_stays(self, world: World) -> None:
        name, _, state = self.made(world)
        identity, _, outer = world.engine.made("Distribution", distribution(functions={"viewer-request": state["arn"]}))
        with pytest.raises(Aborted, match="FunctionInUse"):
            world.engine.delete("Function", name, state)
        world.engine.delete("Distribution", identity, outer)
        world.engine.delete("Function", name, state)

    def test_a_store_that_is_not_ready_takes_no_function(self, world: World) -> None:
        _, store = world.store()
        world.cf.delete_key_value_store(Name=store["name"], IfMatch=store["etag"])
        inputs = world.engine.inputs("Function", code(store["arn"]), name="edge-new")
        assert "InvalidArgument" in world.engine.failed("create", "Function", inputs)[0]


@pytest.mark.lab
class TestLimits:
    @pytest.mark.parametrize(
        ("key", "value", "fits"),
        [("k", "v" * 1023, True), ("k", "v" * 1024, False), ("k" * 512, "v", True), ("k" * 513, "v", False)],
    )
    def test_of_a_key_and_its_value(self, world: World, key: str, value: str, fits: bool) -> None:
        _, store = world.store()
        inputs = pairs(store["arn"], **{key: value})
        if fits:
            world.engine.create(KEYS, inputs)
        else:
            assert "ValidationException" in world.engine.failed("create", KEYS, inputs)[0]
        assert bool(world.keys(store["arn"])) is fits

    def test_more_keys_than_one_request_takes_go_in_several(self, world: World) -> None:
        _, store = world.store()
        world.engine.create(KEYS, pairs(store["arn"], **{f"k{number}": "v" for number in range(60)}))
        assert [len(sent["Puts"]) for name, sent in world.engine.calls if name == "update_keys"] == [50, 10]

    @pytest.mark.parametrize(
        "fault",
        [
            {"operation": "UpdateKey", "times": 1, "overtaken": True},
            {"operation": "UpdateKeys", "times": 0, "overtaken": True},
            {"operation": "UpdateKeys", "times": 1},
        ],
    )
    def test_a_fault_that_nothing_could_meet_is_refused(self, world: World, fault: Json) -> None:
        with pytest.raises(httpx.HTTPStatusError):
            world.faults(fault)


def test_the_lab_lists_its_aws_as_no_real_part() -> None:
    found = {part.name: part for part in parts.all_parts()}
    assert not found["aws-api"].real
    assert found["aws-api"].why
    assert Path(found["pulumi-resource-aws"].path or "").name == "aws_provider.py" or found["pulumi-resource-aws"].real
