"""Stand-in for `pulumi-language-python`: starts Python programs and policy packs for the Pulumi engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2

from lab.plugins import protos

pb = protos.stub("language_pb2")
rpc = protos.stub("language_pb2_grpc")
plugin = protos.stub("plugin_pb2")

VERSION = "3.259.0"
_ALREADY_SHOWN = 32  # exit code of a program that told the user what is wrong
_GRACE_SECONDS = 5.0


def interpreter(info: Any) -> str:
    """The Python of the program: its `virtualenv` option, relative to the project, or the one running here."""
    virtualenv = info.options.fields["virtualenv"].string_value if "virtualenv" in info.options.fields else ""
    if not virtualenv:
        return sys.executable
    chosen = Path(info.root_directory, virtualenv, "bin", "python")
    if not chosen.is_file():
        raise FileNotFoundError(f"runtime option virtualenv is {virtualenv!r}, but there is no {chosen}")
    return str(chosen)


class LanguageHost(rpc.LanguageRuntimeServicer):  # type: ignore[misc,name-defined]
    """One host process serves one engine."""

    def __init__(self, exec_file: str, engine: str) -> None:
        self._exec_file = exec_file
        self._engine = engine
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = threading.Event()

    def Handshake(self, request: Any, context: Any) -> Any:
        self._engine = request.engine_address
        return pb.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin.PluginInfo(version=VERSION)

    def GetRequiredPlugins(self, request: Any, context: Any) -> Any:
        return pb.GetRequiredPluginsResponse()

    def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        """None: the engine asks for a provider when the first of its resources comes, and finds it on PATH."""
        return pb.GetRequiredPackagesResponse()

    def About(self, request: Any, context: Any) -> Any:
        version = ".".join(str(part) for part in sys.version_info[:3])
        return pb.AboutResponse(executable=sys.executable, version=version, metadata={"stand-in": "canary lab"})

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        from importlib.metadata import distributions

        wanted = {"pulumi", "pulumi-kubernetes", "pulumi-aws", "pulumi-policy"}
        found = {(item.metadata["Name"] or "").replace("_", "-"): item.version for item in distributions()}
        names = sorted(name for name in found if request.transitiveDependencies or name in wanted)
        return pb.GetProgramDependenciesResponse(
            dependencies=[pb.DependencyInfo(name=name, version=found[name]) for name in names]
        )

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        text = b"The lab's set-up installs the dependencies: run `python3 -m lab.setup`.\n"
        yield pb.InstallDependenciesResponse(stdout=text)

    def stop_all(self) -> None:
        self._cancelled.set()
        for process in list(self._running):
            _stop(process)

    def Cancel(self, request: Any, context: Any) -> Any:
        self.stop_all()
        return empty_pb2.Empty()

    def Run(self, request: Any, context: Any) -> Any:
        arguments = {
            "monitor": request.monitor_address,
            "engine": self._engine,
            "project": request.project,
            "root_directory": request.info.root_directory,
            "stack": request.stack,
            "pwd": request.pwd,
            "dry_run": "true" if request.dryRun else "false",
            "parallel": str(request.parallel),
            "organization": request.organization,
        }
        flags = [text for key, value in arguments.items() if value for text in (f"--{key}", value)]
        environment = {
            **os.environ,
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        }
        try:
            command = [
                interpreter(request.info),
                self._exec_file,
                *flags,
                request.info.entry_point,
                *request.args,
            ]
            # Its own session: Ctrl-C in the user's terminal then reaches the engine alone, which ends the program in
            # order. SIGTERM ends Python silently where SIGINT would print a traceback of whatever it was doing.
            program = subprocess.Popen(command, env=environment, start_new_session=True)
        except OSError as error:
            return pb.RunResponse(error=f"problem executing program: {error}")
        code = self._wait(program, context)
        if code in (0, _ALREADY_SHOWN):
            return pb.RunResponse(bail=code == _ALREADY_SHOWN)
        if self._cancelled.is_set() and code == -signal.SIGTERM:
            return pb.RunResponse(error="the program was cancelled")
        return pb.RunResponse(error=f"program exited with non-zero exit code: {code}")

    def _wait(self, program: subprocess.Popen[bytes], context: Any) -> int:
        self._running.add(program)
        context.add_callback(lambda: _stop(program))
        if self._cancelled.is_set():
            _stop(program)
        code = program.wait()
        self._running.discard(program)
        return code

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:
        """A policy pack, or a plugin written in Python; its output goes to the engine as it comes."""
        folder = request.info.program_directory
        analyzer = request.kind == "analyzer"
        tail = ["-u", "-m", "pulumi.policy", *request.args, folder] if analyzer else ["-u", folder, *request.args]
        environment = {**os.environ, **dict(pair.split("=", 1) for pair in request.env)}
        try:
            process = subprocess.Popen(
                [interpreter(request.info), *tail],
                cwd=folder if analyzer else request.pwd,
                env=environment,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"problem executing plugin program: {error}")
            return
        self._running.add(process)
        context.add_callback(lambda: _stop(process))
        yield from _output(process)
        self._running.discard(process)
        yield pb.RunPluginResponse(exitcode=process.wait() & 0xFF)


def _output(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """Both streams, line by line, in the order in which the lines come."""
    import queue

    lines: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def pump(name: str, stream: Any) -> None:
        for line in stream:
            lines.put(pb.RunPluginResponse(**{name: line}))
        lines.put(None)

    streams = {"stdout": process.stdout, "stderr": process.stderr}
    for name, stream in streams.items():
        threading.Thread(target=pump, args=(name, stream), daemon=True).start()
    open_streams = len(streams)
    while open_streams:
        item = lines.get()
        if item is None:
            open_streams -= 1
        else:
            yield item


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        timer = threading.Timer(_GRACE_SECONDS, process.kill)
        timer.daemon = True
        timer.start()


def main(arguments: list[str]) -> None:
    """Arguments as the engine gives them (options, then its address), and `--exec FILE` from the wrapper."""
    exec_file = os.environ.get("LAB_PULUMI_EXEC", "")
    rest = list(arguments)
    if "--exec" in rest:
        at = rest.index("--exec")
        exec_file = exec_file or rest[at + 1]
        del rest[at : at + 2]
    if rest in (["-version"], ["--version"]):
        print(f"v{VERSION} (stand-in)")
        return
    if not Path(exec_file).is_file():
        raise SystemExit(f"pulumi-language-python-exec not found at {exec_file!r}: set LAB_PULUMI_EXEC to its path")
    engine = next((text for text in reversed(rest) if not text.startswith("-")), "")
    host = LanguageHost(exec_file, engine)
    protos.serve(lambda server: rpc.add_LanguageRuntimeServicer_to_server(host, server), host.stop_all)
