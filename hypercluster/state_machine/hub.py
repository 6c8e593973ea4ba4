"""Project state by namespace: set, delete, compare-and-set (HUB-1 to HUB-3).

Owns: Family.HUB and the server_seq of each scope. A key's head record is 0x01, version, the place of that version
(versions.py) and the payload; the version of a value is the server_seq of the operation that wrote it. A version's own
record holds version and payload, that of a deletion the version.
Never: a look into a payload (the leader checked it, D-3), or at a version.
Invariants: server_seq rises by exactly 1 per accepted operation of its scope, and a refusal takes none (HUB-2); what
judging answers does not depend on what the caches hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hypercluster.errors import check
from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_DEL, HUB_OP_TYPE_SET
from hypercluster.state_machine.decoded import HubOp
from hypercluster.state_machine.keys import escaped, scope_prefix
from hypercluster.state_machine.meta import counter_change, read_counter, server_seq_key
from hypercluster.state_machine.outcome import BAD_OP_TYPE, OK, PRECONDITION_FAILED, UNKNOWN_NAMESPACE
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.state_machine.versions import (
    DELETED,
    LIVE,
    NO_PLACE,
    PLACE,
    PLACE_AT,
    REMADE,
    VERSION,
    deletion_key,
)
from hypercluster.values import Scope

SET: Final = int(HUB_OP_TYPE_SET)
DEL: Final = int(HUB_OP_TYPE_DEL)

HEADS_CACHED_MAX: Final = 100_000
SCOPES_CACHED_MAX: Final = 4_096

_HEAD = struct.Struct(">cQQI")  # LIVE, version, Raft index, ordinal
_VERSION: Final = struct.Struct(">c12sQ")  # kind, place of the version before it, version
_HUB: Final = bytes((Family.HUB,))
_HUB_FAMILY: Final = Family.HUB  # each look into an enumeration, and each call of a constructor in Python, is to be
_VERSIONS_FAMILY: Final = Family.VERSIONS  # felt where every hub command passes
_CHANGE_OF_ROW: Final = partial(tuple.__new__, Change)
# Nothing is there. Whether something was is for the store to say: its "D" record goes when the floor passes it, which
# nobody tells a cache.
_ABSENT: Final[tuple[int, bytes]] = (0, NO_PLACE)
check(PLACE_AT[Family.HUB] == _HEAD.size - PLACE.size, "versions are found through the places in these records")


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
    # by name: what the namespace allows, and what its keys begin with
    namespaces: dict[str, tuple[Namespace, bytes]] = field(default_factory=dict)


def head_prefix(scope: Scope, namespace: str) -> bytes:
    return scope_prefix(scope) + escaped(namespace.encode())


def decode_value(record: bytes) -> HubValue:
    _, version, raft_index, _ = _HEAD.unpack_from(record)
    return HubValue(record[_HEAD.size :], version, raft_index)


def decode_version(value: bytes) -> tuple[int, bytes]:
    """(version, payload), from what versions.py answers."""
    return int.from_bytes(value[:8], "big"), value[8:]


class Hub:
    """Judges hub commands over `reader`, the state before the present entry."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # head key -> (version, place). Where nothing is, the version is 0, and the place is NO_PLACE or that of a
        # deletion by the present entry. Holds at least every key the present entry wrote.
        self._heads: dict[bytes, tuple[int, bytes]] = {}
        self._scopes: dict[tuple[str, str], ScopeState] = {}
        self._touched: dict[tuple[str, str], ScopeState] = {}
        self._changes: list[Change] = []
        self._superseded: list[bytes] = []
        self._deleted: list[bytes] = []  # head keys

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
        opened = state.namespaces.get(namespace)
        if opened is None:
            rules = NAMESPACES.get(namespace)
            if rules is None:
                return UNKNOWN_NAMESPACE, 0
            opened = state.namespaces[namespace] = (rules, head_prefix(state.scope, namespace))
        rules, prefix = opened
        if op_type not in rules.op_types:
            return BAD_OP_TYPE, 0
        head_key = prefix + key
        present = self._heads.get(head_key)
        if present is None:
            present = self._heads[head_key] = self._load(head_key)
        if expected != present[0] and (expected >= 0 or rules.version_required):
            return PRECONDITION_FAILED, present[0]
        state.server_seq = version = state.server_seq + 1
        place = PLACE.pack(index, ordinal)
        if op_type == SET:
            kind, previous, object_key = LIVE, present[1], _HUB + head_key
            if present[0]:
                self._superseded.append(VERSION + previous + object_key)
            else:
                kind, previous = self._made(head_key, previous)
            head = _HEAD.pack(LIVE, version, index, ordinal) + payload
            record = _VERSION.pack(kind, previous, version) + payload
            self._changes += (
                _CHANGE_OF_ROW((_HUB_FAMILY, head_key, head)),
                _CHANGE_OF_ROW((_VERSIONS_FAMILY, VERSION + place + object_key, record)),
            )
            self._heads[head_key] = (version, place)
        elif present[0]:
            self._delete(head_key, version, present[1], place)
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
        for key in self._deleted:
            if not self._heads[key][0]:
                self._heads[key] = _ABSENT
        self._deleted.clear()
        if len(self._heads) > HEADS_CACHED_MAX:
            for key in list(self._heads)[: HEADS_CACHED_MAX // 2]:
                del self._heads[key]
        if len(self._scopes) > SCOPES_CACHED_MAX:
            self._scopes.clear()
        return changes, superseded

    def _made(self, head_key: bytes, deleted_at: bytes) -> tuple[bytes, bytes]:
        """What the first version of a value says: its kind and, where a deletion is still kept, the place of that."""
        key = deletion_key(Family.HUB, head_key)
        if deleted_at == NO_PLACE:
            found = self._reader.get(Family.VERSIONS, key)
            if found is None:
                return LIVE, NO_PLACE
            deleted_at = found
        self._changes.append(Change(Family.VERSIONS, key, None))
        return REMADE, deleted_at

    def _delete(self, head_key: bytes, version: int, previous: bytes, place: bytes) -> None:
        object_key = _HUB + head_key
        self._changes += (
            Change(Family.HUB, head_key, None),
            Change(Family.VERSIONS, VERSION + place + object_key, _VERSION.pack(DELETED, previous, version)),
            Change(Family.VERSIONS, deletion_key(Family.HUB, head_key), place),
        )
        self._superseded += (VERSION + previous + object_key, VERSION + place + object_key)
        self._heads[head_key] = (0, place)
        self._deleted.append(head_key)

    def _load(self, head_key: bytes) -> tuple[int, bytes]:
        record = self._reader.get(Family.HUB, head_key)
        if record is None:
            return _ABSENT
        _, version, index, ordinal = _HEAD.unpack_from(record)
        return version, PLACE.pack(index, ordinal)
