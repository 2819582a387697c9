"""Starts a plugin: `python -m lab.plugins.start MODULE ARGUMENTS…`. Every `pulumi up` waits for three such starts.

A third of a start went into what grpc and protobuf import for callers of another kind: grpc's asynchronous half, and
protobuf's messages in pure Python. Empty modules stand for those here, in the plugin's own process.
"""

from __future__ import annotations

import gc
import importlib
import sys
import types

if __name__ == "__main__":
    gc.set_threshold(100_000)  # imports make much that is never garbage
    for name in ("grpc.aio", "google.protobuf.internal.python_message"):
        sys.modules[name] = types.ModuleType(name)
    importlib.import_module(f"lab.plugins.{sys.argv[1]}").main(sys.argv[2:])
