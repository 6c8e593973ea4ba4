"""What locks cost in apply, on one core: `python -m tests.benchmarks.lock_apply`.

CPU time, as machines are shared; judgement and records, without parsing and the digest of the entry. Budgets: a lock
and its release that nobody contends below 150 µs each, the same with 100 waiters on the target below 300 µs, a guard on
a write below 15 µs.
"""

from __future__ import annotations

import time

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import LOCK_KIND_EXCLUSIVE, LOCK_KIND_SHARED, Guard
from hypercluster.state_machine.coordination.judging import judge_coordination
from hypercluster.state_machine.coordination.records import HELD, QUEUED
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import ClientId, Nanos
from tests.benchmarks.workspace_apply import Bench, quiet, show
from tests.fakes.commands import client
from tests.unit.coordination.table import acquire, on, release
from tests.unit.workspace import ops

ROUNDS = 2_000


class LockBench(Bench):
    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.found()

    def lock(self, number: int, command: Command, spent: list[float] | None = None) -> FileOutcome:
        """One command of client `number`, in an entry of its own."""
        context = self.context
        context.client_id = ClientId(client(number))
        context.stamp_ns = Nanos(context.stamp_ns + 1)
        begun = time.thread_time_ns()
        outcome = judge_coordination(context, command.coordination)
        if spent is not None:
            spent.append((time.thread_time_ns() - begun) / 1_000)
        context.effects.events.clear()
        self.store.write(self.overlay.take_changes())
        return outcome


def uncontended() -> tuple[float, float]:
    """p99 of a lock that is free and of its release."""
    bench = LockBench()
    asked: list[float] = []
    released: list[float] = []

    def run() -> None:
        for number in range(ROUNDS):
            grant = bench.lock(number % 50, acquire(f"n{number % 200}"), asked).lock
            assert grant is not None and grant.state == HELD
            bench.lock(number % 50, release(grant.lock_id), released)

    quiet(run)
    return show("acquire, free", asked, 150), show("release, nobody waits", released, 150)


def contended(waiters: int) -> float:
    """p99 of a release that serves the next of a queue that stays this long."""
    bench = LockBench()
    grants = [bench.lock(number, acquire("hot")).lock for number in range(waiters + 1)]
    queued: list[float] = []
    served: list[float] = []

    def run() -> None:
        for number in range(300):
            first = grants.pop(0)
            assert first is not None
            bench.lock(number % (waiters + 1), release(first.lock_id), served)
            last = bench.lock(number % (waiters + 1), acquire("hot"), queued).lock
            assert last is not None and last.state == QUEUED
            grants.append(last)

    quiet(run)
    show(f"acquire behind {waiters}", queued, 300)
    return show(f"release before {waiters}", served, 300)


def granted_at_once(waiters: int) -> float:
    """µs of the release that lets all of a queue in."""
    bench = LockBench()
    first = bench.lock(0, acquire("hot", LOCK_KIND_EXCLUSIVE)).lock
    assert first is not None
    for number in range(1, waiters + 1):
        bench.lock(number, acquire("hot", LOCK_KIND_SHARED))
    spent: list[float] = []
    bench.lock(0, release(first.lock_id), spent)
    return show(f"release that grants {waiters} shared locks", spent, 30_000)


def guarded() -> tuple[float, float]:
    """p50 of a write without a guard and with one."""
    bench = LockBench()
    file_id = bench.entry([ops.create(ops.ROOT, b"f")])[0]
    grant = bench.lock(1, acquire(file_id)).lock
    assert grant is not None
    plain: list[float] = []
    with_guard: list[float] = []

    def run() -> None:
        for number in range(ROUNDS // 10):
            bench.entry([ops.write(file_id, 0, b"%d" % number) for _ in range(10)], plain)
            commands = [ops.write(file_id, 0, b"%d" % number) for _ in range(10)]
            for command in commands:
                command.file.guards.append(Guard(token=grant.token, target=on(file_id)))
            bench.entry(commands, with_guard)

    quiet(run)
    show("write without a guard", plain, 40)
    show("write with a guard", with_guard, 55)
    return plain[len(plain) // 2], with_guard[len(with_guard) // 2]


def main() -> None:
    uncontended()
    for waiters in (10, 100, 900):
        contended(waiters)
    granted_at_once(999)
    guarded()


if __name__ == "__main__":
    main()
