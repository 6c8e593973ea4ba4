"""A million file operations on three machines: equal roots and digests, also where caches are lost (WS-35, CL-17).

Each is the real state machine over a RocksDB of its own, fed with the entries a leader would make. One is warm from
beginning to end, one drops its caches now and then, one is closed and opened again. With `-s` it prints the rate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.log.entry import DecodedEntry, DecodedGroup, batch_of, decode_entry, encode_batch
from hypercluster.pb.v1.command_pb2 import Command, RaiseVersionsFloor, TrimOplog
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.outcome import Applied
from hypercluster.state_machine.workspace.queries import read_header
from hypercluster.state_machine.workspace.transfer import verify_tree
from hypercluster.storage.rocks import FlushState, RocksStore
from hypercluster.values import Index, Nanos, Scope, Term
from tests.fakes.commands import STAMP_NS, client, group, maintenance, submit
from tests.unit.workspace import ops

BATCH = 250
DIRECTORIES = 64
FILES_MAX = 50_000
FLOOR_BEHIND = 50  # entries whose versions are kept
DISCARD_EVERY, REOPEN_EVERY, LOOK_EVERY = 97, 401, 20
ADMIN = client(99)
LONG = [pytest.mark.long, pytest.mark.timeout(3_600)]  # about ten minutes of a core


class Work:
    """The operations of one run; it learns what was made from the answers of the first machine."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.workspace_id = b""
        self._directories = [ops.ROOT]
        self._files: list[tuple[bytes, bytes, bytes]] = []  # inode, directory, name
        self._names = 0
        self._asked: list[tuple[str, bytes, bytes]] = []

    def commands(self, count: int) -> Iterator[Command]:
        self._asked.clear()
        for _ in range(count):
            yield self._one()

    def _one(self) -> Command:
        draw = self._draw
        kind = draw.choices(
            ("create", "write", "append", "rename", "unlink", "chmod", "xattr", "truncate", "mkdir"),
            (24, 20, 20, 8, 12, 5, 4, 5, 2),
        )[0]
        if kind == "mkdir" and len(self._directories) >= DIRECTORIES:
            kind = "append"
        if (len(self._files) < 10 and kind != "mkdir") or (kind == "unlink" and len(self._files) < FILES_MAX // 2):
            kind = "create"
        if kind in ("create", "mkdir"):
            directory = draw.choice(self._directories)
            self._names += 1
            name = b"%s-%d" % (kind.encode(), self._names)
            self._asked.append((kind, directory, name))
            return ops.mkdir(directory, name) if kind == "mkdir" else ops.create(directory, name)
        self._asked.append(("", b"", b""))
        place = draw.randrange(len(self._files))
        inode_id, directory, name = self._files[place]
        match kind:
            case "write":
                return ops.write(inode_id, draw.randrange(5_000), draw.randbytes(draw.randrange(1, 400)))
            case "append":
                return ops.append(inode_id, draw.randbytes(draw.randrange(1, 200)))
            case "chmod":
                return ops.chmod(inode_id, draw.randrange(0o1000))
            case "xattr":
                return ops.set_xattr(inode_id, b"user.n", b"%d" % draw.randrange(100))
            case "truncate":
                return ops.truncate(inode_id, draw.randrange(8_000))
        self._files[place] = self._files[-1]
        self._files.pop()
        if kind == "unlink":
            return ops.unlink(directory, name)
        target = draw.choice(self._directories)
        self._names += 1
        moved = b"moved-%d" % self._names
        self._files.append((inode_id, target, moved))
        return ops.rename(directory, name, target, moved)

    def heard(self, applied: Applied) -> int:
        """Answers how many operations were accepted."""
        accepted = 0
        outcomes = [file for run in applied.groups[0].runs for file in run.files]
        for outcome, (kind, directory, name) in zip(outcomes, self._asked, strict=True):
            assert outcome is not None
            accepted += outcome.reason == 0
            if kind == "mkdir" and outcome.reason == 0:
                self._directories.append(outcome.inode_id)
            elif kind == "create" and outcome.reason == 0:
                self._files.append((outcome.inode_id, directory, name))
        return accepted


class Node:
    def __init__(self, directory: Path) -> None:
        self.store = RocksStore(str(directory))
        self.machine = Machine(self.store)

    def apply(self, index: int, entry: DecodedEntry) -> Applied:
        applied = self.machine.apply(Index(index), Term(1), entry)
        self.store.commit(applied.index, applied.term, applied.digest, applied.changes, applied.last_stamp_ns)
        self.store.poll()
        return applied

    def reopen(self) -> None:
        self.store.request_flush()
        while self.store.flush_state is not FlushState.IDLE:
            self.store.poll()
        self.store.close()
        self.store.open()
        self.machine = Machine(self.store)


def upkeep(index: int, seq: int, workspace_id: bytes, below_log_index: int) -> DecodedGroup:
    raws = [
        maintenance(raise_versions_floor=RaiseVersionsFloor(floor_index=max(0, index - FLOOR_BEHIND))),
        maintenance(trim_oplog=TrimOplog(workspace_id=workspace_id, below_log_index=below_log_index)),
    ]
    message = submit(ADMIN, seq, raws, floor=seq - 1, basis=index - 1)
    return group(message, principal="leader", scope=Scope("", ""))


def play(nodes: list[Node], seed: int, total: int) -> int:
    """Applies `total` operations everywhere; answers how many were accepted."""
    first, work = nodes[0], Work(seed)
    made = batch_of(Nanos(STAMP_NS), bytes(16), [group(submit(client(1), 1, [ops.workspace().SerializeToString()]))])
    founded = [node.apply(1, decode_entry(encode_batch(made))) for node in nodes]
    outcome = founded[0].groups[0].runs[0].files[0]
    assert outcome is not None
    work.workspace_id = outcome.inode_id
    accepted, seq, admin_seq = 0, 2, 1
    for index in range(2, total // BATCH + 2):
        raws = [command.SerializeToString() for command in work.commands(BATCH)]
        message = submit(client(1), seq, raws, floor=seq - 1, basis=index - 1, workspace=work.workspace_id)
        seq += BATCH
        groups = [group(message)]
        if index % 5 == 0:
            header = read_header(first.store, work.workspace_id)
            assert header is not None
            groups.append(upkeep(index, admin_seq, work.workspace_id, max(0, header.log_index - 2_000)))
            admin_seq += 2
        stamp_ns = Nanos(STAMP_NS + index * 1_000_000)
        entry = decode_entry(encode_batch(batch_of(stamp_ns, index.to_bytes(16, "big"), groups)))
        applied = [node.apply(index, entry) for node in nodes]
        assert len({a.digest for a in applied}) == 1, f"digests differ at entry {index}"
        accepted += work.heard(applied[0])
        if index % DISCARD_EVERY == 0:
            nodes[1].machine.discard()
        if index % REOPEN_EVERY == 0:
            nodes[2].reopen()
        if index % LOOK_EVERY == 0:
            headers = [read_header(node.store, work.workspace_id) for node in nodes]
            assert len({(h.root, h.log_index) for h in headers if h is not None}) == 1
    for node in nodes:
        checked = verify_tree(node.store, work.workspace_id)
        assert checked is not None
        assert checked.sound
    return accepted


@pytest.mark.req("WS-35", "WS-64", "CL-17")
@pytest.mark.parametrize("total", [4_000, pytest.param(1_000_000, marks=LONG)])
def test_machines_agree_on_every_root(tmp_path: Path, total: int) -> None:
    seed = 20_261
    print("seed", seed)
    nodes = [Node(tmp_path / name) for name in ("warm", "forgetful", "reopened")]
    began_s = time.monotonic()
    accepted = play(nodes, seed, total)
    took_s = time.monotonic() - began_s
    rate = total / took_s
    print(f"{accepted} of {total} accepted, {rate:,.0f} operations/s on three machines in {took_s:.0f} s")
    assert accepted > 0.9 * total
    for node in nodes:
        node.store.close()
