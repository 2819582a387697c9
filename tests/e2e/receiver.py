"""`python -m tests.e2e.receiver ADDRESS PORT FILE`: writes each POST it gets to FILE, a line of JSON each."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """A webhook of Alertmanager that accepts everything."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        entry = {"path": self.path, "authorization": self.headers["authorization"], "body": body}
        with Path(sys.argv[3]).open("a") as told:
            told.write(json.dumps(entry) + "\n")
        self.send_response(200)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
