"""Hazards: operations of different clients that may have undone one another (WS-46). Told, never refused.

Owns: the window of a workspace, the unreserved writes, truncations, renames and unlinks among its last
HAZARD_WINDOW_OPS operations by log distance, and the verdict on a new one.
Never: state of its own. A window is a function of the op log, which trimming leaves long enough (oplog.py): it is
read from there when an operation first needs it, and followed from then on while the workspace stays open.
Invariants: a window just read and one that was followed say the same, because what leaves it for want of room
(HAZARD_WINDOW_BYTES_MAX, which only long names reach) follows from the operations behind it alone.

Two clients are different unless an agent of one name, vouched for by one worker, stands behind both (D-19): each
process of an agent is a client. An append overwrites nothing, whatever came before it: it is only ever the earlier
one. An operation whose base_index covers the earlier one had seen it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from hypercluster.limits import HAZARD_WINDOW_BYTES_MAX, HAZARD_WINDOW_OPS
from hypercluster.pb.v1 import coordination_command_pb2
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, LogBatch, LogRecord, Rename
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.events import HazardEvent
from hypercluster.state_machine.outcome import FileOutcome, HazardFound
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.oplog import scan_log
from hypercluster.state_machine.workspace.records import Inode
from hypercluster.state_machine.workspace.turn import Turn
from hypercluster.state_machine.workspace.writing import NO_END

OVERLAPPING_WRITE: Final = int(coordination_command_pb2.HAZARD_KIND_OVERLAPPING_WRITE)
CONCURRENT_RENAME: Final = int(coordination_command_pb2.HAZARD_KIND_CONCURRENT_RENAME)
WRITE_AFTER_UNLINK: Final = int(coordination_command_pb2.HAZARD_KIND_WRITE_AFTER_UNLINK)

_TOUCH_BYTES: Final = 950  # in memory, the names of client, worker and agent at their longest included

# What an operation touches, as keys of a window: the content of an inode by its id, an inode that moves, a name.
_MOVED, _NAMED = b"m", b"n"


class Touch(NamedTuple):
    """An operation of the window: what it touched and who did it. Bytes [start, end) of a write."""

    log_index: int
    stamp_ns: int
    keys: tuple[bytes, ...]
    start: int
    end: int
    client_id: bytes
    worker: str
    agent: str


_touch_of = partial(tuple.__new__, Touch)  # a third of the time of a call of Touch


class Hazard(NamedTuple):
    """`earlier` is what the new operation may have undone, or what may have undone it."""

    kind: int
    earlier: Touch

    @property
    def found(self) -> HazardFound:
        return HazardFound(self.kind, self.earlier.log_index)


class HazardWindow:
    """The touches of one workspace's last operations, and by what they touched."""

    __slots__ = ("_by_key", "_bytes", "_client_id", "_foreign_index", "_touches", "agent", "origin")

    def __init__(self) -> None:
        self._touches: deque[Touch] = deque()
        self._bytes = 0
        # Of each key first its only client, or None where there may be several; then its touches in order. Made when
        # somebody asks, and given up once a client is alone.
        self._by_key: dict[bytes, list[Any]] | None = None
        self._client_id = b""  # of the newest touch
        self._foreign_index = -1  # no touch of another client is newer than this
        self.origin = b""
        self.agent = ""

    def name_agent(self, origin: bytes) -> str:
        """The agent of an Origin in its canonical encoding; the commands of a run share theirs."""
        if origin != self.origin:
            self.origin, self.agent = origin, Origin.FromString(origin).agent
        return self.agent

    def add(self, touch: Touch) -> None:
        """The operation that comes next; what is too far behind it leaves."""
        touches, by_key = self._touches, self._by_key
        client_id = touch[5]
        floor = touch[0] + 1 - HAZARD_WINDOW_OPS
        weight = self._bytes + _weight(touch[2])
        while touches and (touches[0][0] < floor or weight > HAZARD_WINDOW_BYTES_MAX):
            gone = touches.popleft()
            weight -= _weight(gone[2])
            if by_key is not None:
                _drop(by_key, gone)
        self._bytes = weight
        if client_id != self._client_id:
            self._client_id = client_id
            self._foreign_index = touches[-1][0] if touches else -1
        touches.append(touch)
        if self._foreign_index < floor:
            self._by_key = None
        elif by_key is not None:
            _enter(by_key, touch)

    def is_alone(self, client_id: bytes, floor: int) -> bool:
        """Whether nobody else did anything at `floor` or later."""
        return client_id == self._client_id and self._foreign_index < floor

    def newest_other(self, key: bytes, touch: Touch, floor: int) -> Touch | None:
        """The newest that others did to the same thing at `floor` or later; of a write, to some of the same bytes."""
        by_key = self._by_key
        if by_key is None:
            by_key = self._by_key = {}
            for known in self._touches:
                _enter(by_key, known)
        touches = by_key.get(key)
        _, _, _, start, end, client_id, _, _ = touch
        if touches is None or touches[0] == client_id:
            return None
        alone = True
        for at in range(len(touches) - 1, 0, -1):
            earlier: Touch = touches[at]
            if earlier[5] == client_id:
                continue
            alone = False
            if earlier[0] < floor:
                break
            if ((earlier[3] < end and start < earlier[4]) or start == end) and not _one_agent(earlier, touch):
                return earlier
        if alone:
            touches[0] = client_id
        return None

    def stamped(self, stamp_ns: int) -> Touch | None:
        return next((touch for touch in self._touches if touch.stamp_ns == stamp_ns), None)


