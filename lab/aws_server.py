"""AWS in the lab: ministack with the limits of CloudFront that it does not keep, and with faults that a test asks for.

It runs on ministack's own Python.  `PUT /_lab/faults` replaces the faults to come and answers with those left before:

    {"operation": "UpdateKeys", "times": 1, "code": "ThrottlingException", "status": 429, "message": "Rate exceeded"}
    the same with "seconds": 30                                         after so long
    {"operation": "UpdateKeys", "times": 1, "overtaken": true}          another writer is faster, so the ETag is stale
    {"operation": "DescribeKeyValueStore", "times": 1, "provisioning": true}              the store is not READY (yet)
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from botocore.model import ServiceModel
from botocore.session import Session
from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app as ministack
from ministack.services import cloudfront_keyvaluestore

FAULTS = "/_lab/faults"
LONGEST_CODE = 10_240
LONGEST_KEY = 512
LONGEST_PAIR = 1_024  # of key and value: the narrower reading of "1 KB"
MOST_KEYS, MOST_BYTES, LARGEST_STORE = 50, 3 * 2**20, 5 * 2**20
NOT_READY = "Key-Value-Store was not in expected state"
_KINDS = {"code": str, "overtaken": bool, "provisioning": bool}

JSON = dict[str, Any]
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def _models() -> list[ServiceModel]:
    session = Session()
    return [session.get_service_model(name) for name in ("cloudfront", "cloudfront-keyvaluestore", "logs")]


def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """(operation, method, paths) of what has a path of its own."""
    found = []
    for model in _models():
        for name in model.operation_names:
            http = model.operation_model(name).http
            path = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(http["requestUri"].partition("?")[0]))
            if path != "/":
                found.append((name, http["method"], re.compile(f"{path}/?")))
    return found


PATTERNS = _patterns()


@dataclass
class Request:
    """One request, whole."""

    scope: JSON
    body: bytes

    @property
    def path(self) -> str:
        raw: bytes = self.scope["raw_path"]
        return raw.partition(b"?")[0].decode()

    @property
    def operation(self) -> str:
        method = self.scope["method"]
        return next((name for name, verb, paths in PATTERNS if verb == method and paths.fullmatch(self.path)), "")

    @property
    def store(self) -> str:
        """ARN of the store whose keys it is about, or nothing."""
        match = re.match(r"/key-value-stores/([^/]+)", self.path)
        return unquote(match[1]) if match else ""


class Refused(Exception):
    """AWS says no."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


async def _ask(scope: JSON, body: bytes) -> Answer:
    """ministack's answer, whole."""
    sent: list[JSON] = []
    asked = False

    async def receive() -> JSON:
        nonlocal asked
        if asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: JSON) -> None:
        sent.append(message)

    await ministack(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], list(sent[0]["headers"]), text


async def _call(request: Request, method: str, path: str, content: object = None, etag: str = "") -> Answer:
    """A request of our own, with the credentials of the one that is served."""
    body = json.dumps(content).encode() if content is not None else b""
    kept = [pair for pair in request.scope["headers"] if pair[0] not in (b"content-length", b"if-match")]
    headers = [*kept, (b"content-length", str(len(body)).encode()), *([(b"if-match", etag.encode())] if etag else [])]
    scope = {**request.scope, "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": headers}
    return await _ask({**scope, "query_string": b""}, body)


