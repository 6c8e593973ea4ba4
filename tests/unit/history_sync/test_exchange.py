"""Two and three peers that compare heads (HIS-4 to HIS-7, HIS-9 to HIS-12, HIS-15)."""

from __future__ import annotations

import uuid

import pytest

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.history_sync.exchange import Completion, Exchange
from hypercluster.history_sync.filters import Filter
from hypercluster.history_sync.requests import SyncRequest, read_request, requests_of_round
from hypercluster.history_sync.responder import BATCH_OVERHEAD_BYTES, EVENT_OVERHEAD_BYTES, respond
from hypercluster.limits import HISTORY_AUTHORS_MAX, HISTORY_BATCH_EVENTS_MAX, HISTORY_ENVELOPE_BYTES_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from tests.unit.history_sync.chains import Author, Peer, exchange_both_ways

ANN, BOB = Author(1), Author(2)


@pytest.mark.req("HIS-15", "HIS-4")
def test_three_peers_converge() -> None:
    """A has one author's events, B another's, C nothing; C asks A, then B, and gives each what it lacks."""
    a, b, c = Peer("a"), Peer("b"), Peer("c")
    a.add(*ANN.chain(100))
    b.add(*BOB.chain(100))
    exchange_both_ways(c, a)
    assert c.heads() == a.heads()
    exchange_both_ways(c, b)
    exchange_both_ways(c, a)
    assert a.heads() == b.heads() == c.heads()
    assert [head[0] for head in c.heads().values()] == [100, 100]


@pytest.mark.req("HIS-6", "HIS-15")
def test_empty_current_one_missing_and_unknown_authors() -> None:
    a, b = Peer("a"), Peer("b")
    (nothing,) = b.pull(a)
    assert nothing.completion is Completion.COMPLETE
    assert [reply.WhichOneof("kind") for reply in b.replies] == ["batch", "complete"], "also when nothing is there"
    chain = ANN.chain(10)
    a.add(*chain)
    b.add(*chain[:9])
    (one,) = b.pull(a)
    assert one.completion is Completion.REPEATED, "this run of the provider said so before"
    assert sum(len(reply.batch.events) for reply in b.replies) == 1
    a.generation = 2
    (current,) = b.pull(a)
    assert current.completion is Completion.COMPLETE
    assert sum(len(reply.batch.events) for reply in b.replies) == 0
    b.add(*BOB.chain(3))
    (unknown,) = b.pull(a)
    assert unknown.completion is Completion.REPEATED, "an author the provider does not know is no error"
    assert [event.seq for event in unknown.to_push()] == [1, 2, 3]


@pytest.mark.req("HIS-15", "HIS-6")
def test_a_reconnect_moves_the_difference_and_no_more() -> None:
    a, b = Peer("a"), Peer("b")
    chain = ANN.chain(1_000, payload=bytes(500))
    a.add(*chain)
    b.add(*chain[:990])
    (exchange,) = b.pull(a)
    missing_bytes = sum(len(event.signed) + len(event.signature) for event in chain[990:])
    assert exchange.marker is not None and exchange.marker.event_count == 10
    assert missing_bytes < b.moved_bytes < missing_bytes + 10 * EVENT_OVERHEAD_BYTES + 400
    assert [reply.WhichOneof("kind") for reply in b.replies].count("complete") == 1


@pytest.mark.req("HIS-7", "HIS-6", "HIS-15")
def test_answers_are_split_into_envelopes_of_one_request() -> None:
    a, b = Peer("a"), Peer("b")
    for seed in range(10, 110):
        a.add(*Author(seed).chain(2, payload=bytes(5_000)))
    a.add(*ANN.chain(1, payload=bytes(200_000)))
    (exchange,) = b.pull(a)
    batches = [reply for reply in b.replies if reply.HasField("batch")]
    assert {reply.batch.request_id for reply in batches} == {exchange.marker.request_id if exchange.marker else b""}
    large = [reply for reply in batches if reply.ByteSize() > HISTORY_ENVELOPE_BYTES_MAX]
    assert [len(reply.batch.events) for reply in large] == [1], "an event larger than an envelope goes alone"
    assert [reply.batch.more for reply in batches] == [True] * (len(batches) - 1) + [False]
    order = [(e.author, e.seq) for r in batches for e in map(body_of, r.batch.events)]
    assert order == sorted(order) and len(order) == 201
    full = [reply.ByteSize() for reply in batches[:-1] if reply not in large]
    assert min(full) > HISTORY_ENVELOPE_BYTES_MAX - 200_000 and len(batches) < 22, "packing is greedy"


def body_of(event: pb.HistoryEvent) -> pb.HistoryEventBody:
    return pb.HistoryEventBody.FromString(event.signed)


