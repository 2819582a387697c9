"""`python -m tests.mutants [FILE…]`: how many small faults in the rules some test notices; prints those that none does.

Each fault is one changed operator, constant or call in the source.  A child process takes it into the loaded module and
runs the tests of these rules, so a fault costs about a second.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from policies import weights, windows

ROOT = Path(__file__).parent.parent
TESTS = {
    weights: ["tests/unit/test_transitions.py"],
    windows: ["tests/unit/test_windows.py", "-k", "not nothing_opens"],  # which takes ten times as long as the rest
}
LIMIT = 240
"""Seconds; a fault that makes a loop endless is noticed by this."""

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
CALLED = {"any": "all", "all": "any", "min": "max", "max": "min"}


def _faults(node: ast.AST) -> Iterator[ast.AST]:
    """The node, each time with one fault in it."""

    def but(**fields: object) -> ast.AST:
        other = copy.copy(node)
        for key, value in fields.items():
            setattr(other, key, value)
        return other

    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if type(operator) in COMPARED:
                yield but(ops=[*node.ops[:index], COMPARED[type(operator)](), *node.ops[index + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield but(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for index in range(len(node.values)):
            rest = [*node.values[:index], *node.values[index + 1 :]]
            yield rest[0] if len(rest) == 1 else but(values=rest)
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        yield but(op=COMPUTED[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield but(body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield but(value=not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLED:
        yield but(func=ast.Name(CALLED[node.func.id], ast.Load()))


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """(line, what it was and is, module) for each fault in functions and classes."""
    tree = ast.parse(source)
    for parent in list(ast.walk(tree)):
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns"):  # nobody runs those
                continue
            inside = isinstance(value, list)
            for index, node in enumerate(value if inside else [value]):
                for fault in _faults(node) if isinstance(node, ast.expr) else ():
                    told = f"{ast.unparse(node)}  ->  {ast.unparse(fault)}"
                    if inside:
                        value[index] = fault
                    else:
                        setattr(parent, name, fault)
                    yield node.lineno, told, ast.fix_missing_locations(copy.deepcopy(tree))
                    if inside:
                        value[index] = node
                    else:
                        setattr(parent, name, node)


def noticed(module: ModuleType, tree: ast.Module | None) -> bool:
    """True when a test fails with `tree` for the module's code (None: as it is)."""
    child = os.fork()
    if child == 0:
        code = 2
        signal.alarm(LIMIT)
        os.nice(5)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                if tree is not None:
                    exec(compile(tree, str(module.__file__), "exec"), module.__dict__)
                code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *TESTS[module]]))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def main(names: list[str]) -> int:
    """Prints the survivors and the figures; 1 where less than nine of ten are noticed."""
    os.chdir(ROOT)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("few", max_examples=8, phases=phases, database=None)
    hypothesis.settings.load_profile("few")
    worst = 1.0
    for module in TESTS:
        path = Path(str(module.__file__))
        if names and path.name not in names:
            continue
        if noticed(module, None):
            raise SystemExit(f"{path.name}: its tests fail without any fault; repair them first")
        total = found = 0
        for line, told, tree in mutants(path.read_text()):
            total += 1
            if noticed(module, tree):
                found += 1
            else:
                print(f"{path.name}:{line}: nobody notices {told}", flush=True)
        worst = min(worst, found / total)
        print(f"{path.name}: {found} of {total} noticed, {100 * found / total:.1f} %", flush=True)
    return 0 if worst >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
