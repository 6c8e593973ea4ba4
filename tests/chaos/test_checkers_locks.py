"""Locks: hand-written histories, good and bad. Times are in milliseconds; TTL is 5 000, grace 2 000."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from chaos.checkers.locks import LocksChecker
from chaos.records import FAIL, INFO
from tests.chaos.checker_histories import Book

pytestmark = pytest.mark.req("CH-6")

IMMEDIATE: dict[str, Any] = {"immediate": True}


@dataclass
class Locks:
    """A history of one target, unless another is named."""

    book: Book = field(default_factory=lambda: Book("locks", "target/1"))

    def acquire(self, called: int, returned: int, token: int, *, kind: str = "exclusive", **extra: Any) -> Locks:
        key = extra.pop("key", None)
        extra = {"worker": "w1", **extra}
        asked, result = {"kind": kind, "wait": True}, {"token": token, "lock_id": token}
        self.book.note("acquire", called, returned, asked, result, key=key, extra=extra)
        return self

    def use(self, op: str, called: int, returned: int, token: int, **more: Any) -> Locks:
        result = more.pop("result", None)
        asked = {"token": token, "lock_id": token, "kind": "exclusive"}
        self.book.note(op, called, returned, asked, result, **more)
        return self

    def refused(self, called: int, returned: int) -> Locks:
        asked = {"kind": "exclusive", "wait": False}
        self.book.note("acquire", called, returned, asked, kind=FAIL, error="EWOULDBLOCK")
        return self

    def judged(self) -> str:
        return LocksChecker().check(self.book.run()).outcome

    def words(self) -> str:
        return LocksChecker().check(self.book.run()).words


def held() -> Locks:
    """Token 7, granted at once, renewed at 2 000: certain until 8 950."""
    return Locks().acquire(0, 10, 7, **IMMEDIATE).use("renew", 2_000, 2_010, 7)


def test_one_after_the_other_is_right() -> None:
    assert (
        held().use("write", 2_500, 2_510, 7).use("release", 3_000, 3_010, 7).acquire(3_020, 3_030, 8).judged() == "yes"
    )
    assert held().acquire(20, 9_100, 8).judged() == "yes"  # it waited until the first had expired
    shared = Locks().acquire(0, 10, 7, kind="shared", **IMMEDIATE).acquire(5, 20, 8, kind="shared", **IMMEDIATE)
    assert shared.use("write", 30, 40, 8).use("write", 50, 60, 7).judged() == "yes"


def test_two_holders_are_seen() -> None:
    assert "two holders" in held().acquire(3_000, 3_010, 8, **IMMEDIATE).words()
    assert held().use("release", 2_990, 3_100, 7).acquire(3_000, 3_010, 8, **IMMEDIATE).judged() == "yes"
    # Nothing is certain of a grant that was waited for, before its first renewal is answered.
    waited = Locks().acquire(0, 6_000, 7, queued_ns=5_000_000).acquire(6_100, 6_110, 8, **IMMEDIATE)
    assert waited.judged() == "yes"
    assert waited.use("renew", 6_050, 6_060, 7).judged() == "no"
    mixed = Locks().acquire(0, 10, 7, kind="shared", **IMMEDIATE).acquire(20, 30, 8, **IMMEDIATE)
    assert mixed.judged() == "no"
    elsewhere = held().acquire(3_000, 3_010, 8, key="target/2", **IMMEDIATE)
    assert elsewhere.judged() == "yes"


def test_permits_are_counted() -> None:
    def semaphore(count: int) -> str:
        locks = Locks()
        for number in range(count):
            locks.acquire(number * 10, number * 10 + 5, number + 1, kind="permit", permits=2, **IMMEDIATE)
        return locks.judged()

    assert (semaphore(2), semaphore(3)) == ("yes", "no")


def test_tokens_rise_and_are_given_once() -> None:
    first = held().use("release", 3_000, 3_010, 7)
    assert "tokens fall" in first.acquire(3_020, 3_030, 6).words()
    again = held().use("release", 3_000, 3_010, 7).acquire(3_020, 3_030, 7)
    assert "granted twice" in again.words()
    concurrent = Locks().acquire(0, 100, 8, key="target/2").acquire(50, 60, 7)
    assert concurrent.judged() == "yes"


def test_an_old_token_does_not_write() -> None:
    taken = held().acquire(20, 9_100, 8)
    assert taken.use("write", 9_200, 9_210, 7, kind=FAIL, error="FENCED").judged() == "yes"
    assert "an old token wrote" in held().acquire(20, 9_100, 8).use("write", 9_200, 9_210, 7).words()
    assert held().acquire(20, 9_100, 8).use("write", 9_050, 9_210, 7).judged() == "yes"  # it may have come before
    back = held().use("release", 3_000, 3_010, 7).use("write", 3_020, 3_030, 7)
    assert "after the lock was given back" in back.words()
    log = held().acquire(20, 9_100, 8)
    log.use("write", 9_000, 9_300, 7, extra={"log_index": 5}).use("write", 9_150, 9_200, 8, extra={"log_index": 4})
    assert "an older token writes" in log.words()


def test_an_old_token_is_seen_in_the_log_whatever_stands_between() -> None:
    locks = Locks().acquire(0, 10, 5, kind="shared", **IMMEDIATE).acquire(20, 9_100, 7)
    locks.acquire(20, 9_400, 8, kind="shared").use("write", 9_110, 9_900, 7, extra={"log_index": 3})
    locks.use("write", 9_410, 9_900, 8, extra={"log_index": 4})
    assert locks.judged() == "yes"
    assert "at log_index 5 an older token" in locks.use("write", 60, 9_900, 5, extra={"log_index": 5}).words()


def test_what_was_granted_unheard_may_have_been_shared() -> None:
    locks = Locks().acquire(100, 110, 8, kind="shared", **IMMEDIATE).use("write", 120, 130, 7, extra={"log_index": 2})
    locks.use("write", 115, 140, 8, extra={"log_index": 1})
    assert locks.judged() == "yes"
    alone = Locks().acquire(100, 110, 8, **IMMEDIATE).use("write", 120, 130, 7)
    assert "an old token wrote" in alone.words()


def test_who_renewed_in_time_is_not_fenced() -> None:
    assert held().use("write", 8_000, 8_010, 7, kind=FAIL, error="FENCED").judged() == "no"
    assert held().use("write", 8_940, 9_010, 7, kind=FAIL, error="FENCED").judged() == "yes"
    assert held().use("renew", 6_000, 6_010, 7, kind=FAIL, error="LOCK_LOST").judged() == "no"
    assert held().use("renew", 6_000, 6_010, 7, kind=FAIL, error="NO_QUORUM").judged() == "yes"
    unheard = Locks().acquire(0, 10, 7, **IMMEDIATE).use("renew", 4_000, 4_010, 7, kind=INFO)
    assert unheard.use("renew", 7_000, 7_010, 7, kind=FAIL, error="LOCK_LOST").judged() == "yes"


def test_nobody_is_refused_what_nobody_has() -> None:
    assert held().refused(3_000, 3_010).judged() == "yes"
    assert held().use("release", 2_100, 2_110, 7).refused(3_000, 3_010).judged() == "no"
    waiting = held().use("release", 2_100, 2_110, 7).acquire(2_050, 3_200, 8).refused(3_000, 3_010)
    assert waiting.judged() == "yes"
    lost = held().use("release", 2_100, 2_110, 7)
    lost.book.note("acquire", 2_200, 2_300, {"kind": "exclusive", "wait": False}, kind=INFO)
    assert lost.refused(3_000, 3_010).judged() == "yes"
    later = held().use("release", 2_100, 2_110, 7).refused(3_000, 3_010)
    later.book.note("acquire", 3_200, 3_300, {"kind": "exclusive", "wait": False}, kind=INFO)
    assert later.judged() == "no"


def test_the_queue_is_fair() -> None:
    def queue(called: int, **extra: Any) -> Locks:
        """Token 9 was known to wait from 1 000 on, token 8 was asked for at `called`."""
        first = held().use("release", 3_000, 3_010, 7)
        first.acquire(called, 3_050, 8, **extra).use("release", 3_100, 3_110, 8)
        return first.acquire(900, 3_200, 9, queued_ns=1_000 * 1_000_000)

    assert queue(950).judged() == "yes"
    assert "overtaken" in queue(1_100).words()
    assert queue(1_100, converted=True).judged() == "yes"


def test_a_lock_is_taken_over_by_its_worker_from_a_silent_client() -> None:
    def taken(worker: str, at: int) -> Locks:
        more = {"extra": {"worker": worker}, "result": {"token": 8}}
        return held().use("reclaim", at, at + 10, 7, **more)

    assert taken("w1", 7_200).judged() == "yes"
    assert "took over" in taken("w2", 7_200).words()
    assert "was heard" in taken("w1", 6_000).words()
    assert taken("w1", 7_200).use("write", 7_300, 7_310, 7, kind=FAIL, error="FENCED").judged() == "yes"


def test_only_what_the_cluster_takes_for_the_holder_is_a_sign_of_it() -> None:
    def taken(by: str) -> Locks:
        locks = Locks().acquire(0, 10, 7, client_id="one", **IMMEDIATE)
        locks.use("write", 3_000, 3_010, 7, extra={"client_id": by})
        return locks.use("reclaim", 7_000, 7_010, 7, extra={"worker": "w1"}, result={"token": 8})

    assert taken("another").judged() == "yes"
    assert "was heard" in taken("one").words()


def test_what_does_not_say_its_token_is_not_judged() -> None:
    book = Book("locks", "target/1").note("acquire", 0, 1, {"kind": "exclusive"}, {})
    assert LocksChecker().check(book.run()).outcome == "unknown"
    assert LocksChecker().check(Book("locks").run()).outcome == "unknown"