def _enter(by_key: dict[bytes, list[Any]], touch: Touch) -> None:
    client_id = touch[5]
    for key in touch[2]:
        found = by_key.get(key)
        if found is None:
            by_key[key] = [client_id, touch]
        else:
            found.append(touch)
            if found[0] != client_id:
                found[0] = None


def _drop(by_key: dict[bytes, list[Any]], touch: Touch) -> None:
    for key in touch[2]:
        mine = by_key[key]
        if len(mine) == 2:
            del by_key[key]
        else:
            del mine[1]


def _weight(keys: tuple[bytes, ...]) -> int:
    return _TOUCH_BYTES if len(keys) < 2 else _TOUCH_BYTES + len(keys[1]) + len(keys[-1])


def _one_agent(left: Touch, right: Touch) -> bool:
    return bool(right.agent) and left.agent == right.agent and left.worker == right.worker


def judge_hazard(ctx: OpContext, turn: Turn, command: FileCommand) -> Hazard | None:
    """What the operation just carried out, and not reserved, may have undone; and its place in the window."""
    span = turn.span
    if span is None and turn.operation not in {"rename", "unlink"}:
        return None
    workspace = turn.workspace
    window = workspace.window
    if window is None:
        if not _may_conflict(turn):
            return None  # the window is read when something needs it, and this operation with it
        window = workspace.window = read_window(
            ctx.overlay.reader,
            turn.header.workspace_id,
            ctx.effects.log_records.get(turn.header.workspace_id, ()),
            turn.log_index,
        )
    inode = turn.subject
    assert inode is not None
    log_index, client_id = turn.log_index, ctx.client_id
    keys: tuple[bytes, ...]
    if span is not None:
        start, end = span
        keys = (inode.inode_id,)
    else:
        start = end = 0
        keys = _moved_keys(command.rename, inode.inode_id) if turn.operation == "rename" else ()
    agent = window.agent if ctx.origin == window.origin else window.name_agent(ctx.origin)
    touch = _touch_of((log_index, turn.stamp_ns, keys, start, end, client_id, ctx.worker, agent))
    floor = log_index - HAZARD_WINDOW_OPS
    hazard = None
    if not window.is_alone(client_id, floor) and _may_conflict(turn):
        hazard = _conflict(window, inode, touch, command, floor)
    window.add(touch)
    return hazard


