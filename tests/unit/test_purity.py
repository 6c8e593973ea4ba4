"""The replicated core is pure (D-4): a rule over its source, and a net around it while it runs.

The source rule is an allow-list of imports, and a list of what no linter sees: floats, true division, `hash()`,
`__import__`, iteration over sets, text methods that follow Unicode tables. It reads what a module says; the net
(purity_net.py) catches what it does.
"""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PURE = ("state_machine", "log")

IMPORTS = {
    "__future__", "binascii", "bisect", "blake3", "collections", "collections.abc", "contextlib", "dataclasses", "enum",
    "functools", "google.protobuf.message", "hashlib", "heapq", "itertools", "operator", "struct", "types", "typing",
}  # fmt: skip
OWN = ("errors", "limits", "log", "pb", "state_machine", "values")
# The leader alone runs these, before it proposes: what they answer is never compared between nodes (D-3).
LEADER_ONLY = {
    "log/admission.py": {"re"},
    "log/json_check.py": {"re", "json"},
    "log/entry.py": {"zstandard"},
}

CALLS = {
    "hash", "id", "open", "eval", "exec", "compile", "__import__", "input", "print", "float", "complex", "globals",
    "locals", "vars", "breakpoint", "round", "dir",
}  # fmt: skip
# Their answer depends on the Unicode version Python was built with, when they are asked about text.
UNICODE_METHODS = {
    "casefold", "lower", "upper", "title", "capitalize", "swapcase", "isalpha", "isalnum", "isdigit", "isdecimal",
    "isnumeric", "isidentifier", "isprintable", "isspace", "islower", "isupper", "istitle", "splitlines",
}  # fmt: skip
STRIPS = {"strip", "lstrip", "rstrip", "split", "rsplit"}  # without an argument they look for Unicode spaces
# Who consumes an iterable in an order that shows.
ORDERED_USES = {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "reversed", "bytes", "dict"}
SET_MAKERS = {"set", "frozenset"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}


class Impurities(ast.NodeVisitor):
    """Collects (line, what) of everything a pure module may not hold."""

    def __init__(self, tree: ast.Module, extra_imports: set[str]) -> None:
        self.found: list[tuple[int, str]] = []
        self._imports = IMPORTS | extra_imports
        self._sets = {name for node in ast.walk(tree) for name in _set_names(node)}
        self.visit(tree)

    def _say(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 0), what))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_import(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if module == "hypercluster":
            for alias in node.names:
                self._check_import(node, f"hypercluster.{alias.name}")
        else:
            self._check_import(node, module)

    def _check_import(self, node: ast.AST, name: str) -> None:
        parts = name.split(".")
        own = parts[0] == "hypercluster" and len(parts) > 1 and parts[1] in OWN
        if not own and name not in self._imports:
            self._say(node, f"import of {name}")

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float | complex):
            self._say(node, "a float")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in {"float", "complex"}:
            self._say(node, f"the type {node.id}")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Div):
            self._say(node, "true division")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Div):
            self._say(node, "true division")
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._check_order(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._check_order(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._check_order(node.value)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._check_order(node.value)
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        for generator in node.generators:  # into a set the order does not show
            self.visit(generator.iter)
        self.visit(node.elt)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Name(id=name):
                if name in CALLS:
                    self._say(node, f"{name}()")
                if name in ORDERED_USES:
                    for argument in node.args:
                        self._check_order(argument)
            case ast.Attribute(attr=method, value=owner):
                if method in UNICODE_METHODS or (method in STRIPS and not node.args):
                    self._say(node, f".{method}() on text")
                if method == "pop" and not node.args and self._is_set(owner):
                    self._say(node, "pop() of a set")
                if method in {"join", "extend"} and node.args:
                    self._check_order(node.args[0])
        self.generic_visit(node)

    def _check_order(self, node: ast.AST) -> None:
        if self._is_set(node):
            self._say(node, "iteration over a set")

    def _is_set(self, node: ast.AST) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id=name)):
                return name in SET_MAKERS
            case ast.Call(func=ast.Attribute(attr=method, value=owner)):
                return method in SET_METHODS and self._is_set(owner)
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.Sub() | ast.BitXor(), right=right):
                return self._is_set(left) or self._is_set(right)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name in self._sets
        return False


