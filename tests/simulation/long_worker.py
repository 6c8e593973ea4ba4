"""A simulated worker of the long run: a session with one node at a time, heartbeats, and a mirror of the log (CH-11).

Owns: `LongWorker`: where it connects, what it takes of the log and in which order, when it can be heard; `LogRecord`,
what all of them have to have seen at each log_index.
Never: draws from a generator it shares; so the order in which one node wakes its watchers decides nothing.
Invariants: it asks for the log from where it is, and takes each log_index once, in order; a violation ends the run.
"""

from __future__ import annotations

import asyncio
import random
from functools import lru_cache
from typing import TYPE_CHECKING

from hypercluster import limits
from hypercluster.errors import HistoryGoneError
from hypercluster.node.fanout import Head, Watch
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.pb.v1.workspace_pb2 import WatchLogResponse
from hypercluster.values import NodeId
from tests.simulation.invariants import ViolationError
from tests.simulation.node import Life, SimNode

if TYPE_CHECKING:
    from tests.simulation.long_world import LongWorld

HEARTBEAT_S = 15.0  # DET-1
RETRY_S = (0.5, 4.0)
PAUSE_LOOK_S = 1.0
LEAVE_AFTER_S = 20.0  # a node that does not reach the leader for so long is left
AVOID_S = 60.0
SEEN_LATE_S = 240.0  # what a partition may keep from all workers for a while


@lru_cache(maxsize=512)
def records_of(message: bytes) -> tuple[tuple[int, bytes], ...]:
    """(log_index, bytes) of a message; all watchers of a node are given the same object."""
    batches = WatchLogResponse.FromString(message).slice.batches
    found = (record for batch in batches for record in LogBatch.FromString(batch).records)
    return tuple((record.log_index, record.SerializeToString()) for record in found)


class LogRecord:
    """What stands at each log_index, as the first that was given it saw it."""

    def __init__(self) -> None:
        self.at: dict[int, bytes] = {}
        self._since: dict[int, float] = {}
        self.taken = self.skipped = 0

    def skip(self, worker: str, first_index: int, last_index: int, now_s: float) -> None:
        """Only who is behind by the replay window is sent to a snapshot."""
        age_s = now_s - self._since.get(first_index, 0.0)
        if age_s < limits.REPLAY_WINDOW_MS / 1e3 - SEEN_LATE_S:
            raise ViolationError("a snapshot without need", f"{worker}: {first_index} is {age_s:.0f} s old")
        self.skipped += last_index - first_index + 1

    def take(self, worker: str, index: int, content: bytes, now_s: float) -> None:
        self.taken += 1
        self._since.setdefault(index, now_s)
        if self.at.setdefault(index, content) != content:
            raise ViolationError("two records at a log_index", f"{worker} was given another one at {index}")


