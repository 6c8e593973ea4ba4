"""The search for an order: hand-written histories, and drawn ones against a search that tries everything."""

from __future__ import annotations

import random
import time
from collections import Counter as Tally
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import pytest

from chaos.checkers.keyed import COUNTER, REGISTER, Linearizable
from chaos.checkers.linear import Bound, Model, search
from chaos.checkers.models import Counter, Register, versions_told
from chaos.checkers.operations import Operation, join
from chaos.records import INFO, OK, Event
from tests.chaos.checker_histories import Book, draw_register

pytestmark = pytest.mark.req("CH-5", "CH-6")

GOOD = {
    "one after the other": Book().write(0, 1, 1, 5).read(2, 3, 1, 5).write(4, 5, 2, 9).read(6, 7, 2, 9),
    "a read beside a write sees either": Book().write(0, 1, 1, 5).write(2, 8, 2, 9).read(3, 4, 2, 9).read(5, 6, 2, 9),
    "absent before the first write": Book().read(0, 1, None, 0).write(2, 3, 1, 5),
    "an unknown write that happened": Book().write(0, 1, 1, 5).write(2, 3, 2, kind=INFO).read(9, 10, 2, 7),
    "an unknown write that did not": Book().write(0, 1, 1, 5).write(2, 3, 2, kind=INFO).read(9, 10, 1, 5),
    "an unknown write that happens late": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, kind=INFO)
    .read(9, 10, 1, 5)
    .write(11, 12, 3, 6)
    .read(13, 14, 2, 8),
    "a write that is still open": Book().write(0, 1, 1, 5).write(2, 3, 2, kind="").read(9, 10, 2, 7),
    "one of two compare-and-sets": Book()
    .write(0, 1, 1, 5)
    .cas(2, 4, 5, 2, 6)
    .cas(2, 4, 5, 3, kind="fail", error="PRECONDITION_FAILED")
    .read(5, 6, 2, 6),
    "a compare-and-set of what is absent": Book().cas(0, 1, 0, 1, 4).read(2, 3, 1, 4),
    "refused because of an unknown write": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, kind=INFO)
    .cas(4, 5, 5, 3, kind="fail", error="PRECONDITION_FAILED"),
    "a failed write is not there": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, kind="fail", error="NO_QUORUM")
    .read(4, 5, 1, 5),
    "other levels are left to others": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, 6)
    .read(4, 5, 1, 5, level="bounded_stale"),
    "an unknown write that is better kept for later": Book()
    .write(0, 0, 1, kind=INFO)
    .write(0, 20, 1)
    .write(1, 21, 9)
    .write(2, 3, 7)
    .read(5, 10, 1)
    .write(30, 31, 8)
    .read(32, 33, 1),
    "a compare-and-set upon an unknown write": Book()
    .write(0, 1, 1, kind=INFO)
    .read(2, 3, 1, 8)
    .cas(4, 5, 8, 2, kind=INFO)
    .read(6, 7, 2, 9),
}

BAD = {
    "a stale read": Book().write(0, 1, 1, 5).write(2, 3, 2, 9).read(4, 5, 1, 5),
    "a lost write": Book().write(0, 1, 1, 5).read(2, 3, None, 0),
    "two compare-and-sets both win": Book().write(0, 1, 1, 5).cas(2, 4, 5, 2, 6).cas(2, 4, 5, 3, 7),
    "a failed write is read": Book().write(0, 1, 1, 5).write(2, 3, 2, kind="fail", error="NO_QUORUM").read(4, 5, 2, 6),
    "a read of what nobody wrote": Book().write(0, 1, 1, 5).read(2, 3, 7, 5),
    "reads go back": Book().write(0, 1, 1, 5).write(2, 9, 2, 6).read(3, 4, 2, 6).read(5, 6, 1, 5),
    "a version that falls": Book().write(0, 1, 1, 5).write(2, 3, 2, 4),
    "a version that two writes have": Book().write(0, 1, 1, 5).write(2, 3, 2, 5),
    "an unknown write happens twice": Book()
    .write(0, 1, 1, kind=INFO)
    .read(2, 3, 1, 5)
    .write(4, 5, 2, 6)
    .read(6, 7, 1, 7),
    "an unknown write happens before its call": Book().read(0, 1, 1, 5).write(2, 3, 1, kind=INFO),
    "an unknown write that happened is gone": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, kind=INFO)
    .read(4, 5, 2, 6)
    .read(6, 7, 1, 5),
    "refused though nothing had changed": Book()
    .write(0, 1, 1, 5)
    .cas(2, 3, 5, 2, kind="fail", error="PRECONDITION_FAILED"),
    "refused because of a version that is not there": Book()
    .write(0, 1, 1, 5)
    .cas(2, 3, 4, 2, 7, kind="fail", error="PRECONDITION_FAILED"),
    "refused though it was told the expected version": Book()
    .write(0, 1, 1, 5)
    .write(2, 3, 2, kind=INFO)
    .cas(4, 5, 8, 2, 8, kind="fail", error="PRECONDITION_FAILED"),
    "a compare-and-set upon a version that is past": Book().write(0, 1, 1, 5).write(2, 3, 2, 6).cas(4, 5, 5, 3, 7),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_accepted(name: str) -> None:
    verdict = REGISTER.check(GOOD[name].run())
    assert verdict.outcome == "yes", verdict


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_refused_with_the_operation_that_does_not_fit(name: str) -> None:
    book = BAD[name]
    verdict = REGISTER.check(book.run())
    assert verdict.outcome == "no", verdict
    assert any(f"no order admits {o.describe()}" in verdict.evidence[0] for o in book.operations())


