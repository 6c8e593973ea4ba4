"""Is there an order? The search of Wing and Gong with Lowe's memo, over one key (CH-6).

"Testing for Linearizability" (Lowe, 2017): calls and returns in a linked list; a call before the first return is tried,
and lifted out with its return if the model takes it; a configuration (operations placed, state) met before is not
searched again.
Owns: the search and its bound; three-valued. Never: a model, events, files.
Invariants: an operation with a known outcome is placed between its call and its return; one with an unknown outcome
is placed once after its call, or never. Running out of the bound is UNKNOWN.
Unknown operations stay out of the list. They are tried only where nothing else fits, and only when an operation that
may come next would not do the same without them; of equal ones the earliest called goes first; and a configuration
that has used up a superset of those that another one with the same known operations and state has used is dominated by
it: whatever follows the first can follow the second. Without this, k of them cost 2^k.
An observation that may go next and leaves the state as it is goes at once, for good: whatever could follow without it
can follow with it. (A write of what is there already must not: it may be needed later.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chaos.checkers.findings import NO, UNKNOWN, YES
from chaos.checkers.operations import Operation
from chaos.records import INFO

STEPS_MAX: Final = 30_000_000
MEMO_MAX: Final = 1_500_000  # configurations; some 300 bytes each
STEPS_A_GLANCE: Final = 4_096  # between two looks at the clock
STATES_SHOWN: Final = 3


class Model(Protocol):
    """A sequential specification. States and actions are hashable; equal actions do the same."""

    start: Hashable

    def action(self, operation: Operation) -> Hashable | None:
        """What the operation did or saw; None when it says nothing and is left out."""

    def step(self, state: Hashable, action: Hashable) -> Hashable | None:
        """The state after it, or None when it can not have happened in `state`."""

    def observes(self, action: Hashable) -> bool:
        """Whether it only looks: it never makes anything possible that was not possible without it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Ends at the clock's `until_s`, or after so many steps, or with so many configurations remembered."""

    until_s: float
    steps_max: int = STEPS_MAX
    memo_max: int = MEMO_MAX
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Answer:
    """On a no: everything that returned before `stuck` did has an order, and none of these orders admits `stuck`.
    `order` is one of them, `states` what they can end in."""

    outcome: str
    steps: int
    order: tuple[Operation, ...] = ()
    stuck: Operation | None = None
    states: tuple[Hashable, ...] = ()
    words: str = ""


@dataclass(slots=True)
class _Frame:
    """Undoes one placement: `unknown` is a number among the unknown operations, or -1 when `entry` was lifted. In place
    of one `for_good` nothing else needs to be tried."""

    entry: int
    unknown: int
    state: Hashable
    for_good: bool = False