class LongWorker:
    def __init__(self, name: str, world: LongWorld, rng: random.Random) -> None:
        self.name = name
        self._world = world
        self._rng = rng
        self.up = False
        self.retired = False  # another host has taken its place: it does not come back
        self.cut = False
        self.slow_s = 0.0
        self.next_index = 1
        self.node: NodeId | None = None
        self.silent_since: float | None = world.events.now  # None: it can be heard
        self.audible_since: float | None = None  # as far as looks can tell; None: the leader can not hear it
        self.delivered_at = 0.0  # its last heartbeat came to the leader, maybe late
        self._deaf_since = 0.0
        self._life: Life | None = None
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None
        self._epoch = 0
        self._avoid_home_until = 0.0
        self._beat_epoch = 0
        self.beats = 0

    @property
    def queued_events(self) -> int:
        return 0 if self._watch is None else len(self._watch._queue)

    @property
    def connected(self) -> bool:
        return self._task is not None

    # --- coming and going -----------------------------------------------------------------------------------

    def start(self) -> None:
        if not self.up and not self.retired:
            self.up = True
            self._beat_epoch += 1
            self._beat(self._beat_epoch)
            self._note_silence()
            self._connect_after(self._rng.uniform(0.0, 2.0))

    def stop(self) -> None:
        """As SIGKILL does it. What it took of the log stays on its disk."""
        self.up = False
        self._beat_epoch += 1
        self._note_silence()
        self._hang_up()

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        self._note_silence()
        if cut:
            self._hang_up()
            self._connect_after(self._rng.uniform(*RETRY_S))

    def _note_silence(self) -> None:
        now = self._world.events.now
        if self.up and not self.cut:
            if self.silent_since is not None:
                self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = now

    def look(self, leader: SimNode | None) -> None:
        """Every few seconds: is the connection still one, does its node reach the leader, is there a better node?"""
        now, node = self._world.events.now, self._node()
        if self._task is not None and (node is None or node.life is not self._life):
            self._hang_up()
            self._connect_after(self._rng.uniform(0.0, 2.0))
        if self._task is None or node is None or not self._world.reaches(node, leader):
            self.audible_since = None
            if self._task is not None and now - self._deaf_since > LEAVE_AFTER_S:
                self._hang_up()
                self._avoid_home_until = now + AVOID_S
                self._connect_after(self._rng.uniform(0.0, 2.0))
            return
        self._deaf_since = now
        if self.audible_since is None:
            self.audible_since = now
        home = self._home()
        if self.node != home and now > self._avoid_home_until and self._is_up(home) and self._rng.random() < 0.2:
            self.move()

    def move(self) -> None:
        """To its home, if that answers."""
        if self.up and not self.cut:
            self._hang_up()
            self._connect_after(self._rng.uniform(0.0, 1.0))

    # --- the session --------------------------------------------------------------------------------------------

    def _node(self) -> SimNode | None:
        return None if self.node is None else self._world.nodes[self.node]

    def _home(self) -> NodeId | None:
        held = self._world.ring.holder(self.name)
        return None if held is None else NodeId(held)

    def _is_up(self, node: NodeId | None) -> bool:
        return node is not None and self._world.nodes[node].life is not None

    def _hang_up(self) -> None:
        self._epoch += 1
        if self._task is not None:
            self._task.cancel()
        self._task = self._life = self._watch = None

    def _connect_after(self, delay_s: float) -> None:
        epoch = self._epoch

        def connect() -> None:
            if epoch == self._epoch and self._task is None and self.up:
                self._connect()

        self._world.events.after(delay_s, connect)

    def _connect(self) -> None:
        home = self._home()
        if self.cut or self._world.workspace_id == b"":
            self._connect_after(self._rng.uniform(*RETRY_S))
            return
        stays_away = self._world.events.now <= self._avoid_home_until
        target = self._rng.choice(self._world.voters)
        if home is not None and self._is_up(home) and not stays_away:
            target = home
        life = self._world.nodes[target].life
        if life is None:
            self._connect_after(self._rng.uniform(*RETRY_S))
            return
        self.node, self._life, self._deaf_since = target, life, self._world.events.now
        self._task = self._world.tasks.start(self._follow(life, self._world.nodes[target], self._epoch))
        self._send_beat()

    async def _follow(self, life: Life, node: SimNode, epoch: int) -> None:
        """As the server's stream does it: a message is taken from the watch once the one before has left."""
        if self.next_index < life.fanout.op_log.replay_from(self._world.workspace_id):
            self._take_snapshot(life)
        watch = self._watch = life.fanout.watch(self._world.workspace_id, self.next_index)
        try:
            while epoch == self._epoch:
                message = await watch.next_message()
                while node.gate.paused:
                    await self._world.tasks.sleep(PAUSE_LOOK_S)
                await self._world.tasks.sleep(self._rng.uniform(0.0005, 0.005) + self.slow_s * self._rng.random())
                if epoch == self._epoch and not isinstance(message, Head):
                    self._take(message)
        except HistoryGoneError:
            self._take_snapshot(life)
            self._hang_up()
            self._connect_after(self._rng.uniform(*RETRY_S))
        finally:
            watch.close()

    def _take_snapshot(self, life: Life) -> None:
        """It is too far behind for the log (WS-52): it begins anew with the tree as it is there."""
        head = life.fanout.op_log.head(self._world.workspace_id)
        if head is not None and head.log_index >= self.next_index:
            self._world.log_record.skip(self.name, self.next_index, head.log_index, self._world.events.now)
            self.next_index = head.log_index + 1

    def _take(self, message: bytes) -> None:
        for index, content in records_of(message):
            if index != self.next_index:
                wrong = "missed" if index > self.next_index else "was given twice"
                raise ViolationError("log not gap-free", f"{self.name} {wrong} {min(index, self.next_index)}")
            self._world.log_record.take(self.name, index, content, self._world.events.now)
            self.next_index = index + 1

    # --- heartbeats -----------------------------------------------------------------------------------------

    def _beat(self, epoch: int) -> None:
        if epoch != self._beat_epoch:
            return
        self._send_beat()
        self._world.events.after(HEARTBEAT_S * self._rng.uniform(0.95, 1.05), lambda: self._beat(epoch))

    def _send_beat(self) -> None:
        node = self._node()
        if self._task is None or node is None or self.cut:
            return
        self.beats += 1
        life, name = self._life, self.name

        def arrive() -> None:
            if node.life is life:
                node.gate.do("workers", lambda: self._world.heartbeat(node, name))

        self._world.events.after(self._rng.uniform(0.0005, 0.02), arrive)
