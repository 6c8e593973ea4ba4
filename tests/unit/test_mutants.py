"""The recorded mistakes fit the tree as it is: each can be made, names marked tests, and no marked line lacks one.

Whether they are caught is for `make mutants` to show; here is what a change of the product or of a test may break.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import witness
from tests.mutants.catalogue import ROOT, CatalogueError, Mutant, read_catalogue, read_mutant
from tests.mutants.run import DRAW

OPEN_MAX = 1  # marked lines without a mistake: a number that may only fall
CATALOGUE = read_catalogue()
BY_ID = {mutant.spec_id: mutant for mutant in CATALOGUE.mutants}
GOOD = {"id": "D-1", "file": "hypercluster/a.py", "find": "a", "replace": "b", "tests": ["tests/t.py"], "why": "why"}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every test that collects, with the lines it is marked with. One that does not is lacking below."""
    out = tmp_path_factory.mktemp("witness") / "witness.json"
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-p", witness.__name__]
    env = {**os.environ, witness.OUT: str(out)}
    done = subprocess.run([*command, "tests"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert out.exists(), done.stdout[-2_000:] + done.stderr[-2_000:]
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    found: dict[str, Any] = content["collected"]
    return found


@pytest.mark.req("CH-12")
@pytest.mark.parametrize("spec_id", BY_ID)
def test_each_mistake_can_be_made(spec_id: str) -> None:
    mutant = BY_ID[spec_id]
    mutant.mutated((ROOT / mutant.file).read_text(encoding="utf-8"))


@pytest.mark.req("CH-12")
def test_no_mistake_is_a_name_that_is_not_there(tmp_path: Path) -> None:
    """That would be caught by anything, and show nothing."""
    for mutant in CATALOGUE.mutants:
        text = mutant.mutated((ROOT / mutant.file).read_text(encoding="utf-8"))
        (tmp_path / f"{mutant.spec_id}.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F821,F823",
        "--no-cache",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.req("CH-12")
def test_every_test_that_is_named_is_marked_with_its_line_and_is_no_long_one(collected: dict[str, Any]) -> None:
    wrong: list[str] = []
    for mutant in CATALOGUE.mutants:
        for test in mutant.tests:
            named = {k: v for k, v in collected.items() if k == test or k.startswith((test + "[", test + "::"))}
            file = test.partition("::")[0]
            if (ROOT / file).is_file() and not any(k.startswith(f"{file}::") for k in collected):
                continue  # this machine lacks what the whole module needs, and pytest has left it out
            if not named:
                wrong.append(f"{mutant.spec_id}: there is no {test}")
            wrong += [
                f"{mutant.spec_id}: {k} is not marked with it"
                for k, v in named.items()
                if mutant.spec_id not in v["ids"]
            ]
            wrong += [f"{mutant.spec_id}: {k} is a long one" for k, v in named.items() if v["long"]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.req("CH-12")
def test_every_marked_line_has_a_mistake(collected: dict[str, Any]) -> None:
    """Write one for each line named here in tests/mutants/mutants.toml; `open` there takes no new ones."""
    marked = {spec_id for item in collected.values() for spec_id in item["ids"]}
    lacking = marked - set(BY_ID)
    assert lacking <= set(CATALOGUE.open), f"marked and without a mistake: {sorted(lacking - set(CATALOGUE.open))}"
    assert not set(CATALOGUE.open) & set(BY_ID), "these have one now: take them from `open`"
    assert len(CATALOGUE.open) <= OPEN_MAX
    print(f"{len(marked)} marked lines, {len(BY_ID)} mistakes, open: {', '.join(CATALOGUE.open)}")


def test_there_are_enough_to_draw_from() -> None:
    assert len(CATALOGUE.drawable()) >= DRAW
    assert all(mutant.not_drawn == "" or len(mutant.not_drawn) > 20 for mutant in CATALOGUE.mutants)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"find": "a\nb"}, "one line each"),
        ({"find": ""}, "one line each"),
        ({"replace": "a\nb"}, "one line each"),
        ({"tests": []}, "at least one test"),
        ({"why": ""}, "at least one test"),
        ({"timeout_s": 1_000}, "at most 300"),
        ({"file": "setup.py"}, "a mistake is made in"),
        ({"file": "tests/unit/test_a.py"}, "in no test"),
        ({"file": "tests/fakes/a.py"}, "only how it is shown to hold"),
        ({"line": 7}, "unknown ['line']"),
    ],
)
def test_a_bad_entry_is_named_with_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    read_mutant(GOOD)
    with pytest.raises(CatalogueError, match="D-1: ") as error:
        read_mutant({**GOOD, **changes})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("find", "replace", "words"),
    [
        ("x", "y", "occurs 0 times"),
        ("a", "b", "occurs 2 times"),
        ("1", "(", "does not compile"),
        ("1", "1  # why", "changes nothing"),
    ],
)
def test_a_mistake_that_can_not_be_made_is_named(find: str, replace: str, words: str) -> None:
    mutant = Mutant("D-1", "hypercluster/a.py", find, replace, ("tests/t.py",), "why")
    with pytest.raises(CatalogueError, match=words):
        mutant.mutated("a = 1\na = 2\n")
