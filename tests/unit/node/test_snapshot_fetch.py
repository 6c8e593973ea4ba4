"""A node that missed a workspace snapshot has it from another one: what is believed, asked for and given up (WS-51)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.limits import SNAPSHOT_PAGES_A_REQUEST_MAX
from hypercluster.node import snapshot_fetch
from hypercluster.node.retention import RetentionSettings
from hypercluster.node.snapshot_fetch import ANSWER_S, RETRY_S, SETTLE_S, SnapshotFetch
from hypercluster.node.snapshot_serving import SnapshotServing
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.pb.v1.peer_pb2 import SnapshotExchange, SnapshotReply, SnapshotRequest
from hypercluster.snapshot_manifest import open_manifest, sign_manifest, verified
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import InlineRunner
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId
from tests.fakes import certs
from tests.unit.node.test_tree_snapshots import Snapshooting
from tests.unit.storage.test_snapshots import HISTORY, read_back

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
BYTES_PER_S = 8 * 1024
Spoil = Callable[[SnapshotReply], SnapshotReply | None]


class Peers:
    """Two nodes that serve what one world has stored, and a third over the same state with an empty disk."""

    def __init__(self, path: Path) -> None:
        self.source = Snapshooting(path / "source")
        self.turns, self.state = self.source.turns, self.source.state
        self.connected = [N1, N2]
        self.asked: list[tuple[NodeId, int]] = []  # and of how many pages
        self.spoil: dict[NodeId, Spoil] = {}
        self.fatal: list[BaseException] = []
        self.metrics, self.room = Metrics(), True
        self.serving = {node: self._serving() for node in (N1, N2)}
        self.path = path
        self.open()

    def _serving(self) -> SnapshotServing:
        return SnapshotServing(
            self.source.store, InlineRunner(), self.turns, self.metrics, self.deliver, self.fatal.append,
            bytes_per_s=1 << 30,
        )  # fmt: skip

    def open(self) -> None:
        self.store = SnapshotStore(str(self.path / "target"), PosixDisk())
        self.here = TreeSnapshots(
            self.store, self.state, self.source.hold, InlineRunner(), self.turns, self.metrics, HISTORY,
            lambda: certs.node("n3"), self.fatal.append, bytes_per_s=1 << 20,
        )  # fmt: skip
        self.fetch = SnapshotFetch(
            self.here, self.state, InlineRunner(), self.turns, self.metrics, HISTORY,
            peers=lambda: self.connected,
            send=self.send,
            trust_pem=lambda: certs.ca().certificate_pem,
            on_fatal=self.fatal.append,
            bytes_per_s=BYTES_PER_S,
            has_room=lambda: self.room,
        )  # fmt: skip

    def send(self, to: NodeId, exchange: SnapshotExchange) -> bool:
        request = SnapshotRequest.FromString(exchange.request.SerializeToString())
        assert len(request.pages) <= SNAPSHOT_PAGES_A_REQUEST_MAX
        self.asked.append((to, len(request.pages)))
        self._answering = to
        if to not in self.connected:
            return False
        self.serving[to].asked(to, request)
        return True

    def deliver(self, _to: NodeId, exchange: SnapshotExchange) -> bool:
        """Whatever is answered comes from whoever was asked last: one request is in flight."""
        peer = self._answering
        reply: SnapshotReply | None = SnapshotReply.FromString(exchange.reply.SerializeToString())
        if peer in self.spoil and reply is not None:
            reply = self.spoil[peer](reply)
        if reply is not None:
            self.fetch.answered(peer, reply)
        return True

    def marked(self, files: int) -> int:
        """A snapshot that the source has, of a tree that is gone since."""
        self.source.files(files)
        log_index = self.source.mark()
        self.source.work(lambda: (self.source.workspace_id, log_index) in self.source.store.held())
        self.source.files(1)
        return log_index

    def look(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.turns.pass_time(1.0)
            self.fetch.look()
            self.here.look()
            self.turns.settle()

    def until_held(self, log_index: int, deadline_s: float = 600.0) -> None:
        for _ in range(int(deadline_s)):
            self.look(1.0)
            if self.store.find(self.source.workspace_id, log_index) is not None:
                return
        raise AssertionError(f"it did not come: {self.asked[-5:]}")


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


@pytest.mark.req("WS-51", "WS-53")
def test_a_missed_snapshot_comes_whole_under_the_name_of_who_wrote_it(peers: Peers) -> None:
    log_index = peers.marked(300)
    expected = read_back(peers.source.store, peers.source.workspace_id, log_index)
    peers.look(SETTLE_S - 1)
    assert not peers.asked, "it may still be written here"
    peers.until_held(log_index)
    assert read_back(peers.store, peers.source.workspace_id, log_index) == expected
    signed = peers.store.signed(peers.source.workspace_id, log_index)
    assert signed is not None
    assert verified(signed, certs.ca().certificate_pem)[1] == "n1"
    count = len(peers.asked)
    second = peers.marked(1)
    peers.until_held(second)
    assert sum(pages for _, pages in peers.asked[count:]) < 15, "what is here is not asked for again"
    peers.store.close()
    peers.open()
    assert peers.store.held() == [(peers.source.workspace_id, i) for i in (log_index, second)]
    assert not peers.fatal


@pytest.mark.req("WS-53")
def test_it_comes_no_faster_than_the_setting(peers: Peers) -> None:
    log_index = peers.marked(300)
    peers.look(SETTLE_S)
    began_s = peers.turns.now_s
    peers.until_held(log_index)
    manifest = peers.store.find(peers.source.workspace_id, log_index)
    assert manifest is not None
    assert peers.turns.now_s - began_s >= manifest.bytes_total / BYTES_PER_S - 1


def wrong_page(reply: SnapshotReply) -> SnapshotReply:
    for place, page in enumerate(reply.pages):
        reply.pages[place] = page[:-1] + bytes((page[-1] ^ 1,))
    return reply


def other_page(reply: SnapshotReply) -> SnapshotReply:
    if reply.pages:
        del reply.pages[:]
        reply.pages.append(b"\0 nobody asked for this")
    return reply


def signed_by_a_client(reply: SnapshotReply) -> SnapshotReply:
    if reply.HasField("manifest"):
        manifest = open_manifest(reply.manifest)
        reply.manifest.CopyFrom(sign_manifest(manifest, certs.client("someone")))
    return reply


def forged(**fields: object) -> Spoil:
    def spoil(reply: SnapshotReply) -> SnapshotReply:
        """Signed by a node, and of something else."""
        if reply.HasField("manifest"):
            manifest = replace(open_manifest(reply.manifest), **fields)  # type: ignore[arg-type]
            reply.manifest.CopyFrom(sign_manifest(manifest, certs.node("n1")))
        return reply

    return spoil


def without_manifest(reply: SnapshotReply) -> SnapshotReply:
    reply.ClearField("manifest")
    return reply


def silent(_: SnapshotReply) -> None:
    return None


SPOILED: dict[str, Spoil] = {
    "a damaged page": wrong_page,
    "another page": other_page,
    "signed by a client": signed_by_a_client,
    "another root": forged(root=blake3(b"other").digest()),
    "another history": forged(history_id=b"x" * 16),
    "another count": forged(page_count=1),
    "no manifest": without_manifest,
    "silence": silent,
}


@pytest.mark.req("WS-51", "WS-53")
@pytest.mark.parametrize("how", SPOILED)
def test_nothing_is_taken_on_trust(peers: Peers, how: str) -> None:
    """From nobody, if nobody is honest; and from the honest one as soon as it is asked."""
    log_index = peers.marked(300)
    peers.spoil = {N1: SPOILED[how], N2: SPOILED[how]}
    peers.look(SETTLE_S + 2 * ANSWER_S + 10)
    assert {peer for peer, _ in peers.asked} == {N1, N2}
    assert peers.store.held() == []
    assert peers.here._fetching is False
    asked = len(peers.asked)
    peers.look(20)
    assert len(peers.asked) == asked, "it is not tried again at once"
    peers.look(10)
    assert peers.store.page_count == 0, "what came of it is swept away"
    del peers.spoil[N2]
    peers.until_held(log_index, RETRY_S + 120)
    assert not peers.fatal


@pytest.mark.req("WS-53")
def test_it_goes_on_with_the_next_peer_where_one_left_off(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_fetch, "SNAPSHOT_PAGES_A_REQUEST_MAX", 1)
    log_index = peers.marked(300)
    for _ in range(200):
        peers.look(1)
        if sum(pages for _, pages in peers.asked) >= 3:
            break
    first = peers.asked[-1][0]
    peers.connected.remove(first)
    count = len(peers.asked)
    peers.until_held(log_index)
    assert {peer for peer, _ in peers.asked[count + 1 :]} == {N1, N2} - {first}
    manifests = [pages for _, pages in peers.asked[count:] if not pages]
    assert not manifests, "the manifest is known"


@pytest.mark.req("WS-53", "CL-4")
def test_nothing_is_fetched_without_room_and_a_dropped_snapshot_is_let_go(peers: Peers) -> None:
    peers.marked(300)
    peers.room = False
    peers.look(SETTLE_S + 20)
    assert not peers.asked
    peers.room = True
    peers.look(SETTLE_S + 3)
    assert peers.asked
    peers.room = False
    peers.look(20)
    assert peers.store.held() == []
    assert peers.store.page_count == 0
    peers.room = True
    peers.source.settings = RetentionSettings(snapshot_every_s=10**6, snapshots_kept=1)
    second = peers.marked(1)
    peers.source.look()
    assert peers.source.snapshots() == [second]
    peers.until_held(second)
    peers.look(60)
    assert peers.store.held() == [(peers.source.workspace_id, second)]
    assert not peers.fatal


def test_a_peer_has_one_request_at_a_time(peers: Peers) -> None:
    peers.marked(30)
    served: list[SnapshotExchange] = []
    serving = SnapshotServing(
        peers.source.store, InlineRunner(), peers.turns, peers.metrics,
        lambda _to, exchange: bool(served.append(exchange) or True), peers.fatal.append, bytes_per_s=1_000,
    )  # fmt: skip
    request = SnapshotRequest(workspace_id=peers.source.workspace_id, log_index=peers.source.snapshots()[-1])
    for _ in range(50):
        serving.asked(N3, request)
    peers.turns.settle()
    peers.turns.pass_time(0.0)
    assert len(served) == 1
    serving.asked(N3, request)
    peers.turns.pass_time(0.5)
    assert len(served) == 1, "and no faster than the setting"
    peers.turns.pass_time(10.0)
    assert len(served) == 2
    serving.close()
    serving.asked(N3, request)
    peers.turns.pass_time(10.0)
    assert len(served) == 2
