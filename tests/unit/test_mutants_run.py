"""The runner of recorded mistakes over a small checkout of its own: what it calls caught, surviving and broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.waiting import eventually
from tests.mutants.catalogue import ROOT, Mutant
from tests.mutants.run import Result, Verdict, judge_all, main
from tests.mutants.trial import Copy, Ended, judge

PRODUCT = """
import math

def add(one, other):
    return one + other

def half(number):
    return number // 2
"""
TESTS = """
import pytest
from hypercluster.sums import add, half

@pytest.fixture
def three():
    assert half(6) == 3
    return 3

def test_add():
    assert add(2, 3) == 5

def test_add_nothing():
    assert add(0, 0) == 0

def test_loop():
    number = 8
    while number:
        number = half(number)

def test_with_fixture(three):
    assert add(three, 0) == 3

def test_wrong():
    assert add(1, 1) == 3

@pytest.mark.skip(reason="not here")
def test_skipped():
    assert add(1, 1) == 3
"""
NAMED = "tests/test_sums.py::"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as git knows it: a package, its tests, the witness."""
    root = tmp_path_factory.mktemp("checkout")
    for name, text in {
        "hypercluster/__init__.py": "",
        "hypercluster/sums.py": PRODUCT,
        "tests/__init__.py": "",
        "tests/test_sums.py": TESTS,
        "tests/mutants/__init__.py": "",
        "pyproject.toml": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "tests/mutants/witness.py", root / "tests/mutants/witness.py")
    (root / "not-known-to-git").write_text("", encoding="utf-8")
    for command in (["init", "-q"], ["add", "hypercluster", "tests", "pyproject.toml"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def mutant(find: str, replace: str, *tests: str, timeout_s: float = 20, hangs: bool = False) -> Mutant:
    names = tuple(NAMED + test for test in tests)
    return Mutant("D-1", "hypercluster/sums.py", find, replace, names, "why", timeout_s, hangs)


def judged(root: Path, *mutants: Mutant) -> list[Result]:
    before = (root / "hypercluster/sums.py").read_text(encoding="utf-8")
    found = list(judge_all(mutants, root))
    assert (root / "hypercluster/sums.py").read_text(encoding="utf-8") == before
    return found


@pytest.mark.req("CH-12")
def test_a_mistake_that_a_test_notices_is_caught(root: Path) -> None:
    [first, second] = judged(root, mutant("one + other", "one - other", "test_add"), mutant("2", "3", "test_add"))
    assert (first.verdict, second.verdict) == (Verdict.CAUGHT, Verdict.SURVIVED)
    assert "test_add" in first.words and "AssertionError" in first.words


@pytest.mark.req("CH-12")
def test_a_mistake_that_no_test_notices_survives(root: Path) -> None:
    [result] = judged(root, mutant("one + other", "one - other", "test_add_nothing"))
    assert (result.verdict, result.words) == (Verdict.SURVIVED, "1 tests passed")


@pytest.mark.req("CH-12")
@pytest.mark.parametrize(
    ("find", "replace", "test", "words"),
    [
        ("import math", "import nothing_of_that_name", "test_add", "does not import"),
        ("one + other", "one + others", "test_add", "NameError"),
        ("number // 2", "number // 3", "test_with_fixture", "test_with_fixture"),
        ("one + other", "one - other", "test_wrong", "without the mistake"),
        ("one + other", "one - other", "test_skipped", "is skipped here"),
        ("one + other", "one - other", "test_absent", "without the mistake"),
        ("def", "der", "test_add", "occurs 2 times"),
    ],
)
def test_what_shows_nothing_is_broken(root: Path, find: str, replace: str, test: str, words: str) -> None:
    [result] = judged(root, mutant(find, replace, test))
    assert result.verdict is Verdict.BROKEN
    assert words in result.words


@pytest.mark.req("CH-12")
@pytest.mark.parametrize(("hangs", "verdict"), [(True, Verdict.CAUGHT), (False, Verdict.BROKEN)])
def test_a_test_that_hangs_counts_only_where_that_is_expected(root: Path, hangs: bool, verdict: Verdict) -> None:
    [result] = judged(root, mutant("number // 2", "number / 1", "test_loop", timeout_s=0.5, hangs=hangs))
    assert result.verdict is verdict
    assert "Timeout" in result.words


@pytest.mark.req("CH-12")
def test_no_compiled_form_outlives_a_change(root: Path) -> None:
    """A mistake of the same size, made within the same second, would run in its place."""
    copy = Copy(root)
    try:
        compiled = Path(py_compile.compile(str(copy.tree / "hypercluster/sums.py"), doraise=True) or "")
        assert compiled.is_relative_to(copy.tree) and compiled.exists()
        copy.replace("hypercluster/sums.py", PRODUCT.replace("+", "-"))
        assert not compiled.exists()
    finally:
        copy.remove()


@pytest.mark.req("CH-12")
def test_another_package_than_the_copy_s_is_not_tested(root: Path, tmp_path: Path) -> None:
    """The installed one would notice nothing, or something else."""
    content = {"import_error": "", "origin": str(root / "hypercluster/sums.py"), "errors": [], "reports": []}
    trial = judge(content, mutant("one + other", "one - other", "test_add"), tmp_path)
    assert trial.ended is Ended.BROKEN
    assert "not from the copy" in trial.words


@pytest.mark.req("CH-12")
async def test_whoever_looks_no_further_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    """A test that hangs would otherwise be waited for, or go on in a copy that nobody takes away."""
    catalogue, copies = tmp_path / "mutants.toml", tmp_path / "copies"
    copies.mkdir()
    hangs = ENTRY.format("D-1", "number // 2", "number / 1", NAMED + "test_loop") + "timeout_s = 200\nhangs = true\n"
    catalogue.write_text(hangs, encoding="utf-8")
    command = [sys.executable, "-m", "tests.mutants.run", "--ids", "D-1", "--jobs", "1"]
    command += ["--catalogue", str(catalogue), "--root", str(root)]
    environment = {**os.environ, "TMPDIR": str(copies)}
    runner = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment)
    try:
        await eventually(lambda: is_mutated(copies) and processes_in(copies), "a mistake is tested", 60)
        runner.terminate()
        async with asyncio.timeout(30):
            await runner.wait()
    finally:
        if runner.returncode is None:
            runner.kill()
            await runner.wait()
    assert runner.returncode == 143
    assert not processes_in(copies)
    assert list(copies.iterdir()) == []


def is_mutated(copies: Path) -> bool:
    found = next(copies.glob("*/tree/hypercluster/sums.py"), None)
    return found is not None and "number / 1" in found.read_text(encoding="utf-8")


def processes_in(directory: Path) -> list[str]:
    """Processes whose working directory is below this one."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append(process.name)
    return found


ENTRY = (
    '[[mutant]]\nid = "{}"\nfile = "hypercluster/sums.py"\nfind = "{}"\nreplace = "{}"\ntests = ["{}"]\nwhy = "why"\n'
)


@pytest.mark.req("CH-12")
def test_the_command_draws_by_seed_and_fails_on_a_survivor(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = root.parent / "mutants.toml"
    caught = [ENTRY.format(f"D-{n}", "one + other", "one - other", NAMED + "test_add") for n in (1, 2, 3)]
    catalogue.write_text("\n".join(caught), encoding="utf-8")
    options = ["--catalogue", str(catalogue), "--root", str(root)]
    drawn = []
    for _ in range(2):
        assert main(["--draw", "2", "--seed", "7", *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "2 caught, 0 SURVIVED, 0 BROKEN"
        drawn.append([line.split()[0] for line in lines[1:-1]])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    survivor = ENTRY.format("D-4", "one + other", "one - other", NAMED + "test_add_nothing")
    catalogue.write_text(survivor, encoding="utf-8")
    assert main(["--ids", "D-4", *options]) == 1
    assert "SURVIVED" in capsys.readouterr().out
    assert main(["--ids", "D-9", *options]) == 2
    assert main(["--draw", "2", *options]) == 2
    assert capsys.readouterr().out == ""
