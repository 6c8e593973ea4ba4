"""Project state: namespaces, compare-and-set, server_seq, the op log, and reads."""

from __future__ import annotations

import hashlib

import pytest

from hypercluster.errors import HistoryGoneError
from hypercluster.pb.v1.command_pb2 import RaiseVersionsFloor
from hypercluster.state_machine import queries, versions
from hypercluster.state_machine.hub import HubValue
from hypercluster.state_machine.oplog import op_id
from hypercluster.state_machine.outcome import BAD_OP_TYPE, OK, PRECONDITION_FAILED, UNKNOWN_NAMESPACE
from hypercluster.state_machine.store import Family
from hypercluster.values import Index, Scope
from tests.fakes.commands import (
    PRINCIPAL,
    SCOPE,
    STAMP_NS,
    Replica,
    answers,
    client,
    group,
    hub_del,
    hub_set,
    maintenance,
    submit,
)

OTHER = Scope("acme", "api")


def verdicts(replica: Replica, seq: int, *commands: bytes) -> list[tuple[int, int]]:
    return [answer[2:] for answer in answers(replica.run(client(1), seq, *commands))]


@pytest.mark.req("HUB-3")
def test_settings_need_the_version_they_change() -> None:
    replica = Replica()

    def setting(payload: bytes, expected: int | None) -> bytes:
        return hub_set(b"limits", payload, namespace="settings", expected=expected)

    assert verdicts(
        replica, 1, setting(b"1", None), setting(b"1", 1), setting(b"1", 0), setting(b"2", 0), setting(b"2", 1)
    ) == [
        (PRECONDITION_FAILED, 0),
        (PRECONDITION_FAILED, 0),
        (OK, 1),
        (PRECONDITION_FAILED, 1),
        (OK, 2),
    ]
    gone = hub_del(b"limits", namespace="settings")
    assert verdicts(replica, 6, gone, hub_del(b"limits", namespace="settings", expected=2)) == [
        (PRECONDITION_FAILED, 2),
        (OK, 3),
    ]
    assert queries.hub_get(replica.store, SCOPE, "settings", b"limits") is None
    assert verdicts(replica, 8, setting(b"9", 3), setting(b"9", 0)) == [(PRECONDITION_FAILED, 0), (OK, 4)]


@pytest.mark.req("HUB-3")
def test_metadata_takes_the_last_writer_unless_a_version_is_given() -> None:
    replica = Replica()
    assert verdicts(
        replica, 1, hub_set(b"a", b"1"), hub_set(b"a", b"2"), hub_set(b"a", b"3", expected=1), hub_del(b"a", expected=2)
    ) == [(OK, 1), (OK, 2), (PRECONDITION_FAILED, 2), (OK, 3)]
    assert verdicts(replica, 5, hub_del(b"a"), hub_set(b"a", b"4", expected=0)) == [(OK, 4), (OK, 5)]
    assert queries.hub_get(replica.store, SCOPE, "metadata", b"a") == HubValue(b"4", 5, 2)


@pytest.mark.req("HUB-3")
def test_unknown_namespaces_and_operations_are_refused() -> None:
    replica = Replica()
    assert verdicts(
        replica, 1, hub_set(b"a", namespace="presence"), hub_set(b"a", namespace="nope"), hub_set(b"a", b"", op_type=9),
        hub_set(b"a", b"", op_type=0), hub_set(b"a"),
    ) == [(UNKNOWN_NAMESPACE, 0), (UNKNOWN_NAMESPACE, 0), (BAD_OP_TYPE, 0), (BAD_OP_TYPE, 0), (OK, 1)]  # fmt: skip


@pytest.mark.req("HUB-2", "D-2")
def test_server_seq_is_gap_free_in_each_scope_and_refusals_take_none() -> None:
    replica = Replica()
    for turn in range(5):
        mine = [hub_set(b"a", expected=0), hub_set(b"b"), hub_set(b"c", namespace="x"), hub_set(b"d")]
        yours = [hub_set(b"a"), hub_del(b"zzz")]
        replica.apply(
            group(submit(client(1), 1 + 4 * turn, mine)),
            group(submit(client(2), 1 + 2 * turn, yours), scope=OTHER),
            group(submit(client(3), 1 + turn, [hub_set(b"e")])),
        )
        if turn == 2:
            replica.restart()
    seqs = [op.server_seq for op in queries.read_ops(replica.store, SCOPE, 1)]
    assert seqs == list(range(1, 1 + 1 + 5 * 3)) == list(range(1, queries.server_seq(replica.store, SCOPE) + 1))
    assert queries.server_seq(replica.store, OTHER) == 10
    assert [op.server_seq for op in queries.read_ops(replica.store, OTHER, 4)] == list(range(4, 11))


@pytest.mark.req("HUB-1", "HUB-2", "D-19")
def test_the_op_log_says_what_was_done_and_by_whom() -> None:
    replica = Replica()
    refused = hub_set(b"x", expected=7)
    applied = replica.apply(
        group(
            submit(client(1), 1, [refused, hub_set(b"a", b"1"), refused, refused, hub_set(b"b", b"2"), hub_del(b"a")])
        ),
        group(submit(client(2), 1, [hub_set(b"c", b"3")]), principal="bob", worker=""),
    )
    ops = list(queries.read_ops(replica.store, SCOPE, 1))
    assert [(op.server_seq, op.op.key, op.op.payload, op.client_seq, op.principal, op.worker) for op in ops] == [
        (1, b"a", b"1", 2, PRINCIPAL, "host-1"),
        (2, b"b", b"2", 5, PRINCIPAL, "host-1"),
        (3, b"a", b"", 6, PRINCIPAL, "host-1"),
        (4, b"c", b"3", 1, "bob", ""),
    ]
    base = STAMP_NS + 1_000_000
    assert [op.stamp_ns for op in ops] == [base + 1, base + 4, base + 5, base + 6]
    assert len([change for change in applied.changes if change.family is Family.OPLOG]) == 1
    again = list(queries.read_ops(replica.store, SCOPE, 3))
    assert again == ops[2:]


