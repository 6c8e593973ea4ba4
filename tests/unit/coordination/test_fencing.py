"""Fencing tokens at the writes they guard (D-10, WS-42)."""

from __future__ import annotations

from typing import Any

import pytest

from hypercluster.limits import GUARDS_MAX
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import Guard
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.fencing import judge_guards
from hypercluster.state_machine.coordination.records import GRACE, HELD
from hypercluster.state_machine.meta import genesis
from hypercluster.state_machine.outcome import FENCED, FileOutcome
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace.errnos import EEXIST
from hypercluster.values import ClusterId, HistoryId
from tests.fakes.commands import Replica
from tests.unit.coordination.table import LockSite, P, S, on, reclaim, release, step
from tests.unit.workspace import ops

HISTORY = HistoryId(b"h" * 16)


@pytest.fixture
def site() -> LockSite:
    store = MemoryStore()
    store.write(genesis(ClusterId(b"c" * 16), HISTORY))
    return LockSite(store)


@pytest.fixture
def file_id(site: LockSite) -> bytes:
    return site.by(9, ops.create(ops.ROOT, b"f")).inode_id


def guarded(command: Command, *guards: Guard) -> Command:
    command.file.guards.extend(guards)
    return command


def write(site: LockSite, file_id: bytes, token: int, target: str | bytes | None = None, **more: Any) -> FileOutcome:
    guard = Guard(target=None if target is None else on(target), token=token, **more)
    return site.by(9, guarded(ops.write(file_id, 0, b"%d" % site.replica.index), guard))


@pytest.mark.req("WS-42", "D-10")
def test_a_stale_token_is_fenced_and_the_present_one_passes(site: LockSite, file_id: bytes) -> None:
    old = site.held(1, file_id)
    assert write(site, file_id, old.token).reason == 0
    assert write(site, file_id, old.token, file_id).reason == 0
    new = site.queued(2, file_id)
    assert write(site, file_id, old.token + 1).reason == FENCED  # a token nobody has yet
    site.expire(old)
    row = site.row(new.lock_id)
    assert row is not None and row.token > old.token
    stale = write(site, file_id, old.token)
    assert (stale.reason, stale.log_index, stale.errno) == (FENCED, 0, 0)
    assert write(site, file_id, row.token).reason == 0


@pytest.mark.req("D-10")
def test_tokens_rise_over_all_targets_and_are_never_reset(site: LockSite) -> None:
    tokens = []
    for round_number in range(3):
        for name in ("x", "y"):
            grant = site.held(1, name)
            tokens.append(grant.token)
            site.by(1, release(grant.lock_id))
        if round_number == 1:
            site.replica = Replica(site.replica.store)
    assert tokens == [1, 2, 3, 4, 5, 6]
    assert queries.last_token(site.replica.store) == 6


@pytest.mark.req("D-10")
def test_grace_counts_as_held_and_every_holder_of_a_shared_lock_passes(site: LockSite, file_id: bytes) -> None:
    a, b = site.held(1, file_id, S), site.held(2, file_id, S)
    site.steps(step(a, HELD, GRACE))
    assert [write(site, file_id, grant.token).reason for grant in (a, b)] == [0, 0]
    site.steps(step(a, GRACE, 4))
    assert [write(site, file_id, grant.token).reason for grant in (a, b)] == [FENCED, 0]
    permit = site.held(1, "gpu", P, permits=2)
    assert write(site, file_id, permit.token, "gpu").reason == 0


def test_reclaim_and_conversion_are_new_grants_that_fence_the_old_token(site: LockSite, file_id: bytes) -> None:
    held = site.held(11, file_id)
    shared = site.held(11, file_id, S)
    assert write(site, file_id, held.token).reason == FENCED
    taken = site.by(12, reclaim(shared.lock_id, shared.token)).lock
    assert taken is not None
    assert write(site, file_id, shared.token).reason == FENCED
    assert write(site, file_id, taken.token).reason == 0


def test_a_token_is_good_for_its_own_target_only(site: LockSite, file_id: bytes) -> None:
    held = site.held(1, "build")
    assert write(site, file_id, held.token).reason == FENCED
    assert write(site, file_id, held.token, "other").reason == FENCED
    assert write(site, file_id, held.token, "build").reason == 0


def test_all_of_several_guards_must_hold(site: LockSite, file_id: bytes) -> None:
    a, b = site.held(1, "a"), site.held(1, "b")
    both = [Guard(target=on("a"), token=a.token), Guard(target=on("b"), token=b.token)]
    assert site.by(1, guarded(ops.write(file_id, 0, b"1"), *both)).reason == 0
    site.by(1, release(b.lock_id))
    assert site.by(1, guarded(ops.write(file_id, 0, b"2"), *both)).reason == FENCED


def test_more_guards_than_there_may_be_are_fenced_by_apply_itself(site: LockSite, file_id: bytes) -> None:
    held = site.held(1, file_id)
    overlay, good = Overlay(site.replica.store), Guard(token=held.token)
    assert judge_guards(overlay, site.workspace_id, [good] * GUARDS_MAX, file_id) is None
    refused = judge_guards(overlay, site.workspace_id, [good] * (GUARDS_MAX + 1), file_id)
    assert refused is not None and refused.reason == FENCED


@pytest.mark.req("D-17")
def test_a_token_of_another_history_is_fenced(site: LockSite, file_id: bytes) -> None:
    held = site.held(1, file_id)
    assert write(site, file_id, held.token, history_id=HISTORY).reason == 0
    assert write(site, file_id, held.token, history_id=b"x" * 16).reason == FENCED


def test_a_guard_without_a_target_follows_the_name(site: LockSite, file_id: bytes) -> None:
    """What base_index would look at: what has the name, or its directory where nothing has."""
    on_file, on_root = site.held(1, file_id), site.held(1, ops.ROOT)
    assert site.by(1, guarded(ops.create(ops.ROOT, b"new"), Guard(token=on_file.token))).reason == FENCED
    assert site.by(1, guarded(ops.create(ops.ROOT, b"new"), Guard(token=on_root.token))).reason == 0
    assert site.by(1, guarded(ops.unlink(ops.ROOT, b"f"), Guard(token=on_root.token))).reason == FENCED
    assert site.by(1, guarded(ops.rename(ops.ROOT, b"f", ops.ROOT, b"g"), Guard(token=on_file.token))).reason == 0
    assert site.by(1, guarded(ops.unlink(ops.ROOT, b"g"), Guard(token=on_file.token))).reason == 0
    # The file is an orphan now; the lock is still on it.
    assert write(site, file_id, on_file.token).reason == 0


def test_guards_are_judged_before_the_operation(site: LockSite, file_id: bytes) -> None:
    again = ops.create(ops.ROOT, b"f", exclusive=True)
    assert site.by(1, again).errno == EEXIST
    assert site.by(1, guarded(again, Guard(token=1, target=on("nobody")))).reason == FENCED


def test_locks_leave_the_root_and_the_op_log_alone(site: LockSite, file_id: bytes) -> None:
    root = write_root(site, file_id)
    held = site.held(1, file_id)
    site.queued(2, file_id)
    site.steps(step(held, HELD, GRACE))
    families = {change.family for change in site.applied.changes}
    assert families <= {Family.META, Family.LANES, Family.COORDINATION}
    assert site.applied.log_batches == {}
    assert write_root(site, file_id) == (root[0], root[1] + 1)


def write_root(site: LockSite, file_id: bytes) -> tuple[bytes, int]:
    """The root and log_index after an operation that changes nothing of the tree."""
    done = site.by(9, ops.sync(file_id))
    return done.root, done.log_index
