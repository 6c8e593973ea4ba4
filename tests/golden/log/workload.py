"""Entries that exercise all the core does, drawn from a seed: for the golden log and for the net around purity.

`core_entries` needs the hub, lanes and upkeep only; `file_entries` makes a workspace and changes it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from blake3 import blake3

from hypercluster.log.entry import DecodedGroup, batch_of, encode_batch, encode_config, encode_no_op
from hypercluster.pb.v1.command_pb2 import Command, ForgetLane, RaiseVersionsFloor, TrimOplog
from hypercluster.pb.v1.workspace_command_pb2 import (
    ChunkPiece,
    ChunkPut,
    Create,
    FileCommand,
    Mkdir,
    Place,
    Rename,
    Truncate,
    Unlink,
    WorkspaceCreate,
    Write,
)
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import Index, Nanos, Scope, Term
from tests.fakes.commands import STAMP_NS, client, group, hub_del, hub_set, maintenance, submit

SCOPES = (Scope("acme", "web"), Scope("acme", "api"), Scope("bolt", "web"))
UPKEEP = client(900)
ROOT = bytes(16)


def _command(draw: random.Random) -> bytes:
    key = b"%s/%d" % (draw.choice([b"a", b"b\0", b"\xff"]), draw.randrange(12))
    expected = draw.choice([None, None, None, 0, draw.randrange(1, 60)])
    match draw.randrange(10):
        case 0:
            return hub_del(key, expected=expected)
        case 1:
            return hub_set(key, b"1", namespace="settings", expected=expected)
        case 2:
            return hub_set(key, b"1", namespace=draw.choice(["presence", "unheard-of"]))
        case 3:
            return hub_set(key, b"", op_type=0)
        case _:
            return hub_set(key, b'"%s"' % draw.randbytes(draw.randrange(120)).hex().encode(), expected=expected)


def _upkeep(draw: random.Random, index: int, seq: int, last_seqs: dict[int, int]) -> DecodedGroup:
    if draw.random() < 0.5:
        raw = maintenance(raise_versions_floor=RaiseVersionsFloor(floor_index=max(1, index - draw.randrange(40))))
    else:
        number = draw.randrange(8)
        last_seq = last_seqs.get(number, 0) + draw.choice([0, 0, 1])
        raw = maintenance(forget_lane=ForgetLane(client_id=client(number), last_seq=last_seq))
    return group(submit(UPKEEP, seq, [raw], basis=index - 1), principal="leader", scope=Scope("", ""))


def core_entries(seed: int, count: int) -> Iterator[bytes]:
    """Payloads: batches with retries, conflicts, gaps, strangers and upkeep, and now and then an entry without any."""
    draw = random.Random(seed)
    last_seqs: dict[int, int] = {}
    sent: dict[tuple[int, int], bytes] = {}
    upkeep_seq = 0
    for index in range(1, count + 1):
        if draw.random() < 0.05:
            yield draw.choice([encode_no_op(), encode_config(draw.randbytes(20))])
            continue
        groups = []
        for _ in range(draw.choice([1, 1, 2, 4])):
            number = draw.randrange(8)
            last = last_seqs.get(number, 0)
            first = max(1, last + draw.choice([1, 1, 1, 1, -4, 0, 2]))
            raws = []
            for seq in range(first, first + draw.choice([1, 2, 16])):
                fresh = _command(draw)
                raws.append(fresh if draw.random() < 0.05 else sent.setdefault((number, seq), fresh))
            if first <= last + 1:
                last_seqs[number] = max(last, first + len(raws) - 1)
            floor = min(first - 1, max(0, last - draw.randrange(30)))
            message = submit(client(number), first, raws, floor=floor, basis=draw.choice([0, index - 1, index - 1]))
            principal = "stranger" if draw.random() < 0.03 else f"worker-{number}"
            groups.append(group(message, principal=principal, scope=SCOPES[number % 3], worker=f"host-{number % 2}"))
        if draw.random() < 0.15:
            upkeep_seq += 1
            groups.append(_upkeep(draw, index, upkeep_seq, last_seqs))
        hour_ns = draw.choice([0, 0, 0, 1 << 41]) * index
        yield encode_batch(batch_of(Nanos(STAMP_NS + index * 1_000_000 + hour_ns), draw.randbytes(16), groups))


def file_entries(seed: int, count: int) -> Iterator[bytes]:
    """Payloads for a store that `core_entries` never touched: files of one workspace, chunks, trims."""
    draw = random.Random(seed)
    made = Command(workspace_create=WorkspaceCreate(name="src", uid=1, gid=1, mode=0o755)).SerializeToString()
    first = batch_of(Nanos(STAMP_NS), bytes(16), [group(submit(client(1), 1, [made]))])
    applied = Machine(MemoryStore()).apply(Index(1), Term(1), first)
    outcome = applied.groups[0].runs[0].files[0]
    assert outcome is not None
    workspace = outcome.inode_id
    yield encode_batch(first)
    seq, known = 2, [b"f0"]
    for index in range(2, count + 1):
        raws = [_file_command(draw, known) for _ in range(draw.choice([1, 3, 8]))]
        message = submit(client(1), seq, raws, workspace=workspace, basis=index - 1)
        seq += len(raws)
        groups = [group(message)]
        if draw.random() < 0.1:
            raw = maintenance(trim_oplog=TrimOplog(workspace_id=workspace, below_log_index=index))
            upkeep = submit(UPKEEP, index, [raw], basis=index - 1)
            groups.append(group(upkeep, principal="leader", scope=Scope("", "")))
        yield encode_batch(batch_of(Nanos(STAMP_NS + index * 1_000_000), draw.randbytes(16), groups))


def _file_command(draw: random.Random, known: list[bytes]) -> bytes:
    place = Place(directory=ROOT, name=draw.choice(known))
    match draw.randrange(8):
        case 0 | 1 | 2:
            known.append(b"f%d" % draw.randrange(60))
            op = FileCommand(create=Create(place=Place(directory=ROOT, name=known[-1]), mode=0o644))
        case 3:
            op = FileCommand(mkdir=Mkdir(place=place, mode=0o755))
        case 4:
            op = FileCommand(rename=Rename(source=place, target=Place(directory=ROOT, name=draw.choice(known))))
        case 5:
            op = FileCommand(unlink=Unlink(place=place))
        case 6:
            content = draw.randbytes(draw.randrange(1, 9_000))
            put = ChunkPut(hash=blake3(content).digest(), content=content)
            return Command(chunk_put=put).SerializeToString()
        case _:
            piece = ChunkPiece(hash=draw.randbytes(32), length=9)
            op = draw.choice(
                [
                    FileCommand(write=Write(inode_id=ROOT, inline=b"never")),
                    FileCommand(write=Write(inode_id=draw.randbytes(16), pieces=[piece])),
                    FileCommand(truncate=Truncate(inode_id=ROOT, size=1)),
                ]
            )
    return Command(file=op).SerializeToString()
