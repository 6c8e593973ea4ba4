"""File commands through lanes: stored results, "not yet" answers, and runs that mix systems."""

from __future__ import annotations

from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import (
    ChunkPiece,
    ChunkPut,
    Create,
    FileCommand,
    LogBatch,
    Mkdir,
    Place,
    WorkspaceCreate,
    Write,
)
from hypercluster.state_machine import queries
from hypercluster.state_machine.machine import Machine, Quarantined
from hypercluster.state_machine.outcome import (
    CHUNKS_MISSING,
    ERRNO,
    IDEMPOTENCY_CONFLICT,
    INTERNAL,
    NO_WORKSPACE,
    OK,
    SEQ_GAP,
    FileOutcome,
    GroupResult,
    HazardFound,
    RunResult,
)
from hypercluster.state_machine.results import COMMAND_HASH_BYTES, decode_run, encode_run
from hypercluster.values import Index
from tests.fakes.commands import SCOPE, Replica, answers, client, group, hub_set, reasons, submit

ROOT = bytes(16)
CONTENT = b"c" * 9_000
HASH = blake3(CONTENT).digest()
EEXIST = 17


def mkdir(name: bytes) -> bytes:
    return Command(
        file=FileCommand(mkdir=Mkdir(place=Place(directory=ROOT, name=name), mode=0o755))
    ).SerializeToString()


def create(name: bytes, *, exclusive: bool = False) -> bytes:
    made = Create(place=Place(directory=ROOT, name=name), mode=0o644, exclusive=exclusive)
    return Command(file=FileCommand(create=made)).SerializeToString()


def append_piece(inode_id: bytes) -> bytes:
    piece = ChunkPiece(hash=HASH, length=len(CONTENT))
    return Command(file=FileCommand(write=Write(inode_id=inode_id, append=True, pieces=[piece]))).SerializeToString()


CHUNK_PUT = Command(chunk_put=ChunkPut(hash=HASH, content=CONTENT)).SerializeToString()


class Site:
    """A replica with one workspace, made by client 9."""

    def __init__(self) -> None:
        self.replica = Replica()
        raw = Command(workspace_create=WorkspaceCreate(name="src", uid=1000, gid=1000, mode=0o755)).SerializeToString()
        outcome = self.replica.run(client(9), 1, raw).runs[0].files[0]
        assert outcome is not None and outcome.reason == OK
        self.workspace = outcome.inode_id

    def run(self, number: int, first_seq: int, *commands: bytes) -> GroupResult:
        message = submit(client(number), first_seq, commands, workspace=self.workspace)
        return self.replica.apply(group(message)).groups[0]


@pytest.mark.req("D-7", "WS-36")
@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_gets_the_same_indexes_errno_offset_ids_and_root(restart: bool) -> None:
    site = Site()
    commands = [
        create(b"a"),
        create(b"a"),
        create(b"a", exclusive=True),
        hub_set(b"k"),
        mkdir(b"d"),
        hub_set(b"k", expected=7),
    ]
    first = site.run(1, 1, *commands)
    assert reasons(first) == [OK, OK, ERRNO, OK, OK, 1]
    run = first.runs[0]
    made, existed, refused, *_ = run.files
    assert made is not None and existed is not None and refused is not None
    assert (made.existed, existed.existed, refused.errno) == (False, True, EEXIST)
    assert made.log_index and len(made.root) == 32 and len(made.inode_id) == 16
    assert run.files[3] is None
    if restart:
        site.replica.restart()
    again = site.run(1, 1, *commands)
    assert again == first
    # In other groupings too, and beside commands that are new.
    assert site.run(1, 3, *commands[2:4]).runs[0].files == run.files[2:4]
    mixed = site.run(1, 5, *commands[4:], create(b"new"))
    assert [r.index for r in mixed.runs] == [run.index, site.replica.index]
    assert reasons(mixed) == [OK, 1, OK]
    assert reasons(site.run(1, 1, create(b"other"))) == [IDEMPOTENCY_CONFLICT]


@pytest.mark.req("D-7", "WS-46")
@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_is_told_of_the_same_hazard(restart: bool) -> None:
    site = Site()
    made = site.run(1, 1, create(b"a")).runs[0].files[0]
    assert made is not None
    write = Command(file=FileCommand(write=Write(inode_id=made.inode_id, inline=b"mine"))).SerializeToString()
    site.run(1, 2, write)
    first = site.run(2, 1, write)
    told = first.runs[0].files[0]
    assert told is not None and told.hazard == (1, 2)
    if restart:
        site.replica.restart()
    assert site.run(2, 1, write) == first


