"""Stack files (`Pulumi.<stack>.yaml`): read fast and with line numbers, edited so that comments and order stay.

Nothing is decrypted.  A secret shows as `SEALED` and a hash of its ciphertext: that tells whether it was changed, and
no more.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from rollout.cli import Exit, Stop

PROJECT = "canary"
SEALED = "sealed-"

Keys = str | Sequence[str | int]
"""A key of the project (`weight`), or the way to a value in it: `("services", "web", "canary", "image")`.  Keys of
other projects are written with their prefix (`kubernetes:context`)."""

_INDENTS = ((2, 4, 2), (2, 2, 0), (4, 6, 4), (4, 4, 0), (4, 4, 2))
"""Of mappings, of sequences, and of the dash in those, as people write them."""


class StackFile:
    """One stack file.  `config` is what stands under that key, `settings_raw` the project's part of it as
    `core.checks.parse` takes it; `text` follows every `set`, and nothing is written before `save`."""

    def __init__(self, path: Path, text: str, name: str | None = None) -> None:
        self.path, self.text, self.name = path, text, name or str(path)
        self.stack = path.name.removeprefix("Pulumi.").removesuffix(".yaml").removesuffix(".yml")
        self._loaded = text
        self._read()

    def _read(self) -> None:
        from core import checks

        try:
            root = yaml.compose(self.text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self.stop(mark.line + 1 if mark else 1, f"is no YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise self.stop(1, f"is no YAML: {str(error).splitlines()[0]}") from None
        found = dict(self._pairs(root)) if root is not None else {}
        self._config = next((value for key, value in found.items() if key.value == "config"), None)
        pairs = list(self._pairs(self._config)) if self._config is not None and not _is_null(self._config) else []
        self.config: dict[str, Any] = {key.value: self._value(value) for key, value in pairs}
        scalars = {key.value: "" if _is_null(value) else value.value for key, value in pairs if _is_scalar(value)}
        self.settings_raw = checks.raw(self.config | scalars, PROJECT)

    def stop(self, line: int, text: str) -> Stop:
        """The error for what is wrong in `line`."""
        return Stop(Exit.BAD_INPUT, f"{self.name}:{line}: {text}")

    def line(self, keys: Keys) -> int:
        """Number of the line where a value is written, or, if it is not there, what would hold it."""
        at, line = self._config, self._config.start_mark.line if self._config else 0
        for part in _in_file(keys):
            if isinstance(at, yaml.SequenceNode) and isinstance(part, int) and part < len(at.value):
                at = at.value[part]
                line = at.start_mark.line
            elif isinstance(at, yaml.MappingNode):
                pair = next((pair for pair in self._pairs(at) if pair[0].value == str(part)), None)
                if pair is None:
                    break
                at, line = pair[1], pair[0].start_mark.line
            else:
                break
        return line + 1

    def set(self, keys: Keys, value: object) -> None:
        """Sets a value and makes what has to hold it; None takes it out.  `save` writes it.

        Raises `Stop` where something else stands in the way.
        """
        way = _in_file(keys)
        editor, data = self._editor()
        if data.get("config") is None:
            data["config"] = {}
        at: Any = data["config"]
        for part in way[:-1]:
            if value is None and isinstance(at, dict) and part not in at:
                return
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
            if not isinstance(at, dict | list):
                raise self.stop(self.line(keys), f"{part} holds a value, and {way[-1]} cannot be set in it")
            if anchor := getattr(getattr(at, "anchor", None), "value", None):
                shared = f"{part} is shared under the YAML anchor &{anchor}: {way[-1]} would change too; write it out"
                raise self.stop(self.line(keys), shared)
        if value is not None:
            at[way[-1]] = value
        elif way[-1] in at or isinstance(at, list):
            del at[way[-1]]  # type: ignore[arg-type]
        self.text = _dumped(editor, data)
        self._read()

    def save(self) -> None:
        """Writes the file, whole or not at all.  Raises `Stop` if somebody else has written it since it was read."""
        target = self.path.resolve()
        if target.exists() and target.read_text() != self._loaded:
            raise self.stop(1, "was changed by somebody else meanwhile; nothing was written, run again")
        try:
            handle, made = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                with os.fdopen(handle, "w") as out:
                    out.write(self.text)
                if target.exists():
                    shutil.copymode(target, made)
                os.replace(made, target)
            finally:
                Path(made).unlink(missing_ok=True)
        except OSError as error:
            raise self.stop(1, f"cannot be written: {error.strerror}; use a checkout that can be") from None
        self._loaded = self.text

    def _editor(self) -> tuple[Any, Any]:
        """ruamel's reader, which costs 40 times as much, with the indents that change the fewest lines."""
        from ruamel.yaml import YAML

        best: tuple[int, Any, Any] | None = None
        for mapping, sequence, offset in _INDENTS:
            editor = YAML()
            editor.preserve_quotes, editor.width = True, 1 << 20
            editor.indent(mapping=mapping, sequence=sequence, offset=offset)
            data = editor.load(self.text) or {}
            same = _dumped(editor, data).splitlines()
            changed = sum(one != other for one, other in zip(same, self.text.splitlines(), strict=False))
            if best is None or changed < best[0]:
                best = changed, editor, data
            if not changed:
                break
        assert best is not None
        return best[1:]

    def _pairs(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Keys and values of a mapping; what is merged into it (`<<`) comes first."""
        if not isinstance(node, yaml.MappingNode):
            raise self.stop(node.start_mark.line + 1, "must be a mapping, keys with values")
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from self._pairs(one)
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise self.stop(key.start_mark.line + 1, f"{key.value} is there twice; keep one")
            seen.add(key.value)
            yield key, value

    def _value(self, node: Any) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._value(one) for one in node.value]
        if isinstance(node, yaml.MappingNode):
            found = {key.value: value for key, value in self._pairs(node)}
            if found.keys() == {"secure"}:
                return SEALED + hashlib.sha256(str(found["secure"].value).encode()).hexdigest()[:16]
            return {key: self._value(value) for key, value in found.items()}
        return _scalar(node)


def load(path: Path) -> StackFile:
    """The stack file at `path`.  Raises `Stop` with one line when it cannot be read."""
    try:
        return StackFile(path, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise Stop(Exit.BAD_INPUT, f"{path}: cannot be read: {why}") from None


_QUOTED = ("'", '"', "|", ">")


def _in_file(keys: Keys) -> list[str | int]:
    first, *more = [keys] if isinstance(keys, str) else keys
    return [first if ":" in str(first) else f"{PROJECT}:{first}", *more]


def _is_scalar(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _is_null(node: Any) -> bool:
    return _is_scalar(node) and node.style not in _QUOTED and node.value in ("", "~", "null", "Null", "NULL")


def _scalar(node: Any) -> Any:
    """A scalar as the engine reads it: `yes` and dates are text, and nothing is octal."""
    text: str = node.value
    if node.style in _QUOTED or node.tag == "tag:yaml.org,2002:str":
        return text
    if _is_null(node):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?", text) else text


def _dumped(editor: Any, data: Any) -> str:
    out = io.StringIO()
    editor.dump(data, out)
    return out.getvalue()
