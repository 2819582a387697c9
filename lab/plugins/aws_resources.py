"""The life of the AWS resources that the edge is made of, as pulumi-aws 7.51 leads it, over boto3.

What is remarkable there is so here: keys are put in one request, those of others removed in a second one, and none at
the end; an update of a function or policy goes by the ETag of the last read or update, a refused one leaves the new
inputs in the state; only the distribution asks for its ETag again.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lab.plugins.aws_schema import SCHEMAS, Schema, from_aws, to_aws
from lab.plugins.protos import JSON

POLL_SECONDS = 0.2
CREATE_SECONDS = 1800.0
_GONE = "Key-Value-Store was not in expected state"


class Refused(ValueError):
    """AWS refused; `code` is its word for why."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Unfinished(Exception):
    """The resource is there, but what was to come next failed."""

    def __init__(self, identity: str, cause: Refused) -> None:
        super().__init__(str(cause))
        self.identity, self.cause = identity, cause


class Aws:
    """Clients of one region's endpoints, made when first needed: importing them takes longer than most updates."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.cancelled = threading.Event()
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    @cached_property
    def _session(self) -> Any:
        from botocore.session import Session  # boto3 without what S3 needs

        return Session()

    def client(self, service: str, region: str = "") -> Any:
        """The client of a service."""
        from botocore.config import Config

        with self._lock:
            key = service, region or self.region
            if key not in self._clients:
                # The real provider tries 25 times; here nobody has the time.
                config = Config(retries={"mode": "standard", "max_attempts": 3})
                self._clients[key] = self._session.create_client(service, region_name=key[1], config=config)
            return self._clients[key]

    def call(
        self, what: str, service: str, operation: str, region: str = "", absent: str = "", **parameters: Any
    ) -> JSON:
        """One call; Refused with `what` failed and AWS' own words.  Nothing where AWS says `absent`."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client(service, region)
        try:
            answer: JSON = getattr(client, operation)(**parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if absent and code == absent:
                return {}
            raise Refused(f"{what}: {error}", code) from error
        except BotoCoreError as error:
            raise Refused(f"{what}: {error}") from error
        return answer


class Kind(ABC):
    """A type of resource.  `forced` inputs make a new one; `plans`: a failed update leaves its inputs in the state.

    `noun` is AWS' own word for it, in the names of operations and shapes.
    """

    title = ""
    noun = ""
    forced: Sequence[str] = ("name",)
    computed: Sequence[str] = ("arn", "etag")
    plans = False

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.schema: dict[str, Schema] = SCHEMAS[type(self).__name__]

    def call(self, verb: str, identity: object, operation: str, **parameters: Any) -> JSON:
        return self.aws.call(f"{verb} {self.title} ({identity})", "cloudfront", operation, **parameters)

    @abstractmethod
    def create(self, inputs: JSON, timeout: float) -> str:
        """Id of the new one.  Raises Unfinished where it is there and not as it should be."""

    @abstractmethod
    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        """Inputs and outputs as AWS has them; None if it is gone."""

    @abstractmethod
    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        """Brings what is there to the inputs."""

    @abstractmethod
    def delete(self, identity: str, state: JSON) -> None:
        """Nothing to do where it is gone."""

    @property
    def _shape(self) -> Any:
        return self.aws.client("cloudfront").meta.service_model.shape_for(f"{self.noun}Config")

    def wait(self, identity: str, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if self.aws.cancelled.wait(POLL_SECONDS) or time.monotonic() > deadline:
                how = "cancelled" if self.aws.cancelled.is_set() else f"timeout of {timeout:.0f} s"
                raise Refused(f"waiting for {self.title} ({identity}): {how}")

    def tags(self, arn: str) -> JSON:
        """`tags` and `tagsAll` as AWS has them."""
        told = self.call("listing tags of", arn, "list_tags_for_resource", Resource=arn)
        tags = {tag["Key"]: tag["Value"] for tag in told["Tags"].get("Items", [])}
        return {"tagsAll": tags, **({"tags": tags} if tags else {})}

    def retag(self, state: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        old, new = state.get("tags") or {}, inputs.get("tags") or {}
        if old == new:
            return
        arn = state["arn"]
        if removed := [key for key in old if key not in new]:
            self.call("updating tags of", arn, "untag_resource", Resource=arn, TagKeys={"Items": removed})
        if new:
            self.call("updating tags of", arn, "tag_resource", Resource=arn, Tags=_tags(new))


def _tags(tags: Mapping[str, str] | None) -> JSON:
    return {"Items": [{"Key": key, "Value": value} for key, value in (tags or {}).items()]}


class KeyValueStore(Kind):
    title = "CloudFront Key Value Store"
    computed = ("arn", "etag", "tagsAll")

    def create(self, inputs: JSON, timeout: float) -> str:
        """One that is not READY in time is left at AWS and forgotten, as by the real provider."""
        name = inputs["name"]
        tags = {"Tags": _tags(inputs["tags"])} if inputs.get("tags") else {}
        made = self.call("creating", name, "create_key_value_store", Name=name, **tags)

        def ready() -> bool:
            store = self.call("reading", name, "describe_key_value_store", Name=name)["KeyValueStore"]
            return bool(store["Status"] == "READY")

        self.wait(name, ready, timeout or CREATE_SECONDS)
        return str(made["KeyValueStore"]["Id"])

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        name = state["name"]
        told = self.call("reading", name, "describe_key_value_store", absent="EntityNotFound", Name=name)
        store = told.get("KeyValueStore", {})
        if store.get("Id") != identity:
            return None
        return {"name": name, "arn": store["ARN"], "etag": told["ETag"], **self.tags(store["ARN"])}

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        self.retag(state, inputs)

    def delete(self, identity: str, state: JSON) -> None:
        name, etag = state["name"], state.get("etag", "")
        self.call("deleting", name, "delete_key_value_store", absent="EntityNotFound", Name=name, IfMatch=etag)


class Keys(Kind):
    """All keys of a store."""

    title = "CloudFront KeyValueStore keys"
    forced = ("keyValueStoreArn",)
    computed = ("totalSizeInBytes",)

    def call(self, verb: str, identity: object, operation: str, **parameters: Any) -> JSON:
        what = f"{verb} {self.title} ({identity})"
        return self.aws.call(what, "cloudfront-keyvaluestore", operation, KvsARN=identity, **parameters)

    def _store(self, arn: str) -> JSON | None:
        try:
            return self.call("reading", arn, "describe_key_value_store")
        except Refused as error:
            # So AWS says of a store that was deleted, or is not ready.
            if error.code == "ResourceNotFoundException" or (error.code == "ConflictException" and _GONE in str(error)):
                return None
            raise

    def _pairs(self, arn: str) -> dict[str, str]:
        pairs: dict[str, str] = {}
        more: JSON = {}
        while True:
            page = self.call("reading", arn, "list_keys", MaxResults=50, **more)
            pairs |= {item["Key"]: item["Value"] for item in page.get("Items", [])}
            if "NextToken" not in page:
                return pairs
            more = {"NextToken": page["NextToken"]}

    def create(self, inputs: JSON, timeout: float) -> str:
        arn, batch = inputs["keyValueStoreArn"], inputs["maxBatchSize"]
        store = self._store(arn)
        if store is None:
            raise Refused(f"writing {self.title} ({arn}): the store is not there, or is not READY")
        have, etag = self._pairs(arn), store["ETag"]
        want = {pair["key"]: pair["value"] for pair in inputs.get("resourceKeyValuePairs", [])}
        puts = [{"Key": key, "Value": value} for key, value in want.items() if have.get(key) != value]
        drops = [{"Key": key} for key in have if key not in want]
        for field, changes in (("Puts", puts), ("Deletes", drops)):
            for start in range(0, len(changes), batch):
                some = {field: changes[start : start + batch]}
                etag = self.call("writing", arn, "update_keys", IfMatch=etag, **some)["ETag"]
        return str(arn)

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        store = self._store(identity)
        if store is None:
            return None
        before = {pair["key"]: "" for pair in state.get("resourceKeyValuePairs", [])}
        have = self._pairs(identity)
        pairs = [{"key": key, "value": have[key]} for key in {**before, **have} if key in have]
        found = {"keyValueStoreArn": identity, "maxBatchSize": state.get("maxBatchSize", 50)}
        return found | {"resourceKeyValuePairs": pairs, "totalSizeInBytes": store["TotalSizeInBytes"]}

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        self.create(inputs, 0)

    def delete(self, identity: str, state: JSON) -> None:
        return  # the keys stay


class Function(Kind):
    title = "CloudFront Function"
    computed = ("arn", "etag", "liveStageEtag", "status")
    plans = True

    def _content(self, inputs: JSON) -> JSON:
        arns = inputs.get("keyValueStoreAssociations", [])
        config = {"Comment": "", "Runtime": inputs["runtime"]}
        if arns:
            items = [{"KeyValueStoreARN": arn} for arn in arns]
            config["KeyValueStoreAssociations"] = {"Quantity": len(items), "Items": items}
        return {"FunctionCode": inputs["code"].encode(), "FunctionConfig": config}

    def _publish(self, name: str, etag: str) -> None:
        self.call("publishing", name, "publish_function", Name=name, IfMatch=etag)

    def create(self, inputs: JSON, timeout: float) -> str:
        name = str(inputs["name"])
        made = self.call("creating", name, "create_function", Name=name, **self._content(inputs))
        if inputs["publish"]:
            try:
                self._publish(name, made["ETag"])
            except Refused as error:
                raise Unfinished(name, error) from error
        return name

    def _describe(self, name: str, stage: str) -> JSON:
        more = {"Name": name, "Stage": stage, "absent": "NoSuchFunctionExists"}
        return self.call(f"reading the {stage} stage of", name, "describe_function", **more)

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        told = self._describe(identity, "DEVELOPMENT")
        if not told:
            return None
        summary, live = told["FunctionSummary"], self._describe(identity, "LIVE")
        config = summary["FunctionConfig"]
        arns = [item["KeyValueStoreARN"] for item in config.get("KeyValueStoreAssociations", {}).get("Items", [])]
        code = self.call("reading the code of", identity, "get_function", Name=identity, Stage="DEVELOPMENT")
        found = {
            "name": identity,
            "code": code["FunctionCode"].read().decode(),
            "runtime": config["Runtime"],
            "publish": state.get("publish", True),
            "arn": summary["FunctionMetadata"]["FunctionARN"],
            "etag": told["ETag"],
            "liveStageEtag": live.get("ETag", ""),
            "status": summary.get("Status", ""),
        }
        return found | ({"keyValueStoreAssociations": arns} if arns else {})

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        etag, content = state.get("etag", ""), self._content(inputs)
        if content != self._content(state):
            etag = self.call("updating", identity, "update_function", Name=identity, IfMatch=etag, **content)["ETag"]
        if inputs["publish"]:
            self._publish(identity, etag)

    def delete(self, identity: str, state: JSON) -> None:
        more = {"Name": identity, "IfMatch": state.get("etag", ""), "absent": "NoSuchFunctionExists"}
        self.call("deleting", identity, "delete_function", **more)


class Policy(Kind):
    """One of CloudFront's policies."""

    forced = ()
    computed = ("etag",)
    plans = True

    def _operation(self, verb: str) -> str:
        words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.noun)
        return f"{verb}{words}"

    def _content(self, inputs: JSON) -> JSON:
        return {f"{self.noun}Config": to_aws(self._shape, self.schema, inputs)}

    def create(self, inputs: JSON, timeout: float) -> str:
        made = self.call("creating", inputs["name"], self._operation("create"), **self._content(inputs))
        return str(made[self.noun]["Id"])

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        told = self.call("reading", identity, self._operation("get"), absent=f"NoSuch{self.noun}", Id=identity)
        if not told:
            return None
        found: JSON = from_aws(self._shape, self.schema, told[self.noun][f"{self.noun}Config"])
        return found | {"etag": told["ETag"]}

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        etag = state.get("etag", "")
        self.call("updating", identity, self._operation("update"), Id=identity, IfMatch=etag, **self._content(inputs))

    def delete(self, identity: str, state: JSON) -> None:
        more = {"Id": identity, "IfMatch": state.get("etag", ""), "absent": f"NoSuch{self.noun}"}
        self.call("deleting", identity, self._operation("delete"), **more)


class CachePolicy(Policy):
    title, noun = "CloudFront Cache Policy", "CachePolicy"


class OriginRequestPolicy(Policy):
    title, noun = "CloudFront Origin Request Policy", "OriginRequestPolicy"


class ResponseHeadersPolicy(Policy):
    title, noun = "CloudFront Response Headers Policy", "ResponseHeadersPolicy"


class Distribution(Kind):
    title, noun = "CloudFront Distribution", "Distribution"
    forced = ()
    computed = ("arn", "callerReference", "domainName", "etag", "status", "tagsAll")
    plans = True

    def _content(self, inputs: JSON, reference: str) -> JSON:
        config: JSON = to_aws(self._shape, self.schema, inputs)
        behavior, cached = config["DefaultCacheBehavior"], inputs["defaultCacheBehavior"]["cachedMethods"]
        behavior["AllowedMethods"]["CachedMethods"] = {"Quantity": len(cached), "Items": cached}
        return {"Comment": "", "WebACLId": "", "Aliases": {"Quantity": 0}, **config, "CallerReference": reference}

    def _deployed(self, identity: str, timeout: float = 0) -> None:
        self.wait(
            identity, lambda: self._get(identity)["Distribution"]["Status"] == "Deployed", timeout or CREATE_SECONDS
        )

    def create(self, inputs: JSON, timeout: float) -> str:
        content = {
            "DistributionConfig": self._content(inputs, f"terraform-{time.time_ns()}"),
            "Tags": _tags(inputs.get("tags")),
        }
        made = self.call("creating", "new", "create_distribution_with_tags", DistributionConfigWithTags=content)
        identity = str(made["Distribution"]["Id"])
        try:
            self._deployed(identity, timeout)
        except Refused as error:
            raise Unfinished(identity, error) from error
        return identity

    def _get(self, identity: str) -> JSON:
        return self.call("reading", identity, "get_distribution", absent="NoSuchDistribution", Id=identity)

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        told = self._get(identity)
        if not told:
            return None
        one = told["Distribution"]
        config = one["DistributionConfig"]
        found: JSON = from_aws(self._shape, self.schema, config)
        methods = config["DefaultCacheBehavior"].get("AllowedMethods", {})
        found["defaultCacheBehavior"]["cachedMethods"] = methods.get("CachedMethods", {}).get("Items", [])
        return found | {
            "arn": one["ARN"],
            "callerReference": config["CallerReference"],
            "domainName": one["DomainName"],
            "etag": told["ETag"],
            "status": one["Status"],
            **self.tags(one["ARN"]),
        }

    def _put(self, identity: str, etag: str, config: JSON) -> None:
        self.call("updating", identity, "update_distribution", Id=identity, IfMatch=etag, DistributionConfig=config)

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        content = self._content(inputs, state.get("callerReference", ""))
        try:
            self._put(identity, state.get("etag", ""), content)
        except Refused as error:
            live = self._get(identity) if error.code in ("PreconditionFailed", "InvalidIfMatchVersion") else {}
            if not live:
                raise
            self._put(identity, live["ETag"], content)
        self._deployed(identity)
        self.retag(state, inputs)

    def delete(self, identity: str, state: JSON) -> None:
        """Disabled first, as it is at AWS; then with the ETag of that moment."""
        live = self._get(identity)
        if not live:
            return
        config = live["Distribution"]["DistributionConfig"]
        if config["Enabled"]:
            self._put(identity, live["ETag"], {**config, "Enabled": False})
            self._deployed(identity)
        etag = (self._get(identity) or live)["ETag"]
        self.call("deleting", identity, "delete_distribution", Id=identity, IfMatch=etag)


class Delivery(Kind):
    """Log delivery: a source, a destination, and what joins them.  An update in place is not supported."""

    key = "name"

    def call(self, verb: str, identity: object, operation: str, region: str = "", **parameters: Any) -> JSON:
        return self.aws.call(f"{verb} {self.title} ({identity})", "logs", operation, region, **parameters)

    def _named(self, verb: str, identity: str, operation: str, state: Mapping[str, Any]) -> JSON:
        more = {self.key: identity, "absent": "ResourceNotFoundException"}
        return self.call(verb, identity, f"{operation}_{self.noun}", state.get("region", ""), **more)

    def create(self, inputs: JSON, timeout: float) -> str:
        region, verb = inputs.get("region", ""), "create" if self.key == "id" else "put"
        content = {key: value for key, value in inputs.items() if key != "region"}
        made = self.call("creating", inputs.get("name", "new"), f"{verb}_{self.noun}", region, **content)
        return str(next(value for key, value in made.items() if key != "ResponseMetadata")[self.key])

    def read(self, identity: str, state: Mapping[str, Any]) -> JSON | None:
        told = self._named("reading", identity, "get", state)
        if not told:
            return None
        one = next(value for key, value in told.items() if key != "ResponseMetadata")
        known = {name.rstrip("!") for name in self.schema} | set(self.computed)
        found = {key: value for key, value in one.items() if key in known and value}
        if one.get("resourceArns"):
            found["resourceArn"] = one["resourceArns"][0]
        return {**found, **({"region": state["region"]} if "region" in state else {})}

    def update(self, identity: str, state: JSON, inputs: JSON) -> None:
        raise Refused(
            f"updating {self.title} ({identity}): the aws stand-in does not support it; use the real provider"
        )

    def delete(self, identity: str, state: JSON) -> None:
        self._named("deleting", identity, "delete", state)


class LogDeliverySource(Delivery):
    title, noun = "CloudWatch Logs Delivery Source", "delivery_source"
    forced = ("name", "logType", "resourceArn", "region")
    computed = ("arn", "service")


class LogDeliveryDestination(Delivery):
    title, noun = "CloudWatch Logs Delivery Destination", "delivery_destination"
    forced = ("name", "outputFormat", "region")
    computed = ("arn", "deliveryDestinationType")


class LogDelivery(Delivery):
    title, noun, key = "CloudWatch Logs Delivery", "delivery", "id"
    forced = ("deliverySourceName", "deliveryDestinationArn", "region")
    computed = ("arn",)


KINDS: dict[str, type[Kind]] = {
    "aws:cloudfront/keyValueStore:KeyValueStore": KeyValueStore,
    "aws:cloudfront/keyvaluestoreKeysExclusive:KeyvaluestoreKeysExclusive": Keys,
    "aws:cloudfront/function:Function": Function,
    "aws:cloudfront/cachePolicy:CachePolicy": CachePolicy,
    "aws:cloudfront/originRequestPolicy:OriginRequestPolicy": OriginRequestPolicy,
    "aws:cloudfront/responseHeadersPolicy:ResponseHeadersPolicy": ResponseHeadersPolicy,
    "aws:cloudfront/distribution:Distribution": Distribution,
    "aws:cloudwatch/logDeliverySource:LogDeliverySource": LogDeliverySource,
    "aws:cloudwatch/logDeliveryDestination:LogDeliveryDestination": LogDeliveryDestination,
    "aws:cloudwatch/logDelivery:LogDelivery": LogDelivery,
}
