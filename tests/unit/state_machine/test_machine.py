"""What holds for every entry: digests, stamps, quarantine, bindings, caches, failures."""

from __future__ import annotations

import pytest
from blake3 import blake3

from hypercluster.errors import ApplyFailedError, InvariantError
from hypercluster.log.entry import decode_entry, encode_batch, encode_config, encode_no_op
from hypercluster.pb.v1.command_pb2 import ForgetLane
from hypercluster.state_machine import hub, meta, queries
from hypercluster.state_machine.digest import next_digest
from hypercluster.state_machine.machine import Machine, Quarantined
from hypercluster.state_machine.oplog import read_ops
from hypercluster.state_machine.outcome import FORBIDDEN, INTERNAL, OK, PRECONDITION_FAILED, SEQ_GAP, UNKNOWN
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.values import ZERO_DIGEST, ClusterId, Digest, HistoryId, Index, Nanos, Scope, Term
from tests.fakes.commands import (
    SCOPE,
    STAMP_NS,
    Replica,
    answers,
    client,
    entry,
    group,
    hub_set,
    maintenance,
    reasons,
    submit,
)


@pytest.mark.req("CL-17")
def test_the_digest_covers_every_change_in_order() -> None:
    changes = [Change(Family.HUB, b"a", b"1"), Change(Family.HUB, b"b", None)]
    place = (Index(3), Term(2), Nanos(9))
    base = next_digest(ZERO_DIGEST, *place, changes)
    lengths = (1, 1, 1, 1, 1, 0xFFFF_FFFF)
    by_hand = bytes(32) + b"".join(n.to_bytes(8, "big") for n in place) + (2).to_bytes(4, "big")
    by_hand += b"".join(n.to_bytes(4, "big") for n in lengths) + b"a1b"
    assert base == blake3(by_hand).digest()
    others = [
        next_digest(ZERO_DIGEST, *place, changes[::-1]),
        next_digest(ZERO_DIGEST, *place, changes[:1]),
        next_digest(ZERO_DIGEST, *place, [Change(Family.META, b"a", b"1"), changes[1]]),
        next_digest(ZERO_DIGEST, *place, [Change(Family.HUB, b"a1", b""), changes[1]]),
        next_digest(ZERO_DIGEST, *place, [changes[0], Change(Family.HUB, b"b", b"")]),
        next_digest(Digest(b"\1" * 32), *place, changes),
        next_digest(ZERO_DIGEST, Index(4), Term(2), Nanos(9), changes),
        next_digest(ZERO_DIGEST, Index(3), Term(3), Nanos(9), changes),
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.req("CL-17", "CL-7")
def test_the_applied_record_is_written_with_every_entry() -> None:
    replica = Replica()
    applied = replica.apply(group(submit(client(1), 1, [hub_set(b"k")] * 3)))
    assert applied.changes[-1] == meta.applied_change(replica.machine.applied)
    record = meta.read_applied(replica.store)
    assert record == meta.AppliedRecord(Index(1), Term(1), Nanos(STAMP_NS + 1_000_002), applied.digest)
    assert applied.digest == next_digest(
        ZERO_DIGEST, record.index, record.term, record.last_stamp_ns, applied.changes[:-1]
    )
    replica.restart()
    assert replica.machine.applied == record


@pytest.mark.req("CL-17")
def test_entries_without_commands_move_index_and_digest() -> None:
    one, two = Replica(), Replica()
    for payload in (encode_no_op(), encode_config(b"whatever")):
        first = one.machine.apply(Index(one.index + 1), Term(4), decode_entry(payload))
        second = two.machine.advance(Index(two.index + 1), Term(4))
        assert first == second
        assert len(first.changes) == 1
    assert one.index == 2
    assert one.machine.applied.digest not in (ZERO_DIGEST, first.changes)


@pytest.mark.req("D-4")
def test_a_follower_that_decodes_equals_the_leader_that_built() -> None:
    leader, follower = MemoryStore(), MemoryStore()
    machines = Machine(leader), Machine(follower)
    for index in range(1, 6):
        built = entry([group(submit(client(c), index, [hub_set(b"k%d" % c)])) for c in range(1, 5)], stamp_ns=index)
        ours = machines[0].apply(Index(index), Term(1), built)
        theirs = machines[1].apply(Index(index), Term(1), decode_entry(encode_batch(built)))
        assert ours == theirs
        leader.write(ours.changes)
        follower.write(theirs.changes)


@pytest.mark.req("D-5")
def test_stamps_rise_whatever_the_leader_says() -> None:
    replica = Replica()
    replica.apply(group(submit(client(1), 1, [hub_set(b"a")] * 5)), stamp_ns=1_000)
    replica.apply(group(submit(client(1), 6, [hub_set(b"a")] * 5)), stamp_ns=1_002)
    replica.apply(group(submit(client(1), 11, [hub_set(b"a")])), stamp_ns=7)
    stamps = [op.stamp_ns for op in read_ops(replica.store, SCOPE, 1)]
    assert stamps == list(range(1_000, 1_011))


@pytest.mark.req("D-7", "D-20")
def test_a_lane_belongs_to_its_first_principal_and_scope() -> None:
    replica = Replica()
    mine = submit(client(1), 1, [hub_set(b"a")])
    replica.apply(group(mine))
    state = list(replica.store.items())
    for stranger in (group(mine, principal="eve"), group(mine, scope=Scope("acme", "api"))):
        assert reasons(replica.apply(stranger).groups[0]) == [FORBIDDEN]
    changed = [c.key for c in replica.store.items() if c not in state]
    assert changed == [meta.APPLIED]
    assert reasons(replica.apply(group(mine)).groups[0]) == [OK]


@pytest.mark.req("D-7")
def test_a_basis_from_the_future_starts_no_lane() -> None:
    replica = Replica()
    assert reasons(replica.run(client(1), 1, hub_set(b"a"), basis=1)) == [UNKNOWN]
    assert reasons(replica.run(client(1), 1, hub_set(b"a"), basis=1)) == [OK]


@pytest.mark.req("D-4")
def test_an_entry_that_admission_would_have_turned_away_is_still_judged() -> None:
    """Total: whatever stands in the log gets an answer."""
    replica = Replica()
    good = group(submit(client(1), 1, [hub_set(b"a")]))
    for change in ({"client_id": b"short"}, {"first_seq": 0}, {"first_seq": 1 << 63}):
        bad = good._replace(run=good.run._replace(**change))
        assert reasons(replica.apply(bad).groups[0]) == [UNKNOWN]
    empty = good._replace(run=good.run._replace(raws=(), ops=()))
    assert reasons(replica.apply(empty).groups[0]) == []
    assert reasons(replica.apply(good).groups[0]) == [OK]


@pytest.mark.req("CL-16")
def test_an_exception_names_index_and_command_and_leaves_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica()
    replica.run(client(1), 1, hub_set(b"a"))
    before = list(replica.store.items())
    judge = hub.Hub.judge

    def fails(self: hub.Hub, state: hub.ScopeState, op: hub.HubOp, index: int, ordinal: int) -> tuple[int, int]:
        if op.key == b"poison":
            raise ZeroDivisionError("boom")
        return judge(self, state, op, index, ordinal)

    monkeypatch.setattr(hub.Hub, "judge", fails)
    poisoned = [group(submit(client(2), 1, [hub_set(b"x"), hub_set(b"poison"), hub_set(b"y")]))]
    with pytest.raises(ApplyFailedError, match="entry 2 failed at command 1: ZeroDivisionError"):
        replica.apply(*poisoned)
    assert list(replica.store.items()) == before
    for quarantined, expected in (
        (Quarantined(Index(2), 1), [OK, INTERNAL, OK]),
        (Quarantined(Index(2)), [INTERNAL] * 3),
    ):
        store = MemoryStore()
        store.write(before)
        released = Replica(store)
        released.machine = Machine(store, [quarantined])
        assert reasons(released.apply(*poisoned).groups[0]) == expected
        monkeypatch.undo()
        released.restart()  # the quarantine was for one index; the refusal is stored like any other
        assert reasons(released.apply(*poisoned).groups[0]) == expected
        monkeypatch.setattr(hub.Hub, "judge", fails)


@pytest.mark.req("CL-16")
@pytest.mark.parametrize(
    ("where", "words"),
    [("judge", "entry 1 failed at command 1: Inv"), ("take", "entry 1 failed after its last command")],
)
def test_a_broken_invariant_names_the_entry_too(where: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception; without an index nobody could quarantine the entry that stops every node."""

    def fails(self: hub.Hub, *args: object) -> object:
        if where == "judge" and args[3] == 0:
            return OK, 1
        raise InvariantError("references must add up")

    monkeypatch.setattr(hub.Hub, where, fails)
    with pytest.raises(ApplyFailedError, match=words) as raised:
        Replica().apply(group(submit(client(1), 1, [hub_set(b"x"), hub_set(b"y")])))
    assert (raised.value.index, raised.value.ordinal) == (1, 1 if where == "judge" else None)


def test_entries_come_in_order() -> None:
    replica = Replica()
    with pytest.raises(InvariantError, match="entry 2 is applied where 1 comes next"):
        replica.machine.apply(Index(2), Term(1), entry([]))
    with pytest.raises(InvariantError):
        replica.machine.advance(Index(0), Term(1))


@pytest.mark.req("D-17")
def test_genesis_names_cluster_and_history() -> None:
    replica = Replica()
    assert queries.read_cluster(replica.store) is None
    replica.store.write(meta.genesis(ClusterId(b"c" * 16), HistoryId(b"h" * 16)))
    assert queries.read_cluster(replica.store) == (b"c" * 16, b"h" * 16)
    with pytest.raises(InvariantError):
        meta.genesis(ClusterId(b"c"), HistoryId(b"h" * 16))


@pytest.mark.req("WS-4")
def test_the_status_of_an_intent() -> None:
    replica = Replica()
    replica.run(client(1), 1, hub_set(b"a"), hub_set(b"a", expected=9), hub_set(b"b"))
    replica.run(client(1), 4, hub_set(b"c"), floor=3)
    asked = {seq: queries.intent_status(replica.store, client(1), seq) for seq in (1, 4, 5)}
    assert {seq: found.judgement.value for seq, found in asked.items()} == {1: "forgotten", 4: "judged", 5: "not_found"}
    assert (asked[4].principal, asked[4].scope) == ("worker-7", SCOPE)
    assert asked[4].result is not None and asked[4].result.versions == (3,)
    assert queries.intent_status(replica.store, client(2), 1).judgement is queries.Judgement.NOT_FOUND
    replica.run(client(2), 1, hub_set(b"a"), hub_set(b"a", expected=9))
    refused = queries.intent_status(replica.store, client(2), 2).result
    assert refused is not None and (refused.reasons, refused.versions, refused.index) == ((1,), (4,), 3)


@pytest.mark.req("D-7")
def test_a_gap_is_not_stored() -> None:
    replica = Replica()
    replica.run(client(1), 1, hub_set(b"a"))
    assert answers(replica.run(client(1), 3, hub_set(b"a"), hub_set(b"b")))[0][2] == SEQ_GAP
    assert [a[2] for a in answers(replica.run(client(1), 2, hub_set(b"z"), hub_set(b"b")))] == [OK, OK]
    assert replica.machine.last_seq(client(1)) == 3
    assert replica.machine.last_seq(client(2)) is None


@pytest.mark.req("D-7")
def test_silent_lanes_are_listed_oldest_first() -> None:
    replica = Replica()
    hour_ns = 1 << 41
    for turn, number in enumerate((3, 1, 2), 1):
        replica.apply(group(submit(client(number), 1, [hub_set(b"a")])), stamp_ns=turn * 10 * hour_ns)
    replica.apply(group(submit(client(1), 2, [hub_set(b"a")])), stamp_ns=90 * hour_ns)
    assert queries.oldest_lanes(replica.store, Nanos(80 * hour_ns), 10) == [(client(3), 1), (client(2), 1)]
    assert queries.oldest_lanes(replica.store, Nanos(99 * hour_ns), 10)[-1] == (client(1), 2)
    assert queries.oldest_lanes(replica.store, Nanos(99 * hour_ns), 1) == [(client(3), 1)]
    assert queries.lane_count(replica.store) == 3


def forget(number: int, last_seq: int) -> bytes:
    return maintenance(forget_lane=ForgetLane(client_id=client(number), last_seq=last_seq))


@pytest.mark.req("D-7")
@pytest.mark.parametrize("cold", [False, True])
def test_a_client_forgotten_earlier_in_the_same_entry_is_unknown(cold: bool) -> None:
    """The store still shows its lane; the entry does not."""
    replica = Replica()
    for seq in (1, 2):
        replica.run(client(1), seq, hub_set(b"a"))
    if cold:
        replica.restart()
    upkeep = group(submit(client(9), 1, [forget(1, 2)]), principal="leader")
    again = [hub_set(b"a")]
    late = group(submit(client(1), 2, again, basis=1))
    fresh = group(submit(client(1), 2, again, basis=2))
    applied = replica.apply(upkeep, late, fresh)
    assert [reasons(result) for result in applied.groups] == [[OK], [UNKNOWN], [OK]]
    assert applied.groups[2].runs[0].versions == (3,)
    replica.restart()
    assert answers(replica.run(client(1), 2, hub_set(b"a"))) == [(2, 3, OK, 3)]
    assert queries.lane_count(replica.store) == 2


@pytest.mark.req("D-7")
def test_a_lane_can_not_forget_itself() -> None:
    replica = Replica()
    replica.run(client(1), 1, hub_set(b"a"))
    assert reasons(replica.run(client(1), 2, forget(1, 1))) == [PRECONDITION_FAILED]
    assert replica.machine.last_seq(client(1)) == 2
    assert queries.dedupe_floor(replica.store) == 0
