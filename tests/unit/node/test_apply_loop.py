"""From a committed entry to stored state, answers and events."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from hypercluster.errors import ApplyFailedError, DiskFailedError, DiskFullError
from hypercluster.limits import DIGESTS_KEPT
from hypercluster.log.admission import admit
from hypercluster.log.entry import batch_of, encode_batch
from hypercluster.node.apply_loop import ApplyLoop
from hypercluster.node.fanout import Fanout, OpLog
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.decoded import DecodedEntry, DecodedGroup
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import Change
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ChunkHash, Digest, Index, Nanos, Term
from tests.fakes.virtual_turns import VirtualTurns
from tests.unit.node.commands import CALLER, SCOPE, chunk, client, hub_set, submit
from tests.unit.node.memory_state import MemoryState

TERM = Term(1)


def entry(number: int, message: bytes) -> DecodedEntry:
    group = DecodedGroup(message, CALLER.principal, SCOPE, CALLER.worker, admit(message))
    return batch_of(Nanos(1_000 * number), b"s" * 16, [group])


class World:
    def __init__(self) -> None:
        self.turns = VirtualTurns()
        self.state = MemoryState()
        self.machine = Machine(self.state)
        self.heard: list[int] = []
        self.wakes = 0
        self.room = True
        metrics = Metrics()
        op_log = OpLog(lambda _: None, lambda _: 0, lambda *_: None, lambda _: (0, 0))
        self.loop = ApplyLoop(
            self.machine,
            self.state,
            self.state,
            Fanout(op_log, self.turns, metrics, lambda _: b""),
            self.turns,
            self.turns,
            metrics,
            on_applied=self.heard.append,
            wake=self.wake,
            has_room=lambda: self.room,
        )

    def wake(self) -> None:
        self.wakes += 1


def test_the_leaders_objects_and_the_logs_bytes_give_the_same_state() -> None:
    leader, follower = World(), World()
    for number in range(1, 6):
        made = entry(number, submit(client(1), number, hub_set(f"k{number}")))
        payload = encode_batch(made)
        leader.loop.apply(Index(number), TERM, payload, made)
        follower.loop.apply(Index(number), TERM, payload, None)
    assert leader.loop.digest_at(Index(5)) == follower.loop.digest_at(Index(5)) is not None
    assert list(leader.state.items()) == list(follower.state.items())
    assert leader.heard == [1, 2, 3, 4, 5] == leader.state.committed


@pytest.mark.req("CL-7")
def test_nobody_hears_of_an_entry_before_the_store_has_it() -> None:
    world = World()
    stored_when_heard: list[int] = []
    world.loop._on_applied = lambda index: stored_when_heard.append(world.state.committed[-1])
    made = entry(1, submit(client(1), 1, hub_set("a")))
    world.loop.apply(Index(1), TERM, encode_batch(made), made)
    world.loop.advance(Index(2), TERM)
    assert stored_when_heard == [1, 2]


@pytest.mark.req("CL-8")
def test_chunk_bytes_are_put_before_the_state_that_names_them() -> None:
    world = World()
    order: list[str] = []
    put, commit = world.state.put, world.state.commit

    class Watched(MemoryState):
        def put(self, chunk_hash, content):  # type: ignore[no-untyped-def]
            order.append("put")
            return put(chunk_hash, content)

        def commit(
            self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
        ) -> None:
            order.append("commit")
            commit(index, term, digest, changes, last_stamp_ns)

    watched = Watched()
    world.loop._store = world.loop._chunks = watched
    create = Command(workspace_create=WorkspaceCreate(name="demo", uid=1, gid=1, mode=0o755))
    made = entry(1, submit(client(1), 1, create))
    applied = world.loop.apply(Index(1), TERM, encode_batch(made), made)
    workspace_id = applied.groups[0].runs[0].files[0].inode_id  # type: ignore[union-attr]
    made = entry(2, submit(client(1), 2, chunk(b"hello" * 100), workspace_id=workspace_id))
    world.loop.apply(Index(2), TERM, encode_batch(made), made)
    assert order == ["commit", "put", "commit"]


def test_apply_yields_after_its_share_of_a_turn() -> None:
    world = World()
    world.loop.advance(Index(1), TERM)
    assert world.loop.ready()
    world.turns.now_s += 0.0019
    assert world.loop.ready()
    world.turns.now_s += 0.0002
    assert not world.loop.ready() and not world.loop.ready()
    assert world.wakes == 0
    world.turns.turn()
    assert world.wakes == 1 and world.loop.ready()
    world.turns.now_s += 10
    assert world.loop.ready(), "an idle loop has its whole share"


def test_apply_pauses_while_the_store_stalls() -> None:
    world = World()
    world.state.stalls = True
    assert not world.loop.ready()
    world.turns.pass_time(0.05)
    assert world.wakes > 0 and not world.loop.ready()
    world.state.stalls = False
    world.turns.pass_time(0.006)
    assert world.loop.ready()


@pytest.mark.req("CL-4")
def test_apply_waits_for_room_and_goes_on_by_itself() -> None:
    world = World()
    world.loop.advance(Index(1), TERM)
    world.room = False
    assert world.loop.ready(), "asked once a turn"
    world.turns.turn()
    assert not world.loop.ready()
    world.turns.pass_time(1.0)
    assert not world.loop.ready()
    world.room = True
    world.turns.pass_time(0.3)
    assert world.wakes > 0 and world.loop.ready()


@pytest.mark.req("CL-4", "CL-16")
def test_a_chunk_that_finds_no_room_is_not_taken_for_a_bad_entry() -> None:
    """ApplyFailedError would tell the operator to quarantine the command."""
    world = World()
    create = Command(workspace_create=WorkspaceCreate(name="demo", uid=1, gid=1, mode=0o755))
    made = entry(1, submit(client(1), 1, create))
    applied = world.loop.apply(Index(1), TERM, encode_batch(made), made)
    workspace_id = applied.groups[0].runs[0].files[0].inode_id  # type: ignore[union-attr]

    class Full(MemoryState):
        def put(self, chunk_hash: ChunkHash, content: bytes) -> bool:
            raise DiskFullError("no room for a chunk in /disk")

    world.loop._chunks = Full()
    made = entry(2, submit(client(1), 2, chunk(b"hello" * 100), workspace_id=workspace_id))
    with pytest.raises(DiskFailedError, match="entry 2 can not be stored: no room for a chunk in /disk"):
        world.loop.apply(Index(2), TERM, encode_batch(made), made)
    assert world.state.committed == [1]


@pytest.mark.req("CL-4", "CL-16")
def test_a_flush_that_finds_no_room_is_not_taken_for_a_bad_entry() -> None:
    world = World()

    class Full(MemoryState):
        def commit(
            self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
        ) -> None:
            raise DiskFullError("no room in /state")

    world.loop._store = Full()
    with pytest.raises(DiskFailedError, match="entry 1 can not be stored: no room in /state"):
        world.loop.advance(Index(1), TERM)


@pytest.mark.req("CL-16")
def test_an_entry_that_can_not_be_read_stops_the_node_by_name() -> None:
    world = World()
    with pytest.raises(ApplyFailedError, match="entry 1 of term 1"):
        world.loop.apply(Index(1), TERM, b"\x10\x07garbage", None)
    assert world.state.committed == []


def test_recent_digests_are_kept_and_bounded() -> None:
    world = World()
    for index in range(1, DIGESTS_KEPT + 10):
        world.loop.advance(Index(index), TERM)
    assert world.loop.digest_at(Index(DIGESTS_KEPT + 9)) is not None
    assert world.loop.digest_at(Index(2)) is None
    assert len(world.loop._digests) == DIGESTS_KEPT


def test_a_replaced_state_is_read_anew() -> None:
    ahead, behind = World(), World()
    for number in range(1, 4):
        made = entry(number, submit(client(1), number, hub_set("a")))
        ahead.loop.apply(Index(number), TERM, encode_batch(made), made)
    behind.state.write(ahead.state.items())
    watch = behind.loop._fanout.watch(b"w" * 16, 1)
    watch._lagging = False
    behind.loop.state_replaced()
    assert watch.lagging, "what the checkpoint brought was never published: watches read it from the op log"
    assert behind.loop.applied_index == 3 and behind.heard == [3]
    assert behind.loop.digest_at(Index(3)) == ahead.loop.digest_at(Index(3))
    made = entry(4, submit(client(1), 4, hub_set("b")))
    for world in (ahead, behind):
        world.loop.apply(Index(4), TERM, encode_batch(made), made)
    assert behind.loop.digest_at(Index(4)) == ahead.loop.digest_at(Index(4))
