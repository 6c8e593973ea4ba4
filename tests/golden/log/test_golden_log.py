"""Recorded logs replay to the recorded digests, on every release to come."""

from __future__ import annotations

import pathlib

import pytest

from hypercluster.log.entry import EntryType, decode_entry
from hypercluster.pb.v1.coordination_pb2 import LockEventKind
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.outcome import (
    ABANDONED,
    BAD_OP_TYPE,
    ERRNO,
    FENCED,
    FORBIDDEN,
    IDEMPOTENCY_CONFLICT,
    LOCK_HELD_EXPIRING,
    OK,
    PRECONDITION_FAILED,
    SEQ_GAP,
    UNKNOWN,
    UNKNOWN_NAMESPACE,
)
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.workspace.errnos import EDEADLK, EINVAL, EWOULDBLOCK
from hypercluster.values import Index, Term
from tests.fakes.commands import reasons
from tests.golden.log.lock_workload import lock_entries
from tests.golden.log.make import LOCK_ENTRIES, SEED, read_entries, replay

HERE = pathlib.Path(__file__).parent
RELEASES = sorted(path for path in HERE.iterdir() if (path / "entries.bin").is_file())


@pytest.mark.req("CL-17", "OPS-5", "D-1", "D-4")
@pytest.mark.parametrize("directory", RELEASES, ids=lambda path: path.name)
def test_recorded_entries_replay_to_recorded_digests(directory: pathlib.Path) -> None:
    recorded = (directory / "digests.txt").read_text(encoding="ascii").split()
    for index, (digest, expected) in enumerate(zip(replay(read_entries(directory)), recorded, strict=True), 1):
        assert digest == expected, f"{directory.name}: the first entry that applies otherwise is {index}"


@pytest.mark.req("CL-17")
def test_the_recorded_log_is_worth_replaying() -> None:
    """Every kind of entry, codec and verdict of the core stands in it."""
    store = MemoryStore()
    machine = Machine(store)
    kinds, codecs, verdicts = set(), set(), set()
    for index, payload in enumerate(read_entries(HERE / "v1"), 1):
        entry = decode_entry(payload)
        kinds.add(entry.kind)
        codecs.add(payload[1])
        applied = machine.apply(Index(index), Term(1), entry)
        store.write(applied.changes)
        verdicts.update(reason for result in applied.groups for reason in reasons(result))
    assert kinds == set(EntryType)
    assert codecs == {0, 1}
    assert verdicts == {
        OK, PRECONDITION_FAILED, UNKNOWN_NAMESPACE, BAD_OP_TYPE, IDEMPOTENCY_CONFLICT, UNKNOWN, FORBIDDEN, SEQ_GAP,
    }  # fmt: skip


@pytest.mark.req("CL-17")
def test_the_drawn_locks_are_worth_replaying() -> None:
    """Every verdict about locks, and every event, comes of what `lock_entries` draws for a recorded log."""
    store = MemoryStore()
    machine = Machine(store)
    verdicts, errnos, told = set(), set(), set()
    for index, payload in enumerate(lock_entries(SEED, LOCK_ENTRIES), 1):
        applied = machine.apply(Index(index), Term(1), decode_entry(payload))
        store.write(applied.changes)
        for result in applied.groups:
            verdicts.update(reasons(result))
            errnos.update(file.errno for run in result.runs for file in run.files if file is not None)
        told.update(event.kind for _, event in applied.events)
    assert verdicts == {OK, ERRNO, FENCED, LOCK_HELD_EXPIRING, IDEMPOTENCY_CONFLICT, ABANDONED}
    assert errnos == {0, EWOULDBLOCK, EINVAL, EDEADLK}
    assert told == set(LockEventKind.values()) - {0}


@pytest.mark.req("CL-17")
def test_another_entry_gives_another_digest() -> None:
    payloads = list(read_entries(HERE / "v1"))
    recorded = (HERE / "v1" / "digests.txt").read_text(encoding="ascii").split()
    swapped = [payloads[1], payloads[0], *payloads[2:10]]
    assert list(replay(swapped))[9] != recorded[9]
