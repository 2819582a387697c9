"""`python -m lab.edge.watch`: runs both nodes and keeps them as ministack has it; its end is theirs.

It asks every half second.  A function that does not compile is answered with 503, as CloudFront does it: it takes any
code, and says so at the first request.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

from lab.edge import FOLDER, LAG, NODES, POLLED, VIEWER, Aws, Distribution, all_of, write
from lab.parts import find

SECONDS = 0.5
SOURCES = Path(__file__).parent
WITHOUT = {"viewer-request": "request", "viewer-response": "response"}
"""What a function that is not there would return."""

# A reload closes idle connections, and a client that is just about to use one loses its request: so none is kept.
CONFIG = """
daemon off; worker_processes 1; user root; pid {folder}/pid; error_log {folder}/error.log warn;
load_module {module};
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    log_format lab escape=json '{{"at": $msec, "uri": "$uri", "status": $status, "data": "$edge_log"}}';
    js_var $edge_log;
    access_log {folder}/access.jsonl lab;
    keepalive_timeout 0; client_max_body_size 0;
    server {{ listen {port} default_server; return 403 "no distribution has this alias\\n"; }}
{servers}
}}
"""
SERVER = """
    upstream {id} {{ server {address}; keepalive 64; }}
    server {{
        listen {port}; server_name {names};
        js_path {folder}; js_import node from node.js; js_set $edge_chain node.chain;
{variables}
        location / {{ js_content node.onRequest; }}
        location @origin {{
            js_header_filter node.onResponse;
            proxy_pass http://{id}; proxy_http_version 1.1; proxy_read_timeout {timeout}s;
            proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header {viewer} "";
            proxy_set_header X-Forwarded-For $edge_chain;
{headers}
        }}
    }}
"""
REFUSING = """
    server {{ listen {port}; server_name {names}; return {status} "{why}\\n"; }}
"""


@dataclass(frozen=True)
class Seen:
    """One distribution at one moment: code by event, headers that the cache's key has, and the store (None: gone)."""

    distribution: Distribution
    code: Mapping[str, str]
    forwarded: tuple[str, ...]
    store: Mapping[str, str] | None


