"""Levels of reads, indexes in real time, and progress: hand-written histories, good and bad."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.checkers.levels import STALENESS_UNKNOWN_MS, TOLERANCE_MS
from chaos.checkers.progress import UNKNOWN_SHARE_MAX
from chaos.records import FAIL, INFO, OK
from chaos.seams import Finished
from chaos.workloads import WORKLOADS
from tests.chaos.checker_histories import Book, draw_register

pytestmark = pytest.mark.req("CH-5", "CH-6")


def two_writes() -> Book:
    """Version 5 at index 10 from 0 to 10 ms, version 9 at index 20 from 100 to 110 ms."""
    book = Book().write(0, 10, 1, 5, extra={"raft_index": 10}, process="w")
    return book.write(100, 110, 2, 9, extra={"raft_index": 20}, process="w")


def stale(book: Book, called: int, value: int | None, version: int, staleness_ms: int | None, **more: Any) -> Book:
    extra = {"staleness_ms": staleness_ms} if staleness_ms is not None else {}
    extra |= {"raft_index": more.pop("index", 10)} | more.pop("extra", {})
    return book.read(called, called + 5, value, version, level="bounded_stale", extra=extra, **more)


def lin(book: Book, called: int, returned: int, value: int | None, version: int, index: int = 20) -> Book:
    return book.read(called, returned, value, version, level="linearizable", extra={"raft_index": index})


GOOD = {
    "linearizable and fresh": lin(two_writes(), 120, 125, 2, 9),
    "linearizable beside the write": lin(two_writes(), 105, 108, 1, 5, 10),
    "as stale as it claims": stale(two_writes(), 200, 1, 5, 95),
    "within the tolerance": stale(two_writes(), 200, 1, 5, 90 - TOLERANCE_MS),
    "of unknown age": stale(two_writes(), 9_000, 1, 5, STALENESS_UNKNOWN_MS),
    "nothing yet, long ago": stale(two_writes(), 200, None, 0, 195, index=9),
    "leader-local, however old": two_writes().read(900, 901, 1, 5, level="leader_local", extra={"raft_index": 10}),
    "an unknown write was read": lin(two_writes().write(200, 210, 3, kind=INFO), 220, 230, 3, 12, 25),
    "min_index kept": stale(two_writes(), 200, 2, 9, 500, index=21, process="w", extra={"min_index": 20}),
}

BAD = {
    "a stale linearizable read": (lin(two_writes(), 120, 125, 1, 5), "a stale read"),
    "linearizable reads go back": (
        lin(lin(two_writes(), 102, 104, 2, 9), 105, 108, 1, 5, 10),
        "a stale read",
    ),
    "behind what a follower showed": (
        lin(stale(two_writes(), 101, 2, 9, 0, index=20), 107, 109, 1, 5, 10),
        "a stale read",
    ),
    "staler than it claims": (stale(two_writes(), 200, 1, 5, 89 - TOLERANCE_MS), "staler than the"),
    "a value that nobody wrote": (lin(two_writes(), 120, 125, 7, 9), "nobody wrote"),
    "the value of a failed write": (
        two_writes()
        .write(200, 210, 3, kind=FAIL, error="NO_QUORUM")
        .read(220, 221, 3, 12, level="leader_local", extra={"raft_index": 30}),
        "a write that failed",
    ),
    "before it was written": (
        Book().read(0, 5, 1, 5, level="leader_local").write(10, 20, 1, 5),
        "before it was written",
    ),
    "one value, two versions": (lin(two_writes(), 120, 125, 2, 10), "two versions"),
    "an index without its write": (
        two_writes().read(900, 901, 1, 5, level="leader_local", extra={"raft_index": 20}),
        "without a write at or below it",
    ),
    "below min_index": (
        stale(two_writes(), 200, 1, 5, 500, index=19, process="w", extra={"min_index": 20}),
        "asked for 20",
    ),
    "behind its own read": (
        stale(
            stale(two_writes(), 120, 2, 9, 500, index=15, process="p"),
            200,
            1,
            5,
            500,
            index=16,
            process="p",
            extra={"min_index": 15},
        ),
        "goes back",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_levels_accept(name: str) -> None:
    verdict = CHECKERS["levels"].check(GOOD[name].run())
    assert verdict.outcome == "yes", verdict


@pytest.mark.parametrize("name", BAD)
def test_levels_refuse(name: str) -> None:
    book, words = BAD[name]
    verdict = CHECKERS["levels"].check(book.run())
    assert verdict.outcome == "no" and any(words in evidence for evidence in verdict.evidence), verdict


def test_levels_say_unknown_without_versions_or_reads() -> None:
    levels = CHECKERS["levels"]
    assert levels.check(Book().run()).outcome == "unknown"
    assert levels.check(two_writes().run()).outcome == "unknown"
    assert levels.check(two_writes().note("read", 200, 201, None, 2, level="linearizable").run()).outcome == "unknown"
    assert levels.check(two_writes().read(200, 201, 2, 9, level="fresh").run()).outcome == "unknown"


def test_levels_accept_what_a_register_can_do_and_refuse_what_goes_back() -> None:
    refused = 0
    for seed in range(150):
        rng = random.Random(f"levels {seed}")
        events = draw_register(rng, 60, 5)
        run = Finished(events, {}, Path("/nonexistent"), 20.0)
        verdict = CHECKERS["levels"].check(run)
        assert verdict.outcome == "yes", f"seed {seed}: {verdict}"
        reads = [n for n, e in enumerate(events) if e.op == "read" and e.kind == OK]
        at = reads[-1]
        older = [n for n in reads if events[n].extra["version"] < events[at].extra["version"]]
        if not older:
            continue
        events[at] = replace(events[at], value=events[older[0]].value, extra=events[older[0]].extra)
        spoiled = Finished(events, {}, Path("/nonexistent"), 20.0)
        wrong = CHECKERS["levels"].check(spoiled).outcome == "no"
        refused += wrong
        assert not wrong or CHECKERS["register"].check(spoiled).outcome == "no", f"seed {seed}"
    assert refused > 50


def files_book() -> Book:
    book = Book("files", "over/0").note("create", 0, 10, extra={"log_index": 4, "raft_index": 10})
    book.note("overwrite", 20, 30, "a:1", "a:1", extra={"log_index": 6, "raft_index": 12})
    return book.note("overwrite", 100, 110, "a:2", "a:2", extra={"log_index": 9, "raft_index": 20})


def look(book: Book, called: int, value: str | None, level: str, staleness_ms: int = 0, index: int = 12) -> Book:
    extra = {"raft_index": index, "staleness_ms": staleness_ms} | ({"absent": True} if value is None else {})
    return book.note("read_file", called, called + 5, None, value, level=level, extra=extra)


def test_levels_of_files_that_are_written_whole() -> None:
    levels = CHECKERS["levels"]
    for good in (
        look(files_book(), 200, "a:2", "linearizable", index=20),
        look(files_book(), 200, "a:1", "bounded_stale", 95),
        look(files_book(), 200, "", "bounded_stale", 175, 11),
        look(files_book(), 200, None, "bounded_stale", 195, 9),
    ):
        assert levels.check(good.run()).outcome == "yes", levels.check(good.run())
    for bad in (
        look(files_book(), 200, "a:1", "linearizable"),
        look(files_book(), 200, "a:1", "bounded_stale", 10),
        look(files_book(), 200, "", "bounded_stale", 195),
        look(files_book(), 200, None, "linearizable", 0, 9),
        look(files_book(), 200, "b:9", "leader_local"),
    ):
        assert levels.check(bad.run()).outcome == "no", levels.check(bad.run())


def test_a_file_written_by_an_unknown_operation_gets_its_version_from_the_log() -> None:
    def book() -> Book:
        held = files_book().note("overwrite", 200, 210, "a:3", kind=INFO, extra={"client_id": "cc", "client_seq": 3})
        return look(look(held, 220, "a:3", "linearizable", index=30), 240, "a:2", "linearizable", index=20)

    line = {"log_index": 12, "raft_index": 30, "client_id": "cc", "client_seq": 3, "root": ""}
    final = {"workspaces": {"w": {"log": [line], "root": {}, "tree": {}, "files": {}}}}
    verdict = CHECKERS["levels"].check(book().run(final))
    assert verdict.outcome == "no" and "a stale read" in verdict.words


def test_indexes_rise_with_real_time() -> None:
    check = CHECKERS["index_order"].check

    def book(first: int, second: int, log_first: int = 0, log_second: int = 0) -> Book:
        held = Book("files", "a").note("create", 0, 10, extra={"raft_index": first, "log_index": log_first or first})
        more = {"raft_index": second, "log_index": log_second or second}
        return held.note("create", 20, 30, key="b", extra=more)

    assert check(book(5, 6).run()).outcome == "yes"
    assert check(book(6, 5).run()).outcome == "no"
    assert check(book(5, 5, 8, 9).run()).outcome == "no", (
        "what is acknowledged can not share an entry with what comes later"
    )
    assert check(book(5, 6, 8, 7).run()).outcome == "no"
    beside = Book("files", "a").note("create", 0, 10, extra={"raft_index": 6, "log_index": 6})
    assert check(beside.note("create", 5, 30, key="b", extra={"raft_index": 5, "log_index": 5}).run()).outcome == "yes"
    twice = Book("files", "a").note("create", 0, 10, extra={"raft_index": 6, "log_index": 6})
    assert check(twice.note("create", 5, 30, key="b", extra={"raft_index": 6, "log_index": 6}).run()).outcome == "no"
    for level, expected in (("linearizable", "no"), ("bounded_stale", "yes"), ("leader_local", "yes")):
        read = book(5, 6).note("read", 40, 41, None, 1, key="r", level=level, extra={"raft_index": 5})
        assert check(read.run()).outcome == expected
    assert check(Book().run()).outcome == "unknown"


def busy(workload: str, leave_out: str = "") -> Book:
    book = Book(workload)
    for number, op in enumerate(sorted(WORKLOADS[workload].ops) * 3):
        book.note(op, number * 10, number * 10 + 5, kind=FAIL if op == leave_out else OK)
    return book


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_progress_asks_for_a_success_of_every_operation(workload: str) -> None:
    check = CHECKERS["progress"].check
    assert check(busy(workload).run()).outcome == "yes"
    for op in WORKLOADS[workload].ops:
        verdict = check(busy(workload, op).run())
        assert verdict.outcome == "unknown" and f"{op} of {workload} never succeeded" in verdict.words
    only = sorted(WORKLOADS[workload].ops)[0]
    if len(WORKLOADS[workload].ops) > 1:
        assert check(Book(workload).note(only, 0, 1).run()).outcome == "unknown"


def test_progress_asks_for_known_outcomes_and_for_workloads_that_were_to_run(tmp_path: Path) -> None:
    check = CHECKERS["progress"].check
    assert check(Book().run()).outcome == "unknown"
    book = busy("set")
    known = len(book.operations())
    unknown = int(known * UNKNOWN_SHARE_MAX / (1 - UNKNOWN_SHARE_MAX)) + 1
    for number in range(unknown):
        book.note("add", 1_000 + number, 1_001 + number, kind=INFO)
    assert "ended unknown" in check(book.run()).words
    (tmp_path / "run.json").write_text(json.dumps({"workloads": ["set", "counter"]}))
    named = replace(busy("set").run(), directory=tmp_path)
    verdict = check(named)
    assert verdict.outcome == "unknown" and "of counter never succeeded" in verdict.words


def test_files_whose_name_is_taken_away_are_left_to_others() -> None:
    def absent(book: Book) -> str:
        return CHECKERS["levels"].check(look(book, 200, None, "linearizable", index=20).run()).outcome

    assert absent(files_book()) == "no"
    assert absent(files_book().note("unlink", 150, 160, extra={"log_index": 12})) == "unknown"
    moved = files_book().note("rename", 150, 160, "a:2", key="target/0", extra={"source": "over/0", "log_index": 12})
    assert absent(moved) == "unknown"