@pytest.mark.req("HUB-1", "D-12")
def test_op_ids_are_sha256_over_length_prefixed_bytes() -> None:
    expected = hashlib.sha256(b"\0\0\0\3bob" + b"\0\0\0\2id" + b"\0\0\0\0").digest()
    assert op_id("bob", b"id", b"") == expected
    assert op_id("bo", b"bid", b"") != expected
    replica = Replica()
    replica.run(client(1), 5, hub_set(b"a", b"1"))
    (op,) = queries.read_ops(replica.store, SCOPE, 1)
    assert op.op_id() == op_id(PRINCIPAL, client(1) + (5).to_bytes(8, "big"), b"1")


def test_lists_are_in_byte_order_and_paged() -> None:
    replica = Replica()
    names = [b"a", b"a\0", b"a\0b", b"a/", b"a/\xff", b"a/\xff\xff", b"b", b"\xff\xff"]
    replica.run(client(1), 1, *[hub_set(name) for name in reversed(names)])
    replica.run(client(1), 9, hub_set(b"a", namespace="settings", expected=0))

    def listed(prefix: bytes, after: bytes, count_max: int) -> tuple[list[bytes], bool]:
        pairs, more = queries.hub_list(replica.store, SCOPE, "metadata", prefix, after, count_max)
        return [key for key, _ in pairs], more

    assert listed(b"", b"", 100) == (sorted(names), False)
    assert listed(b"a", b"", 2) == ([b"a", b"a\0"], True)
    assert listed(b"a", b"a\0", 2) == ([b"a\0b", b"a/"], True)
    assert listed(b"a/\xff", b"", 9) == ([b"a/\xff", b"a/\xff\xff"], False)
    assert listed(b"\xff", b"", 9) == ([b"\xff\xff"], False)
    assert listed(b"c", b"", 9) == ([], False)


@pytest.mark.req("D-18")
def test_versions_are_read_as_of_an_index_down_to_the_floor() -> None:
    replica = Replica()
    history: dict[int, bytes | None] = {0: None}
    seq = 0
    for index in range(1, 13):
        commands = [hub_set(b"other", b"%d" % index)]
        if index in {2, 5, 6, 9}:
            commands += [hub_set(b"k", b"0"), hub_set(b"k", b"%d" % index)]
        if index in {7, 11}:
            commands.append(hub_del(b"k"))
        replica.run(client(1), seq + 1, *commands)
        seq += len(commands)
        value = queries.hub_get(replica.store, SCOPE, "metadata", b"k")
        history[index] = None if value is None else value.payload

    def read(index: int) -> bytes | None:
        found = queries.hub_versions(replica.store, SCOPE, "metadata", b"k", Index(index), 1)
        return found[0].payload if found and not found[0].deleted else None

    newest = queries.hub_versions(replica.store, SCOPE, "metadata", b"k", None, 3)
    assert [(v.raft_index, v.ordinal, v.deleted, v.payload) for v in newest] == [
        (11, 1, True, b""), (9, 2, False, b"9"), (9, 1, False, b"0"),
    ]  # fmt: skip
    assert {index: read(index) for index in history} == history
    for turn, floor in enumerate((5, 8, 3, 12), 1):
        raise_floor(replica, turn, floor)
        present = max(floor, 8 if turn > 1 else 0)
        assert queries.versions_floor(replica.store) == present
        assert {i: read(i) for i in range(present, 13)} == {i: history[i] for i in range(present, 13)}
        with pytest.raises(HistoryGoneError):
            read(present - 1)
    kept = [c.key for c in replica.store.items() if c.family is Family.VERSIONS]
    assert len(kept) == 1  # the value of "other"; "k" is deleted for good
    raise_floor(replica, 5, 1 << 40)
    assert queries.versions_floor(replica.store) == 16, "a floor stays below the entry that raises it"


def raise_floor(replica: Replica, seq: int, floor: int) -> list[tuple[int, int, int, int]]:
    raw = maintenance(raise_versions_floor=RaiseVersionsFloor(floor_index=floor))
    applied = replica.apply(group(submit(client(99), seq, [raw]), principal="leader"))
    assert len(applied.changes) <= 1_000 + 8
    return answers(applied.groups[0])


@pytest.mark.req("D-18", "D-4")
def test_the_floor_moves_a_thousand_keys_at_a_time() -> None:
    warm, cold = Replica(), Replica()
    for replica in (warm, cold):
        for turn in range(12):
            replica.apply(*[group(submit(client(c), 1 + 250 * turn, [hub_set(b"k%d" % c)] * 250)) for c in range(1, 3)])
    floor, seq = 12, 0
    removed = []
    while seq == 0 or queries.versions_backlog(warm.store):
        seq += 1
        for replica in (warm, cold):
            if replica is cold:
                replica.restart()
            found = raise_floor(replica, seq, floor)
        removed.append(found[0][3])
    assert len(removed) == 7
    assert max(removed) <= versions.FLOOR_KEYS_MAX
    assert sum(removed) == 12 * 2 * 250 - 2 + 12
    assert warm.machine.applied == cold.machine.applied
    left = [c for c in warm.store.items() if c.family is Family.VERSIONS]
    assert len(left) == 2