class Looker:
    """Asks ministack."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def look(self) -> list[Seen]:
        """All distributions as they are now."""
        return [self._one(found) for found in self._aws.distributions()]

    def _one(self, found: Distribution) -> Seen:
        code, stores = {}, []
        for event, name in found.functions.items():
            code[event] = self._aws.get(f"/2020-05-31/function/{name}?Stage=LIVE").decode()
            described = self._aws.xml(f"function/{name}/describe?Stage=LIVE")
            stores += [one.text or "" for one in all_of(described, "KeyValueStoreARN")]
        policy = self._aws.xml(f"cache-policy/{found.cache_policy}").iter()
        headers = next((one for one in policy if one.tag.endswith("}Headers")), None)
        names = tuple(one.text or "" for one in all_of(headers, "Name")) if headers is not None else ()
        return Seen(found, code, names, self._store(stores[0]) if stores else {})

    def _store(self, arn: str) -> dict[str, str] | None:
        try:
            found: dict[str, list[dict[str, str]]] = json.loads(
                self._aws.get(f"/key-value-stores/{quote(arn, safe='')}/keys")
            )
        except HTTPError as error:
            if error.code in (404, 409):  # gone, or not READY
                return None
            raise
        return {item["Key"]: item["Value"] for item in found["Items"]}


class Node:
    """One nginx and its files."""

    def __init__(self, name: str, port: int, nginx: Path, module: Path) -> None:
        self.name, self.folder = name, FOLDER / name
        self._port, self._nginx, self._module = port, nginx, module
        self._history: dict[str, deque[tuple[float, Mapping[str, str] | None]]] = {}
        self._servers: Mapping[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def update(self, seen: list[Seen], lag: float, now: float) -> None:
        """Files first, then nginx, if what it has read is another now."""
        changed = False
        for one in seen:
            changed |= self._files(one)
            self._store(one, now - lag, now)
        servers = {one.distribution.id: self._server(one) for one in seen}
        changed |= (changed or servers != self._servers) and self._config(servers, seen)
        for gone in self._history.keys() - servers.keys():
            del self._history[gone]
            shutil.rmtree(self.folder / gone)
        if self._process is None:
            libc = ctypes.CDLL(None)
            command = self._command("nginx.conf")
            self._process = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM))
        elif changed:
            self._process.send_signal(signal.SIGHUP)
            print(f"edge: {self.name} has other code or settings", flush=True)

    def check(self) -> None:
        """SystemExit if it died."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise SystemExit(f"edge: {self.name} died with exit code {code}: see {self.folder}/error.log")

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _command(self, config: str) -> list[str]:
        errors = str(self.folder / "error.log")
        return [str(self._nginx), "-p", str(self.folder), "-e", errors, "-c", str(self.folder / config)]

    def _files(self, one: Seen) -> bool:
        folder, store = self.folder / one.distribution.id, self.folder / one.distribution.id / "store.json"
        helper = (SOURCES / "cloudfront").read_text().replace("STORE = ''", f"STORE = {json.dumps(str(store))}")
        known = {"id": one.distribution.id, "names": _literals(one), "forwarded": one.forwarded}
        files = {
            "cloudfront": helper,
            "node.js": (SOURCES / "node.js").read_text(),
            "distribution.js": f"export default {json.dumps(known)};\n",
        }
        for event, what in WITHOUT.items():
            code = one.code.get(event, f"function handler(event) {{ return event.{what}; }}")
            files[f"{event}.js"] = f"{code}\nexport default {{handler: handler}};\n"
        changed = [write(folder / name, content) for name, content in files.items()]
        return any(changed)

    def _store(self, one: Seen, before: float, now: float) -> None:
        """What was stored at `before`; a store that nobody has heard of yet is not there."""
        history = self._history.setdefault(one.distribution.id, deque([(0.0, None)]))
        if history[-1][1] != one.store:
            history.append((now, one.store))
        while len(history) > 1 and history[1][0] <= before:
            history.popleft()
        path = self.folder / one.distribution.id / "store.json"
        if (values := history[0][1]) is None:
            path.unlink(missing_ok=True)
        elif write(path, json.dumps(values)):
            print(f"edge: {self.name} reads {values.get('green_percentage', values)}", flush=True)

    def _server(self, one: Seen) -> str:
        found, names = one.distribution, _literals(one)
        if found.problem:
            return self._refusing(one, 502, found.problem)
        try:
            address = socket.gethostbyname(found.origin)
        except OSError:
            return self._refusing(one, 502, f"{found.origin} has no address")
        sent = {name: f'"{value}"' for name, value in found.headers.items()}
        sent |= {name: f"$edge_header_{place}" for place, name in enumerate(names)}
        return SERVER.format(
            id=found.id,
            address=f"{address}:{found.port}",
            port=self._port,
            names=" ".join(found.aliases),
            folder=self.folder / found.id,
            variables="\n".join(f"        js_var $edge_header_{place};" for place in range(len(names))),
            timeout=found.read_timeout,
            viewer=VIEWER,
            headers="\n".join(f"            proxy_set_header {name} {value};" for name, value in sent.items()),
        )

    def _refusing(self, one: Seen, status: int, why: str) -> str:
        names = " ".join(one.distribution.aliases)
        return REFUSING.format(port=self._port, names=names, status=status, why=why)

    def _config(self, servers: Mapping[str, str], seen: list[Seen]) -> bool:
        """Whether it is another one; a distribution whose functions do not compile refuses with 503."""
        wanted = dict(servers)
        self._servers = servers
        for one in seen:
            self._write("try.conf", {one.distribution.id: servers[one.distribution.id]})
            tried = subprocess.run([*self._command("try.conf"), "-t"], capture_output=True, text=True, check=False)
            if tried.returncode:
                print(f"edge: {self.name}, {one.distribution.id}: {tried.stderr.strip()}", flush=True)
                wanted[one.distribution.id] = self._refusing(one, 503, "The function is invalid or could not run")
        return self._write("nginx.conf", wanted)

    def _write(self, name: str, servers: Mapping[str, str]) -> bool:
        config = CONFIG.format(
            folder=self.folder, module=self._module, port=self._port, servers="\n".join(servers.values())
        )
        return write(self.folder / name, config)


def _literals(one: Seen) -> list[str]:
    """Texts in the functions that may be names of headers: nginx has to know which a function may set or remove."""
    found = set(re.findall(r"""['"]([a-z][a-z0-9-]*)['"]""", one.code.get("viewer-request", "")))
    return sorted(found - set(one.distribution.headers) - {VIEWER, "host", "cookie", "connection", "content-length"})


def main() -> int:
    """Until SIGTERM, or until a node dies."""
    nginx, module = find("nginx"), find("ngx_http_js_module.so")
    if nginx is None or module is None:
        raise SystemExit("edge: nginx with its js module is not here: run python3 -m lab.setup")
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(LAG, os.environ.get("LAB_EDGE_LAG", "").strip() or "60")
    looker = Looker(Aws(os.environ["AWS_ENDPOINT_URL"]))
    nodes = [Node(name, port, nginx, module) for name, port in NODES.items()]
    for node in nodes:
        node.folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    said = ""
    try:
        while True:
            now = time.time()
            try:
                seen = looker.look()
                for node in nodes:
                    node.update(seen, float(LAG.read_text()) if node.name == "edge_late" else 0, now)
                write(POLLED, str(now))
                trouble = ""
            except OSError as error:
                trouble = f"edge: nothing new: {error}"
            if trouble not in ("", said):
                print(trouble, flush=True)
            said = trouble
            for node in nodes:
                node.check()
            time.sleep(SECONDS)
    finally:
        for node in nodes:
            node.stop()


if __name__ == "__main__":
    sys.exit(main())
