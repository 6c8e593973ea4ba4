"""The small parts of a live tree, each alone: ids of lanes, the inbox, waits and callbacks, the lock taken in turns."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from blake3 import blake3

from hypercluster.client.lane_types import Intent
from hypercluster.client.live import process_lanes
from hypercluster.client.live.inbox import INBOX_RECORDS_MAX, Inbox
from hypercluster.client.live.ports import Applied, Process
from hypercluster.client.live.process_lanes import ProcessLanes, is_alive, own_process, process_client_id
from hypercluster.client.live.publishing import Publishing
from hypercluster.client.live.tree_lock import TreeLock
from hypercluster.client.stream import LanePort
from hypercluster.errors import DamagedError, NoQuorumError, QueueFullError
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord
from tests.fakes.waiting import eventually, never
from tests.unit.workspace import ops

ME = own_process()


def record(index: int, root: bytes = b"", command: Command | None = None) -> LogRecord:
    return LogRecord(log_index=index, root=root, command=b"" if command is None else command.SerializeToString())


# --- lanes --------------------------------------------------------------------------------------------


@pytest.mark.req("WS-10")
def test_a_client_id_is_of_one_process_on_one_mount() -> None:
    fields = [b"hypersync/client", b"w" * 16, b"host", b"m" * 16, (7).to_bytes(8, "big"), (99).to_bytes(8, "big")]
    framed = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    found = process_client_id(b"w" * 16, "host", b"m" * 16, Process(7, 99), 0)
    assert found == blake3(framed).digest(16)
    others = {
        process_client_id(b"v" * 16, "host", b"m" * 16, Process(7, 99), 0),
        process_client_id(b"w" * 16, "hos", b"tm" + b"m" * 15, Process(7, 99), 0),
        process_client_id(b"w" * 16, "host", b"n" * 16, Process(7, 99), 0),
        process_client_id(b"w" * 16, "host", b"m" * 16, Process(8, 99), 0),
        process_client_id(b"w" * 16, "host", b"m" * 16, Process(7, 98), 0),
        process_client_id(b"w" * 16, "host", b"m" * 16, Process(7, 99), 1),
    }
    assert len(others) == 6 and found not in others


def test_a_process_is_told_from_another_of_its_pid() -> None:
    assert is_alive(ME)
    assert is_alive(Process(0, 0))
    assert not is_alive(Process(ME.pid, ME.start_ticks + 1))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with open(f"/proc/{child.pid}/stat", "rb") as stat:
        known = Process(child.pid, int(stat.read().rpartition(b")")[2].split()[19]))
    assert is_alive(known)
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert not is_alive(known)


class Lanes:
    """Opens lanes that carry nothing, and knows which are open."""

    def __init__(self) -> None:
        self.open: list[LanePort] = []
        self.abandoned: list[Intent] = []
        self.fails = 0

    def open_lane(self, new_client_id: object) -> LanePort:
        from hypercluster.client.lane import Lane

        lane = Lane(new_client_id, None)  # type: ignore[arg-type]
        port = LanePort(None, lane)  # type: ignore[arg-type]
        self.open.append(port)
        return port

    async def abandon(self, intent: Intent) -> None:
        if self.fails:
            self.fails -= 1
            raise NoQuorumError("not now")
        self.abandoned.append(intent)

    def made(self) -> ProcessLanes:
        return ProcessLanes(self.open_lane, self.open.remove, self.abandon, (b"w" * 16, "host", b"m" * 16))


async def test_lanes_are_bounded_and_idle_ones_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lanes, "LANES_MAX", 3)
    lanes = Lanes()
    made = lanes.made()
    first = made.of(Process(1, 1))
    for pid in (2, 3):
        made.of(Process(pid, 1))
    assert made.of(Process(1, 1)) is first
    made.of(Process(4, 1))  # in the place of 2, the longest unused
    assert len(made) == len(lanes.open) == 3
    assert made.of(Process(1, 1)) is first
    again = made.of(Process(2, 1))
    assert again.port.lane.client_id == process_client_id(b"w" * 16, "host", b"m" * 16, Process(2, 1), 1)
    assert made.process_of(again.port.lane.client_id) == Process(2, 1)
    for lane in (first, again, made.of(Process(4, 1))):
        lane.users = 1
    with pytest.raises(QueueFullError, match="the limit is 3"):
        made.of(Process(5, 1))


async def test_lanes_of_processes_that_ended_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lanes, "SWEEP_S", 0.001)
    lanes = Lanes()
    made = lanes.made()
    made.of(ME)
    gone = Process(ME.pid, ME.start_ticks + 1)
    gone_id = made.of(gone).port.lane.client_id
    made.of(gone).users = 1
    sweep = asyncio.create_task(made.sweep())
    await never(lambda: len(made) < 2, "a lane in use was ended", 0.02)
    made.of(gone).users = 0
    await eventually(lambda: len(made) == 1, "the lane of the process that ended is ended")
    sweep.cancel()
    assert len(lanes.open) == 1
    assert made.process_of(gone_id) is None
    # Should it come back, as one does that this worker may not see, nothing is sent again under its old id.
    assert made.of(gone).port.lane.client_id == process_client_id(b"w" * 16, "host", b"m" * 16, gone, 1)


@pytest.mark.req("WS-4")
async def test_a_lane_is_blocked_until_its_last_open_intent_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_lanes, "ABANDON_PAUSE_S", (0.001, 0.001))
    lanes = Lanes()
    lanes.fails = 3
    made = lanes.made()
    lane = made.of(ME)
    made.block(ME, Intent(b"c" * 16, 5, 9))
    made.block(ME, Intent(b"c" * 16, 6, 9))
    assert "no known outcome" in lane.blocked and ":6:" in lane.blocked
    async with asyncio.timeout(5):
        while lane.blocked:
            assert Intent(b"c" * 16, 6, 9) not in lanes.abandoned
            await asyncio.sleep(0)
    assert Intent(b"c" * 16, 6, 9) in lanes.abandoned
    await made.close()


# --- the inbox ----------------------------------------------------------------------------------------


@pytest.mark.req("WS-1")
def test_records_are_given_out_in_order_without_gaps() -> None:
    inbox = Inbox(4)
    for index in (7, 5, 4, 8):
        inbox.put(record(index), ME if index > 5 else None)
    assert inbox.next_unseen() is inbox._items[5]
    assert inbox.next_unseen() is None
    assert inbox.ready(9) == []
    inbox._items[5].lacking = set()
    assert [item.record.log_index for item in inbox.ready(9)] == [5]
    inbox.put(record(6), None)
    while (item := inbox.next_unseen()) is not None:
        item.lacking = {b"chunk"} if item.record.log_index == 8 else set()
    assert [item.record.log_index for item in inbox.ready(9)] == [5, 6, 7]
    assert [item.record.log_index for item in inbox.ready(2)] == [5, 6]
    inbox.take(3)
    assert inbox.ready(9) == []
    assert inbox.root_at(8) == b""


def test_two_stories_about_one_index_are_noticed() -> None:
    inbox = Inbox(0)
    inbox.put(record(1, b"a"), ME)
    inbox.put(record(1, b"a"), None)
    with pytest.raises(DamagedError, match="record 1"):
        inbox.put(record(1, b"b"), None)
    for item in (inbox.next_unseen(),):
        assert item is not None
        item.lacking = set()
    inbox.take(1)
    with pytest.raises(DamagedError, match="record 1"):
        inbox.put(record(1, b"b"), None)


def test_the_inbox_is_bounded_but_never_for_the_next_record() -> None:
    inbox = Inbox(0)
    for index in range(2, INBOX_RECORDS_MAX + 2):
        inbox.put(record(index), None)
    assert inbox.has_room  # record 1 is what everything waits for
    inbox.put(record(1), None)
    assert not inbox.has_room
    inbox.put(record(INBOX_RECORDS_MAX + 9), ME)
    assert inbox.root_at(INBOX_RECORDS_MAX + 9) is None
    large = Inbox(0)
    for index in range(1, 70):
        large.put(record(index, command=ops.set_xattr(b"i" * 16, b"user.x", bytes(1 << 19))), None)
    assert not large.has_room


# --- publishing ---------------------------------------------------------------------------------------


def applied(index: int) -> Applied:
    return Applied(index, (), (), (), None)


@pytest.mark.req("WS-2")
async def test_a_wait_ends_when_its_index_is_published_after_the_callbacks() -> None:
    publishing = Publishing(3)
    order: list[str] = []
    publishing.on_applied(lambda told: order.append(f"told {told.log_index} at {publishing.applied_index}"))
    await publishing.wait(3)

    async def wait(index: int) -> None:
        await publishing.wait(index)
        order.append(f"reached {index}")

    waits = [asyncio.create_task(wait(index)) for index in (5, 4, 6)]
    await asyncio.sleep(0)
    for index in (4, 5):
        assert publishing.publish(applied(index)) is None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["told 4 at 3", "reached 4", "told 5 at 4", "reached 5"]
    publishing.stop(OSError(5, "stopped"))
    with pytest.raises(OSError, match="stopped"):
        await waits[2]
    with pytest.raises(OSError, match="stopped"):
        await publishing.wait(9)
    await publishing.wait(5)
    publishing.go_on()
    later = asyncio.create_task(publishing.wait(6))
    assert publishing.publish(applied(6)) is None
    await later


# --- the lock -----------------------------------------------------------------------------------------


def test_whoever_waits_for_the_lock_gets_it_before_the_one_that_comes_back() -> None:
    lock, order = TreeLock(), list[str]()

    def look() -> None:
        with lock:
            order.append("reader")

    reader = threading.Thread(target=look)
    with lock:
        reader.start()
        while not lock._gate.locked():  # until it stands there
            os.sched_yield()
    with lock:
        order.append("again")
    reader.join()
    assert order == ["reader", "again"]