@dataclass
class Server:
    """ministack, watched."""

    faults: list[JSON] = field(default_factory=list)

    async def __call__(
        self, scope: JSON, receive: Callable[[], Awaitable[JSON]], send: Callable[[JSON], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await ministack(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        request = Request(scope, body)
        try:
            status, headers, text = self._control(request) if request.path == FAULTS else await self._answer(request)
        except Refused as refused:
            status, headers, text = _error(request, refused)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _control(self, request: Request) -> Answer:
        left = json.dumps(self.faults).encode()
        if request.scope["method"] == "PUT":
            wanted = json.loads(request.body)
            known = {name for name, _, _ in PATTERNS}
            for fault in wanted:
                if (
                    fault.get("operation") not in known
                    or sum(key in fault for key in _KINDS) != 1
                    or not fault.get("times")
                ):
                    raise Refused(
                        400, "ValidationException", f"{fault} names no operation, no times, or not one of {[*_KINDS]}"
                    )
            self.faults = wanted
        return 200, [(b"content-type", b"application/json")], left

    async def _answer(self, request: Request) -> Answer:
        fault = next((one for one in self.faults if one["operation"] == request.operation and one["times"] > 0), {})
        if fault:
            fault["times"] -= 1
            await asyncio.sleep(fault.get("seconds", 0))
        if "code" in fault:
            raise Refused(fault.get("status", 400), fault["code"], fault.get("message", "as asked for"))
        if "overtaken" in fault:
            await _overtake(request)
        if request.store and (fault.get("provisioning") or not await _exists(request, request.store)):
            raise Refused(409, "ConflictException", NOT_READY)
        if request.operation in _LIMITS:
            await _LIMITS[request.operation](request)
        status, headers, text = await _ask(request.scope, request.body)
        if fault.get("provisioning"):
            text = text.replace(b"<Status>READY</Status>", b"<Status>PROVISIONING</Status>")
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        if request.store and status == 409:
            # As AWS says it; ministack says ConflictException.
            raise Refused(400, "ValidationException", "Pre-Condition failed")
        if request.operation == "UpdateFunction":  # AWS answers, and SDKs read, a header with a typing error
            headers = [*headers, *((b"ETtag", value) for name, value in headers if name.lower() == b"etag")]
        if request.operation == "DeleteKeyValueStore" and status < 300:
            # ministack would give the keys to the next store of that name.
            for arn in [arn for _, arn in cloudfront_keyvaluestore._stores.to_dict()]:
                if arn.endswith(f"/{request.path.rpartition('/')[2]}"):
                    del cloudfront_keyvaluestore._stores[arn]
        return status, headers, text


async def _exists(request: Request, arn: str) -> bool:
    status, _, _ = await _call(request, "GET", f"/2020-05-31/key-value-store/{arn.rpartition('/')[2]}")
    return status == 200


async def _overtake(request: Request) -> None:
    """Another writer's key."""
    path = f"/key-value-stores/{quote(request.store, safe='')}"
    _, headers, _ = await _call(request, "GET", path)
    etag = next(value.decode() for name, value in headers if name.lower() == b"etag")
    status, _, text = await _call(request, "PUT", f"{path}/keys/another-writer", {"Value": "was here"}, etag)
    assert status == 200, text


async def _limit_keys(request: Request) -> None:
    content = json.loads(request.body or b"{}")
    puts = content.get("Puts") or (
        [{"Key": unquote(request.path.rpartition("/")[2]), **content}] if "Value" in content else []
    )
    sizes = []
    for put in puts:
        key, value = len(put["Key"].encode()), len(put["Value"].encode())
        if key > LONGEST_KEY or key + value > LONGEST_PAIR:
            text = (
                f"key {put['Key'][:40]} of {key} bytes with a value of {value}: {LONGEST_KEY} and {LONGEST_PAIR} in all"
            )
            raise Refused(400, "ValidationException", text)
        sizes.append(key + value)
    if len(sizes) + len(content.get("Deletes") or []) > MOST_KEYS or sum(sizes) > MOST_BYTES:
        raise Refused(400, "ValidationException", f"more than {MOST_KEYS} keys or {MOST_BYTES} bytes in one request")
    _, _, told = await _call(request, "GET", f"/key-value-stores/{quote(request.store, safe='')}")
    if json.loads(told)["TotalSizeInBytes"] + sum(sizes) > LARGEST_STORE:  # what is overwritten counts twice
        raise Refused(402, "ServiceQuotaExceededException", f"the store would be larger than {LARGEST_STORE} bytes")


async def _limit_function(request: Request) -> None:
    text = request.body.decode()
    code = re.search(r"<FunctionCode>([^<]*)</FunctionCode>", text)
    if code and len(base64.b64decode(code[1])) > LONGEST_CODE:
        raise Refused(413, "FunctionSizeLimitExceeded", f"The function is larger than {LONGEST_CODE} bytes.")
    stores = re.findall(r"<KeyValueStoreARN>([^<]*)</KeyValueStoreARN>", text)
    if len(stores) > 1:
        raise Refused(400, "InvalidArgument", "A function can be associated with one key value store.")
    for arn in stores:
        _, _, told = await _call(request, "GET", f"/2020-05-31/key-value-store/{arn.rpartition('/')[2]}")
        if b"<Status>READY</Status>" not in told:
            raise Refused(400, "InvalidArgument", f"The key value store {arn} is not READY.")


async def _in_use(request: Request) -> None:
    _, _, text = await _call(request, "GET", "/2020-05-31/distribution")
    if f":function/{request.path.rpartition('/')[2]}<".encode() in text:
        raise Refused(409, "FunctionInUse", "The function is associated with a distribution.")


_LIMITS = {
    "UpdateKeys": _limit_keys,
    "PutKey": _limit_keys,
    "CreateFunction": _limit_function,
    "UpdateFunction": _limit_function,
    "DeleteFunction": _in_use,
}


def _error(request: Request, refused: Refused) -> Answer:
    """In XML where the API speaks XML."""
    if request.path.startswith("/2020-05-31/"):
        inner = f"<Type>Sender</Type><Code>{refused.code}</Code><Message>{refused}</Message>"
        text = f"<ErrorResponse><Error>{inner}</Error><RequestId>lab</RequestId></ErrorResponse>".encode()
        return refused.status, [(b"content-type", b"text/xml")], text
    body = json.dumps({"__type": refused.code, "Message": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"x-amzn-errortype", refused.code.encode())]
    return refused.status, headers, body


async def _main() -> None:
    config = Config()
    config.bind = [f"{os.environ['BIND_HOST']}:{os.environ['GATEWAY_PORT']}"]
    config.keep_alive_timeout = 75
    config.errorlog, config.loglevel = "-", "WARNING"
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await serve(Server(), config, shutdown_trigger=ended.wait)  # type: ignore[arg-type,unused-ignore]


if __name__ == "__main__":
    asyncio.run(_main())
