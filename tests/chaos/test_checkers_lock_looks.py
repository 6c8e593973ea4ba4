"""Looks at all locks, and how much a long history must have met. Times are in milliseconds."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.checkers.locks import LEAST, LONG_NS, LocksChecker
from chaos.records import FAIL
from chaos.scenarios import SCENARIOS
from tests.chaos.checker_histories import MS, Book
from tests.chaos.test_checkers_locks import IMMEDIATE, Locks, held

pytestmark = pytest.mark.req("CH-6")


def row(token: int, *, key: str = "target/1", kind: str = "exclusive", state: str = "held", permits: int = 0) -> Any:
    return {"key": key, "kind": kind, "state": state, "token": token, "permits": permits}


def look(locks: Locks, called: int, *rows: Any, returned: int = 0) -> Locks:
    locks.book.note("look", called, returned or called + 10, None, list(rows), key="*", level="linearizable")
    return locks


def test_one_look_shows_holders_that_fit() -> None:
    queued = row(0, state="queued")
    assert look(held(), 3_000, row(7), queued).judged() == "yes"
    assert "2 holders in one look" in look(Locks(), 10, row(7), row(8)).words()
    assert look(Locks(), 10, row(7), row(8, key="target/2")).judged() == "yes"
    assert look(Locks(), 10, row(7, kind="shared"), row(8, kind="shared")).judged() == "yes"
    assert look(Locks(), 10, row(7, kind="shared"), row(8)).judged() == "no"
    permits = [row(token, kind="permit", permits=2) for token in (1, 2, 3)]
    assert look(Locks(), 10, *permits[:2]).judged() == "yes"
    assert "3 holders" in look(Locks(), 10, *permits).words()


def test_what_certainly_holds_is_there() -> None:
    assert "certain until" in look(held(), 3_000).words()
    assert look(held(), 9_000).judged() == "yes"  # it may be over by then
    assert look(held(), 8_945, returned=8_960).judged() == "yes"
    assert look(held().use("release", 2_990, 3_020, 7), 3_000).judged() == "yes"
    refused = held().use("release", 2_500, 2_510, 7, kind=FAIL, error="NO_QUORUM")
    assert look(refused, 3_000).judged() == "no"


def test_a_token_that_is_not_seen_any_more_is_over() -> None:
    def over() -> Locks:
        return look(held(), 9_500)

    assert over().use("write", 9_505, 9_600, 7).judged() == "yes"  # it may have come before
    assert "was over" in over().use("write", 9_520, 9_600, 7).words()
    assert over().use("write", 9_520, 9_600, 7, kind=FAIL, error="FENCED").judged() == "yes"
    renewed = over().use("renew", 9_520, 9_600, 7)
    assert any("was over" in words for words in LocksChecker().check(renewed.book.run()).evidence)
    assert "seen again" in look(over(), 9_520, row(7)).words()
    # Nobody was told of token 9, but it was seen.
    unheard = look(look(Locks(), 100, row(9)), 9_500)
    assert unheard.use("write", 9_400, 9_600, 9).judged() == "yes"
    assert "was over" in unheard.use("write", 9_520, 9_600, 9).words()


def test_what_was_given_back_is_not_seen_any_more() -> None:
    back = held().use("release", 3_000, 3_010, 7)
    assert look(back, 3_005, row(7)).judged() == "yes"
    assert "given back" in look(back, 3_020, row(7)).words()
    assert "renewed after" in held().use("release", 3_000, 3_010, 7).use("renew", 3_020, 3_030, 7).words()


def test_nobody_loses_a_lock_without_its_grace() -> None:
    def seen(state: str, gone: int) -> Locks:
        silent = look(Locks().acquire(0, 10, 7, queued_ns=5 * MS), 8_000, row(7, state=state))
        return look(silent, gone - 10)

    assert seen("held", 9_960).judged() == "yes"
    assert "it had no grace" in seen("held", 9_900).words()
    assert seen("grace", 8_100).judged() == "yes"
    given = look(Locks().acquire(0, 10, 7, queued_ns=5 * MS), 8_000, row(7)).use("release", 8_020, 8_030, 7)
    assert look(given, 8_500).judged() == "yes"


def test_tokens_that_were_seen_are_never_given_again() -> None:
    assert look(Locks(), 100, row(9)).acquire(120, 130, 10, **IMMEDIATE).judged() == "yes"
    assert "tokens fall" in look(Locks(), 100, row(9)).acquire(120, 130, 8, key="target/2", **IMMEDIATE).words()
    assert look(Locks(), 100, row(9)).acquire(105, 130, 8, key="target/2", **IMMEDIATE).judged() == "yes"


def test_a_lock_is_refused_to_another_worker_and_not_to_its_own() -> None:
    def refused(worker: str) -> Locks:
        more = {"kind": FAIL, "error": "FENCED", "extra": {"worker": worker}}
        return held().use("reclaim", 7_500, 7_510, 7, **more)

    assert refused("w2").judged() == "yes"
    assert "lost within" in refused("w1").words()
    counts = LocksChecker().check(look(refused("w2"), 7_600, row(7)).book.run()).counts
    assert counts["reclaims refused to another worker"] == 1
    counts = LocksChecker().check(look(refused("w2"), 9_600).book.run()).counts
    assert counts["reclaims refused to another worker"] == 0  # it may have been over


def test_a_release_that_is_fenced_in_time_is_a_loss() -> None:
    assert "lost within" in held().use("release", 3_000, 3_010, 7, kind=FAIL, error="FENCED").words()
    assert held().use("release", 9_000, 9_010, 7, kind=FAIL, error="FENCED").judged() == "yes"


def enough(*, without: str = "") -> Locks:
    """A long history with as much of everything as is asked for, and then one thing left out."""
    locks, at_ms, token = Locks(), 0, 10

    def times(what: str) -> int:
        return LEAST[what] - (what == without)

    for number in range(max(LEAST["late writes fenced"], LEAST["expiries"])):
        locks.acquire(at_ms, at_ms + 10, token, worker="w1", client_id=f"c{token}", **IMMEDIATE)
        if number < times("expiries"):
            look(locks, at_ms + 9_000)
        if number < times("late writes fenced"):
            locks.use("write", at_ms + 9_050, at_ms + 9_060, token, kind=FAIL, error="FENCED")
        if number >= times("expiries"):
            locks.use("release", at_ms + 9_100, at_ms + 9_110, token)
        at_ms, token = at_ms + 15_000, token + 1
    for number in range(LEAST["reclaims"]):
        locks.acquire(at_ms, at_ms + 10, token, worker="w1", client_id=f"c{token}", **IMMEDIATE)
        if number < times("reclaims refused to another worker"):
            more = {"kind": FAIL, "error": "FENCED", "extra": {"worker": "w2"}}
            locks.use("reclaim", at_ms + 6_200, at_ms + 6_210, token, **more)
            look(locks, at_ms + 6_220, row(token))
        if number < times("reclaims"):
            taken = {"extra": {"worker": "w1"}, "result": {"token": token + 1}}
            locks.use("reclaim", at_ms + 6_300, at_ms + 6_310, token, **taken)
            locks.use("release", at_ms + 6_400, at_ms + 6_410, token + 1)
        else:
            locks.use("release", at_ms + 6_400, at_ms + 6_410, token)
        at_ms, token = at_ms + 15_000, token + 2
    seen = sum(event.op == "look" and event.kind == "ok" for event in locks.book.events)
    end_ms = max(at_ms, LONG_NS // MS)
    for number in range(times("looks") - seen):
        look(locks, end_ms + number * 20)
    return locks


def test_a_long_history_must_have_met_what_it_is_to_show() -> None:
    assert enough().judged() == "yes", enough().words()
    for what in LEAST:
        found = LocksChecker().check(enough(without=what).book.run())
        assert found.outcome == "unknown" and found.words.startswith(f"{what}: {LEAST[what] - 1}"), what
    assert SCENARIOS["locks"].duration_s * 1_000 * MS >= LONG_NS, "the scenario itself has to meet it"


def test_a_look_that_says_too_little_is_not_judged() -> None:
    book = Book("locks", "target/1").note("look", 0, 1, None, [{"key": "target/1"}], key="*")
    assert LocksChecker().check(book.run()).outcome == "unknown"
