"""Known-bad builds of the lock table: each breaks one rule of WS-40 to WS-47 or of D-10 (CH-10).

Each takes what sets an attribute: `monkeypatch.setattr` for a test, `setattr` for good, as the entry point of a test
build does. All nodes of one build agree with each other, warm and restarted, unless the build is about that. The
product has no setting that does any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypercluster.pb.v1.coordination_command_pb2 import LockRelease, LockStep
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination import graph, locks, queue, steps
from hypercluster.state_machine.coordination.records import EXCLUSIVE, GRACE, HELD, PERMIT, Request, Row, Table, Target
from hypercluster.state_machine.coordination.turn import LOST, LockTurn
from hypercluster.state_machine.meta import LOCK_TOKEN, read_counter
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.workspace import judging

Patch = Callable[[Any, str, Any], None]


def no_fencing(patch: Patch) -> None:
    """Every write passes, whatever token it carries."""
    patch(judging, "judge_guards", lambda overlay, workspace_id, guards, concerned: None)


def tokens_reused(patch: Patch) -> None:
    """Whoever gives the newest token back lets the next have it again."""
    real = LockTurn.end

    def end(self: LockTurn, request: Request, row: Row, event: int) -> None:
        newest = read_counter(self._overlay, LOCK_TOKEN) if self._token is None else self._token
        if row.token and row.token == newest:
            self._token = newest - 1
        real(self, request, row, event)

    patch(LockTurn, "end", end)


def granted_while_held(patch: Patch) -> None:
    """An exclusive lock stands beside others."""
    real = queue.admits
    patch(queue, "admits", lambda table, kind: kind == EXCLUSIVE or real(table, kind))


def one_permit_too_many(patch: Patch) -> None:
    real = queue.admits

    def admits(table: Table, kind: int) -> bool:
        return len(table.holders) <= table.permits if kind == PERMIT else real(table, kind)

    patch(queue, "admits", admits)


def no_grace(patch: Patch) -> None:
    """A lease that ran out is free at once, and the next one has the lock while the holder may still renew."""
    real = LockTurn.move

    def move(self: LockTurn, request: Request, row: Row, state: int, event: int) -> None:
        if state != GRACE:
            real(self, request, row, state, event)
            return
        self.end(request, row, LOST)
        self.serve(request.target)

    patch(LockTurn, "move", move)


def steps_without_guards(patch: Patch) -> None:
    """An expiry that was proposed before a renewal, or before another grant, counts all the same."""
    real = steps._guard_holds

    def guard_holds(found: LockTurn, step: LockStep, row: Row) -> bool:
        return real(found, step, row._replace(token=step.token) if row.state in {HELD, GRACE} else row)

    patch(steps, "_guard_holds", guard_holds)


def deadlines_ahead_of_their_stamp(patch: Patch) -> None:
    patch(
        steps,
        "_guard_holds",
        lambda found, step, row: row.state == step.from_state and row.token == step.token,
    )


def queue_jumped(patch: Patch) -> None:
    """A shared request overtakes the exclusive one that waits."""
    patch(queue, "anyone_waits", lambda table, stamp_ns: False)


def last_come_first_served(patch: Patch) -> None:
    def next_served(table: Table, stamp_ns: int) -> Row | None:
        waiting = [row for row in table.queue if queue.waits(row, stamp_ns)]
        return waiting[-1] if waiting and queue.admits(table, waiting[-1].kind) else None

    patch(queue, "next_served", next_served)


def waiter_lost(patch: Patch) -> None:
    """Of several that could be let in, one is."""

    def serve(self: LockTurn, target: Target) -> None:
        table = self.table(target)
        row = queue.next_served(table, self.stamp_ns)
        if row is not None:
            request = self.request(row.lock_id)
            assert request is not None
            table.queue.remove(row)
            self._changed[target] = None
            self._leave_graph(request, row)
            self._grant(request, row)

    patch(LockTurn, "serve", serve)


def anybody_releases(patch: Patch) -> None:
    real = locks.release

    def release(ctx: OpContext, workspace_id: bytes, op: LockRelease) -> FileOutcome:
        found = LockTurn(ctx, workspace_id).find(op.lock_id)
        if found is not None:
            ctx.client_id = found[0].client_id  # type: ignore[assignment]
        return real(ctx, workspace_id, op)

    from hypercluster.state_machine.coordination import judging as door

    patch(door, "_JUDGES", {**door._JUDGES, "lock_release": release})


def any_worker_reclaims(patch: Patch) -> None:
    patch(locks, "_same_worker", lambda request, ctx: True)


def deadlocks_wait(patch: Patch) -> None:
    patch(graph, "find_cycle", lambda overlay, found, request, table: ())


def tokens_forgotten_by_a_restart(patch: Patch) -> None:
    """The counter lives in memory only: a node that was restarted gives other tokens than the rest."""
    newest: dict[int, int] = {}
    real = LockTurn._grant

    def grant(self: LockTurn, request: Request, row: Row) -> Row:
        place = id(self._overlay)
        self._token = newest.get(place, 0)
        held = real(self, request, row)
        newest[place] = self._token
        return held

    patch(LockTurn, "_grant", grant)


BUILDS: dict[str, Callable[[Patch], None]] = {
    build.__name__: build
    for build in (
        no_fencing,
        tokens_reused,
        granted_while_held,
        one_permit_too_many,
        no_grace,
        steps_without_guards,
        deadlines_ahead_of_their_stamp,
        queue_jumped,
        last_come_first_served,
        waiter_lost,
        anybody_releases,
        any_worker_reclaims,
        deadlocks_wait,
        tokens_forgotten_by_a_restart,
    )
}
