"""What is recorded in mutants.toml: one one-line mistake for a line of the specification, and who must notice it.

Owns: the form of an entry and what makes it a bad one; which lines are open, that is marked by a test and without an
entry.
Never: runs anything.
Invariants: an entry changes one line of one file; a line of the specification has at most one entry; an entry that is
not drawn says why.
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
CATALOGUE: Final = Path(__file__).with_name("mutants.toml")
TIMEOUT_S: Final = 60.0
TIMEOUT_S_MAX: Final = 300.0
TOPS: Final = ("hypercluster/", "chaos/", "tests/")
FIELDS: Final = {"id", "file", "find", "replace", "tests", "why", "timeout_s", "hangs", "not_drawn"}


class CatalogueError(Exception):
    """An entry that can not be used; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`find` occurs once in `file` and becomes `replace`; then one of `tests` must fail."""

    spec_id: str
    file: str  # relative to the root
    find: str
    replace: str
    tests: tuple[str, ...]  # pytest node ids
    why: str  # what the mistake is
    timeout_s: float = TIMEOUT_S  # of one test
    hangs: bool = False  # the mistake shows as a test that never ends
    not_drawn: str = ""  # the reason why it is left out of draws, '' if it is not

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def mutated(self, text: str) -> str:
        """The file's text with the mistake. Raises CatalogueError."""
        occurrences = text.count(self.find)
        if occurrences != 1:
            raise CatalogueError(f"{self.spec_id}: find occurs {occurrences} times in {self.file}: {self.find!r}")
        changed = text.replace(self.find, self.replace)
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
        except SyntaxError as error:
            raise CatalogueError(f"{self.spec_id}: {self.file} does not compile with it: {error}") from error
        if same:
            raise CatalogueError(f"{self.spec_id}: it changes nothing that is run in {self.file}")
        return changed


@dataclass(frozen=True, slots=True)
class Catalogue:
    mutants: tuple[Mutant, ...]
    open: tuple[str, ...]  # marked lines without an entry: may only become fewer

    def find(self, spec_id: str) -> Mutant:
        for mutant in self.mutants:
            if mutant.spec_id == spec_id:
                return mutant
        known = ", ".join(mutant.spec_id for mutant in self.mutants)
        raise CatalogueError(f"{spec_id}: no mutation is recorded; there are {known}")

    def drawable(self) -> tuple[Mutant, ...]:
        return tuple(mutant for mutant in self.mutants if not mutant.not_drawn)


def one_line(text: str) -> bool:
    return bool(text) and "\n" not in text


def read_mutant(entry: dict[str, Any]) -> Mutant:
    name = entry.get("id", "an entry without an id")
    unknown = set(entry) - FIELDS
    lacking = {"id", "file", "find", "replace", "tests", "why"} - set(entry)
    if unknown or lacking:
        raise CatalogueError(f"{name}: unknown {sorted(unknown)}, lacking {sorted(lacking)}")
    mutant = Mutant(
        spec_id=entry["id"],
        file=entry["file"],
        find=entry["find"],
        replace=entry["replace"],
        tests=tuple(entry["tests"]),
        why=entry["why"],
        timeout_s=float(entry.get("timeout_s", TIMEOUT_S)),
        hangs=entry.get("hangs", False),
        not_drawn=entry.get("not_drawn", ""),
    )
    if not one_line(mutant.find) or not one_line(mutant.replace):
        raise CatalogueError(f"{name}: find and replace are one line each")
    if not mutant.tests or not mutant.why:
        raise CatalogueError(f"{name}: it names at least one test, and why says what the mistake is")
    if not 0 < mutant.timeout_s <= TIMEOUT_S_MAX:
        raise CatalogueError(f"{name}: timeout_s is above 0 and at most {TIMEOUT_S_MAX:.0f}")
    if not mutant.file.startswith(TOPS) or Path(mutant.file).name.startswith("test_"):
        raise CatalogueError(f"{name}: a mistake is made in {', '.join(TOPS)} and in no test: {mutant.file}")
    if mutant.file.startswith("tests/") and not mutant.spec_id.startswith("CH-"):
        raise CatalogueError(f"{name}: only how it is shown to hold (CH) has its mistakes below tests/")
    return mutant


def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Raises CatalogueError."""
    with path.open("rb") as file:
        content = tomllib.load(file)
    mutants = tuple(read_mutant(entry) for entry in content.get("mutant", []))
    ids = [mutant.spec_id for mutant in mutants]
    twice = sorted({spec_id for spec_id in ids if ids.count(spec_id) > 1})
    if twice:
        raise CatalogueError(f"{', '.join(twice)}: one entry a line of the specification")
    return Catalogue(mutants, tuple(content.get("open", [])))