def _set_names(node: ast.AST) -> Iterator[str]:
    """Names and attributes that are given a set somewhere in the module."""
    targets: list[ast.expr] = []
    match node:
        case ast.AnnAssign(target=target, annotation=annotation) if _says_set(annotation):
            targets = [target]
        case ast.Assign(targets=several, value=ast.Set() | ast.SetComp()):
            targets = several
        case ast.Assign(targets=several, value=ast.Call(func=ast.Name(id=name))) if name in SET_MAKERS:
            targets = several
        case ast.arg(arg=name, annotation=annotation) if annotation is not None and _says_set(annotation):
            yield name
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id
        elif isinstance(target, ast.Attribute):
            yield target.attr


def _says_set(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).split("[")[0] in {"set", "frozenset", "Set", "AbstractSet"}


def impurities(source: str, name: str = "") -> list[tuple[int, str]]:
    return Impurities(ast.parse(source), LEADER_ONLY.get(name, set())).found


def pure_files() -> list[str]:
    top = ROOT / "hypercluster"
    return sorted(str(file.relative_to(top)) for package in PURE for file in (top / package).rglob("*.py"))


@pytest.mark.req("D-4")
@pytest.mark.parametrize("name", pure_files())
def test_the_core_says_nothing_impure(name: str) -> None:
    source = (ROOT / "hypercluster" / name).read_text(encoding="utf-8")
    assert impurities(source, name) == []


@pytest.mark.req("D-4")
@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import choice",
        "import hypercluster.storage.rocks",
        "from hypercluster import node",
        "import re",
        "x = 0.5",
        "x = a / b",
        "x /= 2",
        "def f(x: float) -> None: ...",
        "x = hash(key)",
        "x = __import__('os')",
        "x = open('f')",
        "for x in {1, 2}: pass",
        "for x in set(y): pass",
        "x = [y for y in frozenset(z)]",
        "x = list({1, 2})",
        "x = [*{1, 2}]",
        "x = b''.join({b'a', b'b'})",
        "seen: set[int] = make()\nfor x in seen: pass",
        "self.seen = set()\nx = tuple(self.seen)",
        "seen = {1, 2}\nx = seen.pop()",
        "a = {1}\nfor x in a | b: pass",
        "def f(names: frozenset[str]) -> None:\n    x = next(iter(names))",
        "x = text.lower()",
        "x = text.split()",
        "x = 1j",
    ],
)
def test_the_rule_finds_each_impurity(source: str) -> None:
    assert impurities(source)


@pytest.mark.parametrize(
    "source",
    [
        "from hypercluster.values import Index",
        "for x in sorted({1, 2}): pass",
        "x = 1 in {1, 2}",
        "x = {y for y in z}",
        "x = len(set(y))",
        "x = a // b",
        "x = text.strip('/')",
        "x = stack.pop()",
    ],
)
def test_the_rule_leaves_the_rest_alone(source: str) -> None:
    assert impurities(source) == []


def run_net(hash_seed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.unit.purity_net", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.req("D-4", "CL-17")
def test_apply_runs_with_nothing_impure_and_alike_under_every_hash_seed() -> None:
    runs = [run_net(seed) for seed in ("1", "2", "77")]
    assert [run.returncode for run in runs] == [0, 0, 0], runs[0].stderr
    assert len(runs[0].stdout.split()) == 4
    assert len({run.stdout for run in runs}) == 1


@pytest.mark.req("D-4")
@pytest.mark.parametrize("kind", ["clock", "randomness", "urandom", "file", "socket"])
def test_the_net_stops_a_machine_that_asks(kind: str) -> None:
    run = run_net("1", "--impure", kind)
    assert run.returncode != 0
    assert "ImpureError" in run.stderr


@pytest.mark.req("D-4")
@pytest.mark.parametrize("kind", ["hash", "set"])
def test_hash_seeds_give_a_machine_away(kind: str) -> None:
    assert len({run_net(str(seed), "--impure", kind).stdout for seed in range(1, 5)}) > 1