@pytest.mark.req("HIS-7")
def test_the_overhead_of_an_envelope_is_what_it_is_taken_for() -> None:
    empty = pb.SyncReply(batch=pb.SyncBatchV2(request_id=bytes(16), more=True))
    filled = pb.SyncReply(batch=pb.SyncBatchV2(request_id=bytes(16), more=True))
    signed, signature = bytes(HISTORY_ENVELOPE_BYTES_MAX - 200), bytes(64)
    filled.batch.events.add(signed=signed, signature=signature)
    assert empty.ByteSize() <= BATCH_OVERHEAD_BYTES
    grown = filled.ByteSize() - len(signed) - len(signature)
    assert grown <= BATCH_OVERHEAD_BYTES + EVENT_OVERHEAD_BYTES
    assert grown > BATCH_OVERHEAD_BYTES + EVENT_OVERHEAD_BYTES - 8, "and not much more is kept back than is needed"


@pytest.mark.req("HIS-7", "HIS-6")
def test_a_thousand_up_to_date_authors_move_no_event() -> None:
    a, b = Peer("a"), Peer("b")
    for seed in range(1, 1_001):
        event = Author(seed).chain(1)
        a.add(*event)
        b.add(*event)
    exchanges = b.pull(a)
    assert len(exchanges) == 4 and all(len(e.request.heads) <= HISTORY_AUTHORS_MAX for e in exchanges)
    assert sum(len(reply.batch.events) for reply in b.replies) == 0
    late = Author(5_000).chain(3)
    a.add(*late)
    b.pull(a)
    assert sum(len(reply.batch.events) for reply in b.replies) == 3, "one that nobody named is sent exactly once"


@pytest.mark.req("HIS-7", "HIS-13")
def test_requests_over_their_limits_are_refused() -> None:
    head = pb.HistoryHead(author=bytes(32), seq=1, hash=bytes(32))
    with pytest.raises(TooLargeError, match="HISTORY_AUTHORS_MAX is 256"):
        read_request(pb.SyncRequestV2(request_id=bytes(16), heads=[head] * (HISTORY_AUTHORS_MAX + 1)))
    with pytest.raises(MalformedError, match="above the one before"):
        read_request(pb.SyncRequestV2(request_id=bytes(16), heads=[head, head]))
    with pytest.raises(MalformedError, match="request_id"):
        read_request(pb.SyncRequestV2())
    a, b = Peer("a"), Peer("b")
    (request,) = requests_of_round(a.store, a.new_id)
    endless = pb.SyncBatchV2(request_id=request.request_id, events=[pb.HistoryEvent()] * (HISTORY_BATCH_EVENTS_MAX + 1))
    with pytest.raises(TooLargeError, match="HISTORY_BATCH_EVENTS_MAX"):
        Exchange(b.store, b.receiver, request, "a").take(pb.SyncReply(batch=endless))


@pytest.mark.req("HIS-4", "HIS-5")
def test_a_fork_is_found_on_top_and_below_a_higher_seq() -> None:
    chain = ANN.chain(5)
    other = [*chain[:2], *ANN.chain(4, payload=b"y", after=chain[1])]
    for held, asked in ((chain, other[:5]), (other, chain)):  # of one length, and the provider ahead
        a, b = Peer("a"), Peer("b")
        a.add(*held)
        b.add(*asked)
        (exchange,) = b.pull(a)
        proof = b.store.fork(ANN.key)
        assert proof is not None and proof.held.seq == proof.other.seq and proof.held.hash != proof.other.hash
        assert b.store.head(ANN.key) == (asked[-1].seq, asked[-1].hash), "nothing is merged"
        assert sum(len(reply.batch.events) for reply in b.replies) == 0, "nothing of a forked chain is streamed"
        assert exchange.completion is Completion.COMPLETE, "all else is"
    a, b = Peer("a"), Peer("b")
    a.add(*chain)
    b.add(*other)  # the requester is ahead, and the fork lies below
    (exchange,) = b.pull(a)
    assert list(exchange.to_push()) == [], "the side that is ahead looks before it sends"


@pytest.mark.req("HIS-5")
def test_a_frozen_chain_takes_nothing_more() -> None:
    peer = Peer("a")
    chain = ANN.chain(3)
    peer.add(*chain, ANN.event(2, chain[0].hash, b"another"))
    proof = peer.store.fork(ANN.key)
    assert proof is not None and (proof.held, proof.other.payload) == (chain[1], b"another")
    peer.add(*ANN.chain(1, after=chain[2]))
    assert peer.store.head(ANN.key).seq == 3