def hazard_event(ctx: OpContext, outcome: FileOutcome, hazard: Hazard, path: bytes = b"") -> HazardEvent:
    """What both workers are told of the accepted operation."""
    earlier = hazard.earlier
    return HazardEvent(
        hazard.kind,
        earlier.log_index,
        outcome.log_index,
        outcome.inode_id,
        ctx.worker,
        Origin.FromString(ctx.origin).agent,
        earlier.worker,
        earlier.agent,
        path,
    )


def _may_conflict(turn: Turn) -> bool:
    """Whether an operation of the window can have touched the same, from the indexes the inode has anyway."""
    inode = turn.subject
    if turn.span is None or inode is None:
        return turn.operation == "rename"
    floor = turn.log_index - HAZARD_WINDOW_OPS
    return turn.content_before >= floor or (not inode.nlink and inode.metadata_index >= floor)


def _moved_keys(op: Rename, inode_id: bytes) -> tuple[bytes, ...]:
    source = _NAMED + op.source.directory + op.source.name
    target = _NAMED + op.target.directory + op.target.name
    return (_MOVED + inode_id, source, target) if source != target else (_MOVED + inode_id, source)


def _conflict(window: HazardWindow, inode: Inode, touch: Touch, command: FileCommand, floor: int) -> Hazard | None:
    start, end = touch.start, touch.end
    kind = OVERLAPPING_WRITE if start < end else CONCURRENT_RENAME
    if start < end and not inode.nlink:
        remover = window.stamped(inode.orphaned_ns)
        if remover is not None and _unseen(remover, touch, command, floor):
            return Hazard(WRITE_AFTER_UNLINK, remover)
    if start < end and command.write.append:
        return None  # it overwrites nothing
    newest: Touch | None = None
    for key in touch.keys:
        earlier = window.newest_other(key, touch, floor)
        if earlier is not None and (newest is None or earlier.log_index > newest.log_index):
            newest = earlier
    if newest is None or not _unseen(newest, touch, command, floor):
        return None  # one that was seen stands for all before it
    return Hazard(kind, newest)


def _unseen(earlier: Touch, touch: Touch, command: FileCommand, floor: int) -> bool:
    if earlier.log_index < floor or earlier.client_id == touch.client_id or _one_agent(earlier, touch):
        return False
    return not command.HasField("base_index") or earlier.log_index > command.base_index


def read_window(reader: Reader, workspace_id: bytes, pending: Iterable[bytes], next_index: int) -> HazardWindow:
    """The window before the operation `next_index`: from the op log, and the records of this entry, `pending`."""
    window = HazardWindow()
    floor = next_index - HAZARD_WINDOW_OPS
    for part in scan_log(reader, workspace_id, max(floor, 1)):
        for record in LogBatch.FromString(part.batch).records:
            if record.log_index >= floor:
                _add_record(window, record)
    for raw in pending:
        _add_record(window, LogRecord.FromString(raw))
    return window


def _add_record(window: HazardWindow, record: LogRecord) -> None:
    if record.reserved:
        return
    file = Command.FromString(record.command).file
    keys: tuple[bytes, ...] = (record.inode_id,)
    start = end = 0
    match file.WhichOneof("op"):
        case "write":
            start = record.applied_offset
            end = start + (sum([piece.length for piece in file.write.pieces]) or len(file.write.inline))
            if start == end:
                return
        case "truncate":
            start, end = file.truncate.size, NO_END
        case "rename":
            keys = _moved_keys(file.rename, record.inode_id)
        case "unlink":
            keys = ()
        case _:
            return
    agent = record.origin.agent
    window.add(
        Touch(record.log_index, record.committed_at_ns, keys, start, end, record.client_id, record.worker, agent)
    )
