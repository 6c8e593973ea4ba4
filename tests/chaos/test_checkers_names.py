"""Names in directories and elements of sets: hand-written histories, good and bad."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.records import FAIL, INFO
from tests.chaos.checker_finals import hub_key
from tests.chaos.checker_histories import Book

pytestmark = pytest.mark.req("CH-5", "CH-6")


# --- names ----------------------------------------------------------------------------------------


def test_one_of_many_creates_a_name() -> None:
    def rivals(*kinds: str) -> str:
        book = Book("files", "create/1")
        for kind in kinds:
            book.note("create", 0, 10, kind=kind, error="EEXIST" if kind == FAIL else "")
        return CHECKERS["paths"].check(book.run()).outcome

    assert rivals("ok", FAIL, FAIL) == rivals(INFO, FAIL, FAIL) == rivals(INFO, INFO, "ok") == "yes"
    assert rivals("ok", "ok", FAIL) == "no"
    assert rivals(FAIL, FAIL) == "no"


def test_names_are_removed_once_and_renames_replace() -> None:
    def made() -> Book:
        return Book("files", "own/1").note("create", 0, 1)

    def judged(book: Book) -> str:
        return CHECKERS["paths"].check(book.run()).outcome

    gone = made().note("unlink", 2, 5)
    assert judged(gone.note("unlink", 2, 5, kind=FAIL, error="ENOENT")) == "yes"
    assert judged(made().note("unlink", 2, 5).note("unlink", 2, 5)) == "no"
    assert judged(made().note("unlink", 2, 5, kind=FAIL, error="ENOENT")) == "no"
    assert judged(made().note("unlink", 2, 5, kind=FAIL, error="NO_QUORUM")) == "yes"

    def moved(*reads: str | None) -> str:
        book = (
            Book("files", "target/0").note("create", 0, 1, key="source/a").note("overwrite", 2, 3, "a", key="source/a")
        )
        book.note("rename", 4, 9, "a", "a", extra={"source": "source/a"})
        for number, read in enumerate(reads):
            book.note("read_file", 10 + number, 10 + number, None, read, level="linearizable")
        return judged(book)

    assert moved("a", "a") == "yes"
    assert moved("a", None) == moved("b") == moved("") == "no"
    again = Book("files", "target/0").note("create", 0, 1, key="source/a")
    again.note("rename", 4, 9, "a", extra={"source": "source/a"}).note(
        "rename", 4, 9, "a", extra={"source": "source/a"}
    )
    assert judged(again) == "no"
    assert judged(Book("files", "target/0").note("rename", 4, 9, "a")) == "unknown"


def test_overwritten_files_hold_the_last_token() -> None:
    def read(value: str, level: str = "linearizable") -> str:
        book = (
            Book("files", "over/0").note("create", 0, 1).note("overwrite", 2, 3, "a:1").note("overwrite", 4, 8, "b:1")
        )
        book.note("overwrite", 9, 10, "c:1", kind=INFO).note("read_file", 12, 13, None, value, level=level)
        return CHECKERS["paths"].check(book.run()).outcome

    assert read("b:1") == read("c:1") == read("a:1", "bounded_stale") == "yes"
    assert read("a:1") == read("") == read("d:1") == "no"


def test_changes_of_a_name_stand_in_the_order_of_the_log() -> None:
    def made(first: int, second: int) -> str:
        book = Book("files", "own/1").note("create", 0, 9, extra={"log_index": first})
        return CHECKERS["paths"].check(book.note("unlink", 1, 8, extra={"log_index": second}).run()).outcome

    assert made(4, 7) == "yes"
    assert made(7, 4) == made(4, 4) == "no"


# --- sets -----------------------------------------------------------------------------------------


def set_run(there: list[int], *listings: tuple[int, list[int]], spoil: dict[str, Any] | None = None) -> tuple[str, str]:
    """1 and 2 are added, 3 may be, 4 is not, 5 is added from 50 to 60; listings at a moment."""
    book = Book("set", "s0").note("add", 0, 1, 1, 1).note("add", 2, 3, 2, 2).note("add", 4, 5, 3, kind=INFO)
    book.note("add", 6, 7, 4, kind=FAIL, error="NO_QUORUM").note("add", 50, 60, 5, 5)
    for at, found in listings:
        book.note("read_all", at, at + 5, None, found, level="linearizable")
    keys = {f"s0-{number}": hub_key(number) for number in there} | (spoil or {})
    verdict = CHECKERS["set"].check(book.run({"hub": {"metadata": keys}}))
    return verdict.outcome, verdict.words


def test_sets() -> None:
    assert set_run([1, 2, 5], (10, [1, 2]), (70, [1, 2, 5]))[0] == "yes"
    assert set_run([1, 2, 3, 5], (10, [1, 2]), (52, [1, 2, 3, 5]))[0] == "yes"
    assert "lacks 2" in set_run([1, 5])[1]
    assert "lacks 2" in set_run([1, 2, 5], (10, [1]))[1]
    assert "lacks 3" in set_run([1, 2, 5], (10, [1, 2, 3]))[1]
    assert "lacks 3" in set_run([1, 2, 3, 5], (10, [1, 2, 3]), (20, [1, 2]))[1]
    assert "4 is there" in set_run([1, 2, 4, 5])[1]
    assert "5 is there" in set_run([1, 2, 5], (10, [1, 2, 5]))[1]
    assert "nobody added it" in set_run([1, 2, 5, 9])[1]
    assert "2 times" in set_run([1, 2, 5], (10, [1, 2, 2]))[1]
    assert "written 2 times" in set_run([1, 5], spoil={"s0-2": hub_key(2, 2)})[1]
    assert "holds 7" in set_run([1, 5], spoil={"s0-2": hub_key(7)})[1]
    assert set_run([1, 2, 5], spoil={"s0-2": {"value": 2}})[0] == "unknown"