@pytest.mark.req("HIS-10")
def test_nobody_is_given_a_chain_without_its_beginning() -> None:
    a = Peer("a")
    chain = ANN.chain(20)
    a.add(*chain)
    a.store.compact(ANN.key, 10)
    for held, sent in ((0, None), (9, None), (10, 10), (15, 5)):
        b = Peer("b")
        b.add(*chain[:held])
        (exchange,) = b.pull(a)
        count = sum(len(reply.batch.events) for reply in b.replies)
        assert (exchange.snapshot_of, count) == (({}, sent) if sent is not None else ({ANN.key: 10}, 0))
        assert exchange.completion is (Completion.COMPLETE if sent is not None else Completion.TRUNCATED)


@pytest.mark.req("HIS-11")
def test_a_view_moves_no_head() -> None:
    a, b = Peer("a"), Peer("b")
    first = ANN.event(1, bytes(32), b"grant", kind=3, channel="ops")
    second = ANN.event(2, first.hash, b"chat", kind=20, channel="talk")
    third = ANN.event(3, second.hash, b"chat", kind=20, channel="ops")
    a.add(first, second, third)
    (exchange,) = b.pull(a, Filter(channels=frozenset({"talk"})))
    sent = [body_of(event).seq for reply in b.replies for event in reply.batch.events]
    assert sent == [1, 2], "structural kinds pass a filter by channel"
    assert b.heads() == {} and exchange.completion is Completion.VIEW
    b.pull(a, Filter(kinds=frozenset({20})))
    assert [body_of(event).seq for reply in b.replies for event in reply.batch.events] == [2, 3] and b.heads() == {}
    b.pull(a, Filter(authors=frozenset({ANN.key})))
    assert b.store.head(ANN.key).seq == 3, "a filter by author leaves chains whole"


@pytest.mark.req("HIS-9", "HIS-3")
def test_one_bad_event_aborts_nothing_and_what_waited_follows() -> None:
    a, b = Peer("a"), Peer("b")
    ann, bob = ANN.chain(4), BOB.chain(3)
    (request,) = requests_of_round(b.store, b.new_id)
    forged = pb.HistoryEvent(signed=ann[0].signed, signature=bytes(64))
    events = [ann[2], ann[1], forged, *bob]
    batch = pb.SyncBatchV2(request_id=request.request_id, more=True)
    batch.events.extend(e if isinstance(e, pb.HistoryEvent) else wire(e) for e in events)
    exchange = Exchange(b.store, b.receiver, request, a.name)
    taken = exchange.take(pb.SyncReply(batch=batch))
    assert taken is not None and [event.seq for event in taken.accepted] == [1, 2, 3] and taken.waiting == 2
    assert ["signature" in refusal.words for refusal in taken.refused] == [True]
    last = exchange.take(pb.SyncReply(batch=pb.SyncBatchV2(request_id=request.request_id, events=[wire(ann[0])])))
    assert last is not None and [event.seq for event in last.accepted] == [1, 2, 3]
    assert len(b.receiver.pending) == 0


def wire(event: object) -> pb.HistoryEvent:
    return pb.HistoryEvent(signed=event.signed, signature=event.signature)  # type: ignore[attr-defined]


@pytest.mark.req("HIS-6", "HIS-12")
def test_an_answer_out_of_order_is_none() -> None:
    b = Peer("b")
    (request,) = requests_of_round(b.store, b.new_id)
    last = pb.SyncReply(batch=pb.SyncBatchV2(request_id=request.request_id))
    marker = pb.SyncReply(complete=pb.HistorySyncComplete(request_id=request.request_id))
    with pytest.raises(MalformedError, match="before the last batch"):
        Exchange(b.store, b.receiver, request, "a").take(marker)
    ended = Exchange(b.store, b.receiver, request, "a")
    ended.take(last)
    with pytest.raises(MalformedError, match="follows the end"):
        ended.take(last)
    with pytest.raises(MalformedError, match="request_id"):
        Exchange(b.store, b.receiver, request, "a").take(pb.SyncReply(batch=pb.SyncBatchV2(request_id=b"other")))
    assert ended.take(pb.SyncReply()) is None, "a kind that a later version adds fails alone"


@pytest.mark.req("HIS-12")
def test_history_is_complete_only_when_what_was_served_is_held() -> None:
    a, b = Peer("a"), Peer("b")
    a.add(*ANN.chain(3))
    request = SyncRequest(uuid.UUID(int=1).bytes, b"", b"", (), Filter())
    replies = list(respond(a.store, request, stream_generation=7))
    for lost in (0, 1):
        exchange = Exchange(b.store, b.receiver, request, "a")
        if lost == 0:
            kept = pb.SyncReply()
            kept.CopyFrom(replies[0])
            del kept.batch.events[2]
            exchange.take(kept)
        else:
            exchange.take(replies[0])
        exchange.take(replies[-1])
        assert exchange.completion is (Completion.TRUNCATED if lost == 0 else Completion.COMPLETE)
