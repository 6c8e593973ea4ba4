"""Project state by namespace: set, delete, compare-and-set (HUB-1 to HUB-3).

Owns: Family.HUB and the server_seq of each scope. A key's head record is 0x01, version, the place of that version
(versions.py) and the payload; the version of a value is the server_seq of the operation that wrote it.
Never: a look into a payload (the leader checked it, D-3), or at a version record.
Invariants: server_seq rises by exactly 1 per accepted operation of its scope, and a refusal takes none (HUB-2); what
judging answers does not depend on what the caches hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_DEL, HUB_OP_TYPE_SET
from hypercluster.state_machine.decoded import HubOp
from hypercluster.state_machine.keys import escaped, scope_prefix
from hypercluster.state_machine.meta import counter_change, read_counter, server_seq_key
from hypercluster.state_machine.outcome import BAD_OP_TYPE, OK, PRECONDITION_FAILED, UNKNOWN_NAMESPACE
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.state_machine.versions import DELETED, LIVE, PLACE, open_prefix
from hypercluster.values import Scope

SET: Final = int(HUB_OP_TYPE_SET)
DEL: Final = int(HUB_OP_TYPE_DEL)

HEADS_CACHED_MAX: Final = 100_000
SCOPES_CACHED_MAX: Final = 4_096

_HEAD = struct.Struct(">cQQI")  # LIVE, version, Raft index, ordinal
_ABSENT: Final[tuple[int, bytes]] = (0, b"")


@dataclass(frozen=True, slots=True)
class Namespace:
    """What a namespace allows (HUB-3)."""

    op_types: frozenset[int]
    version_required: bool


NAMESPACES: Final = {
    "settings": Namespace(frozenset({SET, DEL}), version_required=True),
    "metadata": Namespace(frozenset({SET, DEL}), version_required=False),
}


@dataclass(frozen=True, slots=True)
class HubValue:
    payload: bytes
    version: int  # server_seq of the operation that wrote it
    raft_index: int


@dataclass(slots=True)
class ScopeState:
    """What judging needs of one scope, kept between entries."""

    scope: Scope
    server_seq: int
    stored_seq: int  # what the store holds
    # namespace -> beginnings of its keys in Family.HUB and in Family.VERSIONS
    prefixes: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)


def head_prefix(scope: Scope, namespace: str) -> bytes:
    return scope_prefix(scope) + escaped(namespace.encode())


def decode_value(record: bytes) -> HubValue:
    _, version, raft_index, _ = _HEAD.unpack_from(record)
    return HubValue(record[_HEAD.size :], version, raft_index)


class Hub:
    """Judges hub commands over `reader`, the state before the present entry."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # head key -> (version, place); `_ABSENT` where nothing is. Holds at least every key the present entry wrote.
        self._heads: dict[bytes, tuple[int, bytes]] = {}
        self._scopes: dict[tuple[str, str], ScopeState] = {}
        self._touched: dict[tuple[str, str], ScopeState] = {}
        self._changes: list[Change] = []
        self._superseded: list[bytes] = []

    def scope_state(self, scope: Scope) -> ScopeState:
        key = (scope.org, scope.project)
        state = self._scopes.get(key)
        if state is None:
            seq = read_counter(self._reader, server_seq_key(scope))
            state = self._scopes[key] = ScopeState(scope, seq, seq)
        self._touched[key] = state
        return state

    def judge(self, state: ScopeState, op: HubOp, index: int, ordinal: int) -> tuple[int, int]:
        """(reason, version): on success the server_seq taken, otherwise the key's present version."""
        namespace, key, op_type, payload, expected = op
        rules = NAMESPACES.get(namespace)
        if rules is None:
            return UNKNOWN_NAMESPACE, 0
        if op_type not in rules.op_types:
            return BAD_OP_TYPE, 0
        prefixes = state.prefixes.get(namespace)
        if prefixes is None:
            prefixes = state.prefixes[namespace] = _prefixes(state.scope, namespace)
        head_key = prefixes[0] + key
        present = self._heads.get(head_key)
        if present is None:
            present = self._heads[head_key] = self._load(head_key)
        if expected != present[0] and (expected >= 0 or rules.version_required):
            return PRECONDITION_FAILED, present[0]
        state.server_seq = version = state.server_seq + 1
        if op_type == SET:
            place = PLACE.pack(index, ordinal)
            head = _HEAD.pack(LIVE, version, index, ordinal) + payload
            version_prefix = prefixes[1] + escaped(key)
            self._changes += (
                Change(Family.HUB, head_key, head),
                Change(Family.VERSIONS, version_prefix + place, head),
            )
            if present is not _ABSENT:
                self._superseded.append(version_prefix + present[1])
            self._heads[head_key] = (version, place)
        elif present is not _ABSENT:
            self._delete(head_key, prefixes[1] + escaped(key), version, present[1], PLACE.pack(index, ordinal))
        return OK, version

    def take(self) -> tuple[list[Change], list[bytes]]:
        """Changes and superseded version keys since the last call; bounds the caches. Once per entry."""
        changes, self._changes = self._changes, []
        superseded, self._superseded = self._superseded, []
        for state in self._touched.values():
            if state.server_seq != state.stored_seq:
                changes.append(counter_change(server_seq_key(state.scope), state.server_seq))
                state.stored_seq = state.server_seq
        self._touched.clear()
        if len(self._heads) > HEADS_CACHED_MAX:
            for key in list(self._heads)[: HEADS_CACHED_MAX // 2]:
                del self._heads[key]
        if len(self._scopes) > SCOPES_CACHED_MAX:
            self._scopes.clear()
        return changes, superseded

    def _delete(self, head_key: bytes, version_prefix: bytes, version: int, previous: bytes, place: bytes) -> None:
        tombstone = DELETED + version.to_bytes(8, "big")
        self._changes += (
            Change(Family.HUB, head_key, None),
            Change(Family.VERSIONS, version_prefix + place, tombstone),
        )
        self._superseded += (version_prefix + previous, version_prefix + place)
        self._heads[head_key] = _ABSENT

    def _load(self, head_key: bytes) -> tuple[int, bytes]:
        record = self._reader.get(Family.HUB, head_key)
        if record is None:
            return _ABSENT
        _, version, index, ordinal = _HEAD.unpack_from(record)
        return version, PLACE.pack(index, ordinal)


def _prefixes(scope: Scope, namespace: str) -> tuple[bytes, bytes]:
    """Beginnings of head keys and of version keys: a version key is the escaped head key and a place."""
    prefix = head_prefix(scope, namespace)
    return prefix, open_prefix(Family.HUB, prefix)
