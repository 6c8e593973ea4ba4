"""Verdicts as acknowledgement messages: joined, and never changed by it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import AcksBatch
from hypercluster.rpc.acks import encode
from hypercluster.state_machine.outcome import FileOutcome

Flat = list[tuple[bytes, int, int, int, int, int, int]]


def flat_of(verdicts: list[Verdict]) -> Flat:
    """(client, seq, index, term, reason, version, log_index) of each command, in order."""
    out: Flat = []
    for v in verdicts:
        for i in range(v.ops):
            file = v.files[i] if v.files else None
            out.append(
                (v.client_id, v.first_seq + i, v.raft_index, v.term, v.reasons[i] if v.reasons else 0,
                 v.versions[i] if v.versions else 0, file.log_index if file else 0)
            )  # fmt: skip
    return out


def flat_of_message(content: bytes) -> Flat:
    out: Flat = []
    for a in AcksBatch.FromString(content).acks:
        for column in (a.reason, a.version, a.file):
            assert len(column) in (0, a.count)
        for i in range(a.count):
            out.append(
                (a.client_id, a.first_seq + i, a.raft_index, a.term, a.reason[i] if a.reason else 0,
                 a.version[i] if a.version else 0, a.file[i].log_index if a.file else 0)
            )  # fmt: skip
    return out


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_every_command_is_answered_once_with_its_own_result(seed: int) -> None:
    rng = random.Random(seed)
    verdicts: list[Verdict] = []
    next_seq = {b"a" * 16: 1, b"b" * 16: 1}
    for _ in range(rng.randint(1, 30)):
        client = rng.choice(list(next_seq))
        ops = rng.randint(1, 4)
        verdicts.append(
            Verdict(
                client,
                next_seq[client] + rng.choice([0, 0, 0, 5]),
                ops,
                rng.choice([7, 7, 8]),
                rng.choice([(), tuple(rng.randint(0, 80) for _ in range(ops))]),
                rng.choice([(), tuple(rng.randint(1, 9) for _ in range(ops))]),
                rng.choice([(), tuple(FileOutcome(log_index=rng.randint(1, 9)) for _ in range(ops)), (None,) * ops]),
                message=rng.choice(["", "", "no"]),
                term=rng.choice([3, 3, 4]),
            )
        )
        next_seq[client] = verdicts[-1].first_seq + ops
    assert flat_of_message(encode(verdicts)) == flat_of(verdicts), f"seed {seed}"


def test_neighbours_of_one_lane_become_one_message() -> None:
    verdicts = [Verdict(b"a" * 16, seq, 1, 9, term=2) for seq in range(1, 65)]
    (acks,) = AcksBatch.FromString(encode(verdicts)).acks
    assert (acks.first_seq, acks.count, list(acks.reason)) == (1, 64, [])


def test_a_whole_file_outcome_survives() -> None:
    outcome = FileOutcome(
        errno=2, log_index=3, stamp_ns=4, root=b"r" * 32, inode_id=b"i" * 16, inode_no=5, applied_offset=6,
        present_index=7, missing=(b"m" * 32,), existed=True,
    )  # fmt: skip
    (acks,) = AcksBatch.FromString(encode([Verdict(b"a" * 16, 1, 1, 9, files=(outcome,))])).acks
    file = acks.file[0]
    assert (file.errno, file.log_index, file.committed_at_ns, file.root) == (2, 3, 4, b"r" * 32)
    assert (file.inode_id, file.inode_no, file.applied_offset) == (b"i" * 16, 5, 6)
    assert (file.present_index, list(file.missing), file.existed) == (7, [b"m" * 32], True)
