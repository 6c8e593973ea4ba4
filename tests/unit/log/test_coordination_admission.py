"""What the leader turns away of locks, guards and abandons, and that it names the field and the limit."""

from __future__ import annotations

from typing import Any

import pytest

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.limits import GUARDS_MAX, LOCK_NAME_BYTES_MAX, LOCK_PERMITS_MAX, LOCK_STEPS_MAX, LOCK_WAIT_MS_MAX
from hypercluster.log.admission import admit
from hypercluster.log.field_checks import NUMBER_MAX
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.state_machine.coordination.targets import read_target
from tests.fakes.commands import client, submit
from tests.unit.coordination.table import P, S, X, acquire, on, reclaim, release
from tests.unit.workspace import ops

WORKSPACE = b"w" * 16
FILE = b"f" * 16


def sent(command: Command, *, workspace: bytes = WORKSPACE) -> None:
    admit(submit(client(1), 1, [command.SerializeToString()], workspace=workspace), maintenance=True)


def guarded(*guards: pb.Guard) -> Command:
    command = ops.write(FILE, 0, b"x")
    command.file.guards.extend(guards)
    return command


def abandon(client_id: bytes = client(2), through_seq: int = 1, basis: int = 0) -> Command:
    return Command(abandon=pb.Abandon(client_id=client_id, through_seq=through_seq, basis=basis))


def steps(count: int = 1, **more: Any) -> Command:
    fields: dict[str, Any] = {"lock_id": 1, "token": 1, "from_state": 2, "to_state": 3} | more
    made = pb.LockSteps(workspace_id=WORKSPACE, steps=[pb.LockStep(**fields)] * count)
    return Command(maintenance=MaintenanceCommand(lock_steps=made))


GOOD = [
    acquire("a"),
    acquire("a" * LOCK_NAME_BYTES_MAX, S, wait_ms=LOCK_WAIT_MS_MAX, one_at_a_time=True),
    acquire("pool/gpu:0", P, permits=LOCK_PERMITS_MAX),
    acquire(FILE, X, 0, wait=False),
    release(1),
    reclaim(NUMBER_MAX, NUMBER_MAX),
    guarded(*[pb.Guard(token=1, target=on("a"), history_id=b"h" * 16)] * GUARDS_MAX),
    guarded(pb.Guard(token=1)),
    abandon(through_seq=NUMBER_MAX - 1, basis=NUMBER_MAX),
    steps(LOCK_STEPS_MAX),
    steps(token=0, from_state=1, to_state=4, wait_until_ns=7),
]

MALFORMED = {
    "lock_acquire.target must be an inode_id or a name": Command(
        coordination=pb.CoordinationCommand(lock_acquire=pb.LockAcquire(kind=X))
    ),
    "lock_acquire.target.inode_id is 3 bytes, must be 16": acquire(b"abc"),
    "lock_acquire.target.name must be 1 byte or more of [a-zA-Z0-9._/:-]": acquire(""),
    "target.name must be 1 byte or more of": acquire("über"),
    "lock_acquire.kind is 0": acquire("a", 0),
    "lock_acquire.kind is 9": acquire("a", 9),
    "lock_acquire.wait_ms is 5, must be 0 without wait": acquire("a", wait=False, wait_ms=5),
    "lock_acquire.permits is 2, must be 0 unless kind is PERMIT": acquire("a", X, permits=2),
    "lock_acquire.permits is 0, must be 1 to LOCK_PERMITS_MAX": acquire("a", P),
    "lock_acquire.permits is 10001, must be 1 to LOCK_PERMITS_MAX": acquire("a", P, permits=LOCK_PERMITS_MAX + 1),
    "lock_acquire.target must be a name for kind PERMIT": acquire(FILE, P, permits=1),
    "lock_release.lock_id is 0": release(0),
    "lock_release.lock_id is 9223372036854775808": release(NUMBER_MAX + 1),
    "lock_reclaim.token is 0": reclaim(1, 0),
    "lock_reclaim.lock_id is 0": reclaim(0, 1),
    "commands[0].coordination.None is no command": Command(coordination=pb.CoordinationCommand()),
    "file.guards[1].token is 0": guarded(pb.Guard(token=1), pb.Guard()),
    "file.guards[0].history_id is 2 bytes": guarded(pb.Guard(token=1, history_id=b"no")),
    "file.guards[0].target must be": guarded(pb.Guard(token=1, target=pb.LockTarget())),
    "abandon.client_id is 1 bytes": abandon(b"x"),
    "abandon.client_id is the sender's own": abandon(client(1)),
    "abandon.through_seq is 0": abandon(through_seq=0),
    "abandon.through_seq is 9223372036854775807": abandon(through_seq=NUMBER_MAX),
    "abandon.basis is 9223372036854775808": abandon(basis=NUMBER_MAX + 1),
    "lock_steps.steps holds 0": steps(0),
    "lock_steps.steps[0].lock_id is 0": steps(lock_id=0),
    "lock_steps.steps[0] goes from 2 to 4: no such step": steps(to_state=4),
    "lock_steps.steps[0].token is 0": steps(token=0),
    "lock_steps.steps[0].token is 1, must be 0 for a queued request": steps(from_state=1, to_state=4),
    "lock_steps.steps[0].wait_until_ns must be 0": steps(wait_until_ns=1),
}

TOO_LARGE = {
    "LOCK_NAME_BYTES_MAX is 128": acquire("a" * (LOCK_NAME_BYTES_MAX + 1)),
    "LOCK_WAIT_MS_MAX is 86400000": acquire("a", wait_ms=LOCK_WAIT_MS_MAX + 1),
    "GUARDS_MAX is 4": guarded(*[pb.Guard(token=1)] * (GUARDS_MAX + 1)),
    "LOCK_STEPS_MAX is 1 to 100": steps(LOCK_STEPS_MAX + 1),
}


@pytest.mark.parametrize("command", GOOD, ids=range(len(GOOD)))
def test_what_is_largest_still_passes(command: Command) -> None:
    sent(command)


@pytest.mark.parametrize("says", MALFORMED)
def test_malformed_names_the_field(says: str) -> None:
    with pytest.raises(MalformedError) as caught:
        sent(MALFORMED[says])
    assert says in str(caught.value)


@pytest.mark.parametrize("says", TOO_LARGE)
def test_too_large_names_the_limit(says: str) -> None:
    with pytest.raises(TooLargeError) as caught:
        sent(TOO_LARGE[says])
    assert says in str(caught.value)


def test_a_lock_needs_a_workspace_and_an_abandon_none() -> None:
    with pytest.raises(MalformedError, match="workspace_id is 0 bytes"):
        sent(acquire("a"), workspace=b"")
    sent(abandon(), workspace=b"")


def test_steps_are_not_for_clients() -> None:
    with pytest.raises(MalformedError, match="not for clients"):
        admit(submit(client(1), 1, [steps().SerializeToString()]))


@pytest.mark.parametrize("target", [pb.LockTarget(), on(""), on("a b"), on(b"short"), on("x" * 129)], ids=range(5))
def test_apply_knows_by_itself_what_is_no_target(target: pb.LockTarget) -> None:
    """What stands in the log was admitted, perhaps by another version (D-4)."""
    assert read_target(target) is None