def test_the_evidence_names_the_stale_read_and_what_came_before() -> None:
    verdict = REGISTER.check(BAD["a stale read"].run())
    (evidence,) = verdict.evidence
    assert "no order admits p4 read r0-1 None -> 1, version 5 (from 4000000 to 5000000)" in evidence
    assert "Placed before it: 2 operations" in evidence and "(2, 9, True)" in evidence


def test_an_empty_history_is_unknown() -> None:
    assert REGISTER.check(Book().run()).outcome == "unknown"
    assert COUNTER.check(GOOD["one after the other"].run()).outcome == "unknown"


def test_a_malformed_history_is_unknown() -> None:
    twice = Book().write(0, 5, 1, 5, process="a").write(2, 7, 2, 6, process="a")
    assert "with write under way" in REGISTER.check(twice.run()).words
    again = Book().write(0, 1, 1, process="a", kind=INFO).write(2, 7, 2, 6, process="a")
    verdict = REGISTER.check(again.run())
    assert verdict.outcome == "unknown" and "after an unknown outcome" in verdict.words
    strange = Book().note("compare", 0, 1)
    assert REGISTER.check(strange.run()).outcome == "unknown"


def test_running_out_of_steps_or_time_is_unknown_and_never_a_pass() -> None:
    events = draw_register(random.Random(1), 200, 6)
    from_book = Book(events=events)
    few = Linearizable("register", ("register",), lambda _: Register(), steps_max=20)
    verdict = few.check(from_book.run())
    assert verdict.outcome == "unknown" and "limit 20" in verdict.words
    assert few.check(BAD["a stale read"].run()).outcome == "no"
    ticks = iter(range(0, 10_000_000, 100))
    late = Bound(until_s=50.0, steps_max=1_000_000, clock=lambda: float(next(ticks)))
    hard = draw_register(random.Random(3), 2_000, 10, versions=False)
    answer = search(Register(), join(hard), late)
    assert answer.outcome == "unknown" and "in its time" in answer.words
    small = search(Register(), join(hard), Bound(time.monotonic() + 60, memo_max=10))
    assert small.outcome == "unknown" and "configurations" in small.words


def test_one_bad_key_outweighs_one_that_is_not_settled() -> None:
    book = Book(events=draw_register(random.Random(1), 100, 6))
    book.write(0, 1, 1, 5, key="bad").read(2, 3, None, 0, key="bad")
    few = Linearizable("register", ("register",), lambda _: Register(), steps_max=20)
    assert few.check(book.run()).outcome == "no"


def test_counters() -> None:
    def book() -> Book:
        return Book("counter", "c0").note("increment", 0, 1, None, 1).note("increment", 2, 6, None, 2)

    assert COUNTER.check(book().note("read", 7, 8, None, 2).run()).outcome == "yes"
    assert COUNTER.check(book().note("read", 3, 4, None, 1).run()).outcome == "yes"
    assert COUNTER.check(book().note("read", 7, 8, None, 1).run()).outcome == "no"
    assert COUNTER.check(book().note("increment", 2, 6, None, 2).run()).outcome == "no"
    assert COUNTER.check(book().note("increment", 7, 8, kind=INFO).note("read", 9, 10, None, 3).run()).outcome == "yes"
    assert COUNTER.check(book().note("increment", 7, 8, kind=INFO).note("read", 9, 10, None, 4).run()).outcome == "no"
    assert COUNTER.check(book().note("increment", 7, 8, kind="fail").note("read", 9, 10, None, 3).run()).outcome == "no"


@dataclass(frozen=True)
class Acting:
    """What the simple search needs of an operation; one that is not `required` may be left out."""

    called_ns: int
    returned_ns: int
    action: Hashable
    required: bool


def acting(model: Model, operations: Sequence[Operation]) -> list[Acting]:
    return [
        Acting(o.called_ns, o.returned_ns, a, o.outcome != INFO)
        for o in operations
        if (a := model.action(o)) is not None
    ]


def linearizable_by_trying(model: Model, operations: Sequence[Acting]) -> bool:
    """Every order there is, without memory; for a handful of operations."""

    def admits(state: Hashable, left: frozenset[int]) -> bool:
        required = [operations[n].returned_ns for n in left if operations[n].required]
        if not required:
            return True
        first_return = min(required)
        return any(
            operations[n].called_ns <= first_return
            and (after := model.step(state, operations[n].action)) is not None
            and admits(after, left - {n})
            for n in left
        )

    return admits(model.start, frozenset(range(len(operations))))