class _Search:
    def __init__(self, model: Model, operations: Sequence[Operation]) -> None:
        acting = [(o, a) for o in operations if (a := model.action(o)) is not None]
        acting.sort(key=lambda pair: pair[0].called_ns)
        known = [pair for pair in acting if pair[0].outcome != INFO]
        unknown = [pair for pair in acting if pair[0].outcome == INFO]
        self._step = model.step
        self.known = [operation for operation, _ in known]
        self.unknown = [operation for operation, _ in unknown]
        self._actions = [action for _, action in known]
        self._observes = [model.observes(action) for action in self._actions]
        self._unknown_actions = [action for _, action in unknown]
        self._same_before = _same_before(self._unknown_actions)
        self._list(len(known))
        self.state = model.start
        self.frames: list[_Frame] = []
        self._placed = self._used = 0  # bit sets of known and of unknown operations
        self._memo: dict[Hashable, tuple[int, ...]] = {}
        self._farthest, self._order, self._states = 0, list[tuple[int, int]](), list[Hashable]()
        self._fresh(0, model.start, 0)

    def _list(self, count: int) -> None:
        """Entries 1 to 2·count by time, a call before a return at the same moment; 0 is the head, the last the tail."""
        moments = [(o.called_ns, 0, n) for n, o in enumerate(self.known)]
        moments += [(o.returned_ns, 1, n) for n, o in enumerate(self.known)]
        moments.sort()
        self.tail = 2 * count + 1
        self.after = [*range(1, self.tail + 1), self.tail]
        self._before = [0, *range(self.tail)]
        self._whose = [-1] + [~n if is_return else n for _, is_return, n in moments] + [-1]  # ~n: the return of n
        self._return_of = [0] * count
        self._unknown_by = [0] * (self.tail + 1)  # how many unknown ones were called by the time of a return
        called = [o.called_ns for o in self.unknown]
        position = 0
        for entry, (at_ns, is_return, number) in enumerate(moments, 1):
            while position < len(called) and called[position] <= at_ns:
                position += 1
            self._unknown_by[entry] = position
            if is_return:
                self._return_of[number] = entry

    def run(self, bound: Bound) -> Answer:
        self._settle()
        entry, resume, steps = self.after[0], 0, 0
        whose, after = self._whose, self.after
        while after[0] != self.tail:
            steps += 1
            if steps % STEPS_A_GLANCE == 0 or steps >= bound.steps_max:
                words = self._spent(bound, steps)
                if words:
                    return Answer(UNKNOWN, steps, words=words)
            number = whose[entry]
            if number >= 0:
                next_state = self._step(self.state, self._actions[number])
                if next_state is not None and self._fresh(self._placed | 1 << number, next_state, self._used):
                    self._place(entry, number, next_state)
                    self._settle()
                    entry, resume = after[0], 0
                else:
                    entry = after[entry]
                continue
            if self._place_unknown(entry, resume):
                self._settle()
                entry, resume = after[0], 0
                continue
            self._note(entry)
            while self.frames and self.frames[-1].for_good:
                self._undo()
            if not self.frames:
                return self._refuse(steps)
            entry, resume = self._undo()
        return Answer(YES, steps, order=self._named(self._as_order()))

    def _spent(self, bound: Bound, steps: int) -> str:
        if steps >= bound.steps_max:
            return f"not settled after {steps} steps, limit {bound.steps_max}"
        if len(self._memo) > bound.memo_max:
            return f"not settled after {len(self._memo)} configurations, limit {bound.memo_max}"
        if bound.clock() >= bound.until_s:
            return f"not settled in its time, after {steps} steps"
        return ""

    def _fresh(self, placed: int, state: Hashable, used: int) -> bool:
        """Whether this configuration was never met, nor one that leaves more open; remembers it."""
        first_open = ((placed + 1) & ~placed).bit_length() - 1
        key = (first_open, placed >> first_open, state)
        met = self._memo.get(key)
        if met is None:
            self._memo[key] = (used,)
            return True
        if any(other & ~used == 0 for other in met):
            return False
        self._memo[key] = (*(other for other in met if used & ~other), used)
        return True

    def _settle(self) -> None:
        """Places the observations that may go next and change nothing."""
        entry = self.after[0]
        while (number := self._whose[entry]) >= 0:
            if self._observes[number] and self._step(self.state, self._actions[number]) == self.state:
                self._place(entry, number, self.state, for_good=True)
            entry = self.after[entry]

    def _place(self, entry: int, number: int, state: Hashable, *, for_good: bool = False) -> None:
        self.frames.append(_Frame(entry, -1, self.state, for_good))
        self.state = state
        self._placed |= 1 << number
        for at in (entry, self._return_of[number]):
            before, after = self._before[at], self.after[at]
            self.after[before], self._before[after] = after, before

    def _place_unknown(self, entry: int, first: int) -> bool:
        """Before the return at `entry`, one unknown operation from number `first` on, if any fits."""
        for number in range(first, self._unknown_by[entry]):
            same_before = self._same_before[number]
            if self._used >> number & 1 or (same_before >= 0 and not self._used >> same_before & 1):
                continue
            state = self._step(self.state, self._unknown_actions[number])
            if state is None or not self._matters(entry, number, state):
                continue
            if not self._fresh(self._placed, state, self._used | 1 << number):
                continue
            self.frames.append(_Frame(entry, number, self.state))
            self.state = state
            self._used |= 1 << number
            return True
        return False

    def _matters(self, entry: int, unknown: int, state: Hashable) -> bool:
        """Whether something that may come next can do in `state` what it could not do in the present one."""
        at = self.after[0]
        while at != entry:
            action = self._actions[self._whose[at]]
            after = self._step(state, action)
            if after is not None and after != self._step(self.state, action):
                return True
            at = self.after[at]
        for number in range(self._unknown_by[entry]):
            if number != unknown and not self._used >> number & 1:
                after = self._step(state, self._unknown_actions[number])
                if after is not None and after != self._step(self.state, self._unknown_actions[number]):
                    return True
        return False

    def _undo(self) -> tuple[int, int]:
        """Takes the last placement back; where to go on, and from which unknown operation."""
        frame = self.frames.pop()
        self.state = frame.state
        if frame.unknown >= 0:
            self._used &= ~(1 << frame.unknown)
            return frame.entry, frame.unknown + 1
        number = self._whose[frame.entry]
        self._placed &= ~(1 << number)
        for at in (self._return_of[number], frame.entry):
            self.after[self._before[at]] = at
            self._before[self.after[at]] = at
        return self.after[frame.entry], 0

    def _note(self, entry: int) -> None:
        """Nothing goes before the return at `entry`. The latest such one of the whole search is what has no place."""
        if entry > self._farthest:
            self._farthest, self._order, self._states = entry, self._as_order(), [self.state]
        elif entry == self._farthest and len(self._states) < STATES_SHOWN and self.state not in self._states:
            self._states.append(self.state)

    def _as_order(self) -> list[tuple[int, int]]:
        return [(frame.entry, frame.unknown) for frame in self.frames]

    def _named(self, order: list[tuple[int, int]]) -> tuple[Operation, ...]:
        return tuple(self.unknown[u] if u >= 0 else self.known[self._whose[entry]] for entry, u in order)

    def _refuse(self, steps: int) -> Answer:
        stuck = self.known[~self._whose[self._farthest]]
        return Answer(NO, steps, self._named(self._order), stuck, tuple(self._states))


def _same_before(actions: Sequence[Hashable]) -> list[int]:
    """For each action the number of the last equal one before it, or -1."""
    last: dict[Hashable, int] = {}
    found: list[int] = []
    for number, action in enumerate(actions):
        found.append(last.get(action, -1))
        last[action] = number
    return found


def search(model: Model, operations: Sequence[Operation], bound: Bound) -> Answer:
    """Whether these operations, all of one key, can have happened one after the other."""
    return _Search(model, operations).run(bound)
