"""How the set-up runs its steps: progress shown, commands that end with it, locks that outlive a kill.

Standard library only, as `lab.setup` itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lab.paths import CACHE, ROOT


class SetupError(Exception):
    """One step of the set-up cannot be done; the text says why and what would help."""


class Stopped(Exception):
    """The user stopped the set-up."""


class Progress:
    """Says what is going on: on a terminal in one line, elsewhere with a line per task every few seconds."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._tasks: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @contextlib.contextmanager
    def task(self, name: str, note: str) -> Iterator[Callable[[str], None]]:
        """Shows `name` as going on; the function that it gives changes the note beside it."""
        started = time.monotonic()

        def say(text: str) -> None:
            with self._lock:
                self._tasks[name] = (started, text)

        say(note)
        self._print(f"{name}: {note}")
        try:
            yield say
            self._print(f"{name}: ready after {time.monotonic() - started:.0f} s")
        finally:
            with self._lock:
                del self._tasks[name]

    def _print(self, text: str) -> None:
        with self._lock:
            print(f"{self._clear()}lab: {text}", file=sys.stderr, flush=True)

    def _clear(self) -> str:
        return "\r\033[K" if self._tty else ""

    def _report(self) -> None:
        while not self._done.wait(1 if self._tty else 10):
            with self._lock:
                now = time.monotonic()
                texts = [f"{name}: {note}, {now - since:.0f} s" for name, (since, note) in self._tasks.items()]
                if self._tty:
                    width = shutil.get_terminal_size().columns - 1
                    print(
                        f"{self._clear()}lab: {' | '.join(texts)}"[: width + len(self._clear())],
                        end="",
                        file=sys.stderr,
                    )
                else:
                    print("".join(f"lab: {text}\n" for text in texts), end="", file=sys.stderr)
                sys.stderr.flush()
        if self._tty:
            print(self._clear(), end="", file=sys.stderr, flush=True)


class Runner:
    """Runs commands: shows the output of one that fails, and ends all of them when the user stops."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.stopped = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            for process in self._running:
                process.send_signal(signal.SIGINT)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        lock: int | None = None,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], object] = str,
    ) -> str:
        """Runs it and returns its standard output; SetupError with the last lines when it fails.

        The child holds the lock too: if this process is killed, the next set-up waits until nobody writes.
        """
        words = [str(word) for word in command]
        last: deque[str] = deque(maxlen=60)
        with tempfile.TemporaryFile("w+") as output:
            with self._lock:
                if self.stopped.is_set():
                    raise Stopped
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    pass_fds=() if lock is None else (lock,),
                )
                self._running.add(process)
            assert process.stderr is not None
            for line in process.stderr:
                last.append(line.rstrip())
                on_line(line.rstrip())
            status = process.wait()
            with self._lock:
                self._running.discard(process)
            output.seek(0)
            text = output.read()
        if self.stopped.is_set():
            raise Stopped
        if status != 0:
            shown = "\n".join(f"    {line}" for line in [*text.splitlines()[-40:], *last])
            raise SetupError(f"`{' '.join(words)}` in {cwd} exited {status}:\n{shown}")
        return text

    @contextlib.contextmanager
    def locked(self, name: str, say: Callable[[str], None]) -> Iterator[int]:
        """Holds the lock of that name; tells when another set-up has it."""
        folder = CACHE / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    say("waiting for another set-up that is at it")
                    if self.stopped.wait(0.5):
                        raise Stopped from None
            try:
                yield file.fileno()
            finally:
                # Said aloud, because a grandchild that outlives its parent may still have the file open.
                fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def made_aside(target: Path) -> Iterator[Path]:
    """A fresh folder that becomes `target` once the block is through; what a killed run left is removed."""
    for left in CACHE.glob(f".{target.name}.*"):
        shutil.rmtree(left)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=CACHE))
    try:
        yield aside
        aside.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)  # asked to make it again, so something is missing in it
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
