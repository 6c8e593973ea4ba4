"""Rules of the house that no linter knows: sizes that may only shrink, and words that have no place here.

The ratchets hold every exception by name with its present size: a file or function may not grow past it, and a
new one must keep to the limit.
"""

from __future__ import annotations

import ast
import json
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
RATCHET = pathlib.Path(__file__).with_name("size_ratchet.json")
BANNED_IMPORTS = {"pickle", "marshal", "shelve", "cPickle", "dill", "cloudpickle"}
MACHINE_PATHS = re.compile(r"/(?:work|home|root|Users)/\w|/tmp/w\b")


def python_files(*tops: str) -> Iterator[pathlib.Path]:
    for top in tops:
        for file in sorted((ROOT / top).rglob("*.py")):
            if "pb" not in file.relative_to(ROOT).parts:
                yield file


def sizes() -> dict[str, int]:
    """Name -> lines, for every file and function over its limit."""
    found: dict[str, int] = {}
    for file in python_files("hypercluster", "chaos"):
        name = str(file.relative_to(ROOT))
        text = file.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > FILE_LINES_MAX:
            found[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    found[f"{name}:{node.name}"] = length
    return found


def test_sizes_only_shrink() -> None:
    allowed: dict[str, int] = json.loads(RATCHET.read_text(encoding="utf-8"))
    grown = {name: size for name, size in sizes().items() if size > allowed.get(name, 0)}
    assert not grown, f"over {FILE_LINES_MAX} lines a file or {FUNCTION_LINES_MAX} a function (or past its ratchet)"


def test_ratchet_names_only_what_is_there() -> None:
    allowed: dict[str, int] = json.loads(RATCHET.read_text(encoding="utf-8"))
    loose = {name: size for name, size in allowed.items() if sizes().get(name, 0) < size}
    assert not loose, "these have shrunk: lower or remove their entries in size_ratchet.json"


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("top", ["hypercluster", "chaos", "tests"])
def test_no_pickle_is_imported(top: str) -> None:
    for file in python_files(top):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in BANNED_IMPORTS, f"{file}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.req("CL-1")
def test_pysyncobj_has_one_door() -> None:
    for file in python_files("hypercluster", "chaos"):
        if "raft" in file.relative_to(ROOT).parts:
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(?:import|from)\s+pysyncobj", text, re.M), f"{file} imports pysyncobj"


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(f)
        for f in python_files("hypercluster", "chaos")
        if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_no_machine_paths() -> None:
    """Paths of one machine have no place in code or docs."""
    suspects = [*python_files("hypercluster", "tests", "chaos"), *sorted((ROOT / "docs").rglob("*.md"))]
    found = [
        str(f) for f in suspects if f.name != "test_tidy.py" and MACHINE_PATHS.search(f.read_text(encoding="utf-8"))
    ]
    assert not found


def test_top_level_holds_only_what_a_reader_expects() -> None:
    expected = {
        "pyproject.toml", "proto", "hypercluster", "tests", "chaos", "ansible", "README.md", "Makefile", "docs",
        ".ci", "CHANGELOG.md", ".git", ".gitignore", "LICENSE",
    }  # fmt: skip
    ignored = {line.strip("/*\n") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    for entry in ROOT.iterdir():
        skipped = any(entry.name.startswith(i) or entry.match(f"*{i}") for i in ignored if i)
        assert entry.name in expected or skipped, f"{entry.name} does not belong at the top"


def test_every_test_marker_names_a_line_of_the_specification() -> None:
    known = set()
    for page in (ROOT / "docs" / "spec").glob("*.md"):
        known |= set(re.findall(r"^([A-Z]{1,4}-\d+)\s", page.read_text(encoding="utf-8"), re.M))
    for file in python_files("tests", "chaos"):
        for call in re.findall(r"mark\.req\(([^)]*)\)", file.read_text(encoding="utf-8")):
            for name in re.findall(r"[\"']([A-Z]{1,4}-\d+)[\"']", call):
                assert name in known, f"{file}: no line {name} in docs/spec"


@pytest.mark.parametrize("page", ["dependencies.md"])
def test_every_dependency_has_a_reason(page: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for requirement in wanted:
        name = re.split(r"[<>=!~ ]", requirement)[0]
        assert f"| {name} |" in text, f"{name} has no row in docs/{page}"