@pytest.mark.req("D-7", "WS-32", "WS-12")
def test_not_yet_is_not_stored_and_holds_up_the_rest() -> None:
    site = Site()
    made = site.run(1, 1, create(b"a")).runs[0].files[0]
    assert made is not None
    append = append_piece(made.inode_id)
    early = site.run(1, 2, create(b"b"), append, create(b"c"), hub_set(b"k"))
    assert reasons(early) == [OK, CHUNKS_MISSING, SEQ_GAP, SEQ_GAP]
    missing = early.runs[0].files[1]
    assert missing is not None and missing.missing == (HASH,)
    assert site.replica.machine.last_seq(client(1)) == 2
    assert queries.server_seq(site.replica.store, SCOPE) == 0
    assert reasons(site.run(2, 1, CHUNK_PUT)) == [OK]
    late = site.run(1, 2, create(b"b"), append, create(b"c"), hub_set(b"k"))
    assert reasons(late) == [OK] * 4
    assert [run.index for run in late.runs] == [early.runs[0].index, site.replica.index]
    written = late.runs[1].files[0]
    assert written is not None and written.log_index == 3
    twice = site.run(1, 3, append)
    assert twice.runs[0].files[0] == written, "an append that is retried does not append again"


@pytest.mark.req("D-7")
def test_a_lane_whose_first_command_is_not_yet_does_not_begin() -> None:
    site = Site()
    made = site.run(1, 1, create(b"a")).runs[0].files[0]
    assert made is not None
    append = append_piece(made.inode_id)
    assert reasons(site.run(5, 4, append, create(b"z"))) == [CHUNKS_MISSING, SEQ_GAP]
    assert site.replica.machine.last_seq(client(5)) is None
    assert reasons(site.run(5, 1, create(b"y"))) == [OK], "it starts at whatever seq it sends"


def test_what_one_entry_hands_the_shell() -> None:
    site = Site()
    messages = [
        submit(client(1), 1, [create(b"a"), hub_set(b"k")], workspace=site.workspace),
        submit(client(2), 1, [CHUNK_PUT], workspace=site.workspace),
    ]
    applied = site.replica.apply(*[group(message) for message in messages])
    assert applied.chunks == {HASH: CONTENT}
    assert list(applied.hub_batches) == [SCOPE]
    batch = LogBatch.FromString(applied.log_batches[site.workspace])
    assert [record.log_index for record in batch.records] == [1]
    assert batch.records[0].command == create(b"a")


def test_a_workspace_nobody_made() -> None:
    replica = Replica()
    message = submit(client(1), 1, [create(b"a")], workspace=b"n" * 16)
    assert reasons(replica.apply(group(message)).groups[0]) == [NO_WORKSPACE]


@pytest.mark.req("CL-16")
def test_a_quarantined_file_command_is_a_stored_refusal() -> None:
    site = Site()
    site.replica.machine = Machine(site.replica.store, [Quarantined(Index(2), 0)])
    first = site.run(1, 1, create(b"a"), create(b"b"))
    assert reasons(first) == [INTERNAL, OK]
    site.replica.restart()
    assert answers(site.run(1, 1, create(b"a"), create(b"b"))) == answers(first)


NUMBERS = st.integers(0, (1 << 64) - 1)
COLUMNS = {
    "log_index": NUMBERS,
    "stamp_ns": NUMBERS,
    "root": st.sampled_from([b"", bytes(32), b"\xff" * 32]),
    "inode_id": st.sampled_from([b"", b"i" * 16]),
    "inode_no": NUMBERS,
    "applied_offset": NUMBERS,
    "present_index": NUMBERS,
}


def outcome(**fields: Any) -> FileOutcome:
    """Of a named tuple itself, Hypothesis would draw the fields that are left out, too."""
    return FileOutcome(**fields)


ACCEPTED = st.one_of(
    st.builds(outcome, existed=st.booleans(), **COLUMNS),
    # Nothing that only found a file there is ever a hazard.
    st.builds(outcome, hazard=st.builds(HazardFound, st.integers(1, 3), NUMBERS), **COLUMNS),
)
REFUSED = st.builds(outcome, reason=st.integers(1, 9), errno=st.integers(0, 133), present_index=NUMBERS)


@pytest.mark.req("D-7")
@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([OK, OK, 1, 8]), NUMBERS, st.one_of(st.none(), ACCEPTED, REFUSED)), min_size=1)
)
def test_stored_results_come_back_field_by_field(rows: list[tuple[int, int, FileOutcome | None]]) -> None:
    reasons_column = tuple(file.reason if file else reason for reason, _, file in rows)
    result = RunResult(
        7,
        len(rows),
        Index(12),
        reasons_column if any(reasons_column) else (),
        tuple(version for _, version, _ in rows),
        tuple(file for _, _, file in rows),
    )
    raws = [b"command %d" % n for n in range(len(rows))]
    stored = decode_run(7, encode_run(raws, result))
    assert stored.result == result
    assert all(stored.matches(n, raw) for n, raw in enumerate(raws))
    assert COMMAND_HASH_BYTES == 16