def spoiled(rng: random.Random, events: list[Event]) -> list[Event]:
    """The history with one answer changed, one write's events taken out, or one operation moved."""
    events = list(events)
    reads = [n for n, e in enumerate(events) if e.op == "read" and e.kind == OK]
    writes = [n for n, e in enumerate(events) if e.op != "read" and e.kind == OK]
    match rng.randrange(3):
        case 0 if reads:
            number, other = rng.choice(reads), events[rng.choice(reads)]
            events[number] = replace(events[number], value=other.value, extra=other.extra)
        case 1 if writes:
            at = rng.choice(writes)
            gone = events[at]
            begun = max(n for n in range(at + 1) if events[n].process == gone.process and events[n].kind == "invoke")
            events = [e for n, e in enumerate(events) if n not in (begun, at)]
        case _:
            number = rng.randrange(len(events))
            if events[number].extra.get("version"):
                version = max(0, events[number].extra["version"] + rng.choice([-2, -1, 1, 2]))
                events[number] = replace(events[number], extra={"version": version})
    return events


DRAWN = {
    "versions": {"versions": True},
    "values": {"versions": False},
    "few values": {"versions": False, "values": 2},
}


@pytest.mark.parametrize("kind", DRAWN)
def test_the_search_agrees_with_trying_everything(kind: str) -> None:
    """Thousands of tiny histories, good by construction or spoiled; a failure names its seed."""
    seen: Tally[str] = Tally()
    for seed in range(2_000):
        rng = random.Random(f"{seed} {kind}")
        events = draw_register(rng, rng.randrange(2, 8), rng.randrange(2, 5), lost=0.35, longest=8, **DRAWN[kind])
        assert _both(events, f"seed {seed}", kind, seen), f"seed {seed}: a linearizable history was refused"
        _both(spoiled(rng, events), f"seed {seed}, spoiled", kind, seen)
    print(dict(seen))
    assert seen["yes"] > 2_500 and seen["no"] > 100


def _both(events: list[Event], what: str, kind: str, seen: Tally[str]) -> bool:
    operations = join(events)
    model = Register(versions_told(operations) if kind == "versions" else None)
    answer = search(model, operations, Bound(time.monotonic() + 60))
    expected = linearizable_by_trying(model, acting(model, operations))
    assert answer.outcome == ("yes" if expected else "no"), f"{what}: {[o.describe() for o in operations]}"
    seen[answer.outcome] += 1
    if expected:
        _follow(model, answer.order)
    else:
        _check_evidence(model, operations, answer.stuck)
    return expected


def _follow(model: Model, order: Sequence[Operation]) -> None:
    """The order that was found is one: legal, and true to real time."""
    state = model.start
    for number, operation in enumerate(order):
        after = model.step(state, model.action(operation) or "")
        assert after is not None
        state = after
        assert all(later.returned_ns >= operation.called_ns for later in order[number:])


def _check_evidence(model: Model, operations: Sequence[Operation], stuck: Operation | None) -> None:
    """All that returned before what has no place has an order; with it, there is none."""
    assert stuck is not None
    until = acting(model, operations)
    before = [replace(a, required=a.required and a.returned_ns < stuck.returned_ns) for a in until]
    with_it = [replace(a, required=a.required and a.returned_ns <= stuck.returned_ns) for a in until]
    same_moment = sum(a.required and a.returned_ns == stuck.returned_ns for a in until) > 1
    assert linearizable_by_trying(model, before)
    assert same_moment or not linearizable_by_trying(model, with_it)


@pytest.mark.parametrize("versions", [True, False])
def test_a_thousand_operations_of_ten_clients_on_one_key(versions: bool) -> None:
    for seed in range(2 if versions else 1):
        events = draw_register(random.Random(seed), 1_000, 10, lost=0.03, versions=versions)
        operations = join(events)
        unknown = sum(o.outcome == INFO for o in operations)
        assert unknown >= 15
        model = Register(versions_told(operations) if versions else None)
        began_s = time.monotonic()
        answer = search(model, operations, Bound(began_s + 100))
        took_s = time.monotonic() - began_s
        print(f"seed {seed}: {answer.outcome}, {answer.steps} steps, {took_s:.2f} s, {unknown} unknown")
        assert answer.outcome == "yes"
        last = max(n for n, e in enumerate(events) if e.op == "read" and e.kind == OK and e.value is not None)
        first = next(e for e in events if e.op == "read" and e.kind == OK and e.value is not None)
        events[last] = replace(events[last], value=first.value, extra=first.extra)
        began_s = time.monotonic()
        answer = search(model, join(events), Bound(began_s + 100))
        print(
            f"seed {seed}: {answer.outcome}, {answer.steps} steps, {time.monotonic() - began_s:.2f} s, stale at the end"
        )
        assert answer.outcome == "no"


def test_many_unknown_increments_cost_no_more_than_their_number() -> None:
    book = Book("counter", "c0")
    for number in range(60):
        book.note("increment", number, number, kind=INFO)
    book.note("read", 100, 101, None, 60).note("read", 102, 103, None, 59)
    answer = search(Counter(), book.operations(), Bound(time.monotonic() + 20, steps_max=10_000))
    assert answer.outcome == "no"
