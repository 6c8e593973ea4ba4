"""Fetches the workspace snapshots that the state lists and this node does not have from nodes that do (WS-51, WS-53).

Owns: what is lacking, whom it is asked of, and how fast.
Never: takes anything on trust: the manifest must be signed by a node of this cluster, be of this history, and name the
index and root that the state lists; a page must have the hash it was asked by. Holds up the loop: everything that reads
or writes pages runs beside it.
Invariants: one snapshot at a time and one request of at most SNAPSHOT_PAGES_A_REQUEST_MAX pages in flight; pages that
are here are not asked for; a snapshot appears when all of its pages are here, signed by the node that wrote it. A peer
that does not answer, or answers something else, is left for the next; after the last it is tried again later.

    MANIFEST -> PAGES, an index page and then what it lists, again and again -> published
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from blake3 import blake3

from hypercluster.errors import DamagedError, DiskFailedError, DiskFullError, WrongDirectoryError
from hypercluster.limits import SNAPSHOT_PAGES_A_REQUEST_MAX
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.node.words import Turns
from hypercluster.pb.v1.peer_pb2 import SnapshotExchange, SnapshotReply, SnapshotRequest
from hypercluster.pb.v1.snapshot_pb2 import SignedManifest
from hypercluster.snapshot_manifest import Manifest, verified
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.snapshots import Snapshot, list_snapshots, read_snapshot
from hypercluster.storage.runner import Runner
from hypercluster.storage.snapshots.pages import split_index
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
SETTLE_S: Final = 5.0  # a snapshot that was just marked is being written, here and elsewhere
ANSWER_S: Final = 10.0
RETRY_S: Final = 60.0  # after every peer was asked
LACKING_MAX: Final = 10_000  # remembered at a time

Key = tuple[bytes, int]
Send = Callable[[NodeId, SnapshotExchange], bool]


@dataclass(slots=True)
class _Fetch:
    """The one under way."""

    workspace_id: bytes
    listed: Snapshot
    peer: NodeId
    peers: deque[NodeId]  # to be asked after it
    deadline_s: float = 0.0
    asked: frozenset[bytes] | None = None  # None: for the manifest
    waits: bool = False  # for an answer, not for a job or a pause
    signed: SignedManifest | None = None
    manifest: Manifest | None = None
    place: int = 0  # index pages before it list nothing that is lacking
    lacking: deque[bytes] = field(default_factory=deque)
    bytes_fetched: int = 0


class SnapshotFetch:
    """`look` is called now and then by the lifecycle, `answered` with what peers reply."""

    def __init__(
        self,
        snapshots: TreeSnapshots,
        reader: Reader,
        runner: Runner,
        turns: Turns,
        metrics: Metrics,
        history_id: bytes,
        *,
        peers: Callable[[], Sequence[NodeId]],
        send: Send,
        trust_pem: Callable[[], bytes],
        on_fatal: Callable[[BaseException], None],
        bytes_per_s: int,
        has_room: Callable[[], bool],
    ) -> None:
        """`runner` is the one that `snapshots` writes and sweeps with; `trust_pem` the CAs that nodes are signed by."""
        self._snapshots = snapshots
        self._store: SnapshotStore = snapshots.store
        self._reader = reader
        self._runner = runner
        self._turns = turns
        self._metrics = metrics
        self._history_id = history_id
        self._peers = peers
        self._send = send
        self._trust_pem = trust_pem
        self._on_fatal = on_fatal
        self._bytes_per_s = bytes_per_s
        self._has_room = has_room
        self._active: _Fetch | None = None
        self._lacking_s: dict[Key, float] = {}  # when each may be asked for
        self._after = b""  # place of the workspace looked at last
        self._due_s = 0.0
        self._turn = 0  # who is asked first
        self._closed = False

    # -- what is lacking --------------------------------------------------------------------------

    def look(self) -> None:
        now_s = self._turns.time()
        if self._closed:
            return
        if self._active is not None:
            if self._active.waits and now_s >= self._active.deadline_s:
                self._next_peer(self._active, "it does not answer")
            return
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_S
        peers = self._peers()
        found = self._find(now_s) if peers and self._has_room() else None
        if found is not None:
            self._begin(*found, peers)

    def _find(self, now_s: float) -> tuple[bytes, Snapshot] | None:
        """Of the next workspace, the newest that is due."""
        pair = next(iter(islice(queries.scan_workspaces(self._reader, self._after), 1)), None)
        if pair is None:
            self._after = b""
            return None
        place, workspace_id = pair
        due: Snapshot | None = None
        if not self._snapshots.is_making(workspace_id):
            for listed in list_snapshots(self._reader, workspace_id):
                key = workspace_id, listed.log_index
                if self._store.find(*key) is None:
                    if len(self._lacking_s) >= LACKING_MAX:
                        self._lacking_s.clear()
                    if now_s >= self._lacking_s.setdefault(key, now_s + SETTLE_S):
                        due = listed
        if due is None:
            self._after = place
            return None
        return workspace_id, due

    def _begin(self, workspace_id: bytes, listed: Snapshot, peers: Sequence[NodeId]) -> None:
        self._turn += 1
        order = deque(peers)
        order.rotate(self._turn)
        self._active = _Fetch(workspace_id, listed, order.popleft(), order)
        self._snapshots.fetch_begins()
        self._ask(self._active, None)

    # -- asking -----------------------------------------------------------------------------------

    def _next_peer(self, fetch: _Fetch, why: str) -> None:
        fields = {"peer": fetch.peer, "workspace": fetch.workspace_id.hex(), "log_index": fetch.listed.log_index}
        log.info("a workspace snapshot is not fetched from a peer", extra={"fields": {**fields, "why": why}})
        fetch.waits = False
        if not fetch.peers:
            self._end(fetch, published=False)
            return
        fetch.peer = fetch.peers.popleft()
        if fetch.manifest is None:
            self._ask(fetch, None)
        else:
            self._go_on(fetch)

    def _ask(self, fetch: _Fetch, pages: Sequence[bytes] | None) -> None:
        request = SnapshotRequest(workspace_id=fetch.workspace_id, log_index=fetch.listed.log_index, pages=pages or ())
        fetch.asked = None if pages is None else frozenset(pages)
        fetch.waits = True
        fetch.deadline_s = self._turns.time() + ANSWER_S
        if not self._send(fetch.peer, SnapshotExchange(request=request)):
            self._next_peer(fetch, "there is no way to it")

    def answered(self, peer: NodeId, reply: SnapshotReply) -> None:
        fetch = self._active
        if self._closed or fetch is None or not fetch.waits or peer != fetch.peer:
            return
        if (reply.workspace_id, reply.log_index) != (fetch.workspace_id, fetch.listed.log_index):
            return  # to what was asked before
        fetch.waits = False
        if fetch.asked is None:
            self._take_manifest(fetch, reply)
        else:
            self._take_pages(fetch, fetch.asked, list(reply.pages))

    def _take_manifest(self, fetch: _Fetch, reply: SnapshotReply) -> None:
        if not reply.HasField("manifest"):
            self._next_peer(fetch, "it has none")
            return
        trust_pem = self._trust_pem()

        def check_manifest() -> None:
            manifest, _ = verified(reply.manifest, trust_pem)
            wanted = fetch.workspace_id, fetch.listed.log_index, fetch.listed.root, self._history_id
            if (manifest.workspace_id, manifest.log_index, manifest.root, manifest.history_id) != wanted:
                raise DamagedError("the manifest is not of the snapshot that was asked for")
            fetch.signed, fetch.manifest = reply.manifest, manifest

        self._submit(fetch, check_manifest, lambda: self._go_on(fetch))

    def _take_pages(self, fetch: _Fetch, asked: frozenset[bytes], pages: list[bytes]) -> None:
        if not pages:
            self._next_peer(fetch, "it lacks pages")
            return
        size_bytes = sum(map(len, pages))

        def put_pages() -> None:
            for page in pages:
                if blake3(page).digest() not in asked:
                    raise DamagedError("a page does not have the hash it was asked by")
                self._store.put_page(page)

        def was_put() -> None:
            fetch.bytes_fetched += size_bytes
            pause_s = size_bytes / self._bytes_per_s
            self._turns.call_at(self._turns.time() + pause_s, lambda: self._go_on(fetch))

        self._submit(fetch, put_pages, was_put)

    # -- what comes next --------------------------------------------------------------------------

    def _go_on(self, fetch: _Fetch) -> None:
        """Asks for what is lacking, or publishes."""
        if self._closed or fetch is not self._active:
            return
        manifest, signed = fetch.manifest, fetch.signed
        if manifest is None or signed is None:
            return
        if read_snapshot(self._reader, fetch.workspace_id, fetch.listed.log_index) is None:
            self._end(fetch, published=False)  # dropped meanwhile
            return
        if not self._has_room():
            self._failed(fetch, DiskFullError("there is little room on the disk"))
            return
        wanted: list[bytes] = []
        whole: list[bool] = []

        def look_further() -> None:
            wanted.extend(self._lacking(fetch, manifest))
            if not wanted:
                self._publish(manifest, signed)
                whole.append(True)

        def looked() -> None:
            if whole:
                self._end(fetch, published=True)
            else:
                self._ask(fetch, wanted)

        self._submit(fetch, look_further, looked, lambda: self._distrust(fetch))

    def _distrust(self, fetch: _Fetch) -> None:
        """What the manifest lists does not fit together: the next peer is asked for its own."""
        fetch.signed = fetch.manifest = None
        fetch.place = 0
        fetch.lacking.clear()

    def _lacking(self, fetch: _Fetch, manifest: Manifest) -> list[bytes]:
        """Beside the loop: some pages that are not here. Raises DamagedError."""
        has = self._store.has_page
        while True:
            wanted = [found for found in islice(fetch.lacking, SNAPSHOT_PAGES_A_REQUEST_MAX) if not has(found)]
            if wanted:
                return wanted
            for _ in range(min(len(fetch.lacking), SNAPSHOT_PAGES_A_REQUEST_MAX)):
                fetch.lacking.popleft()
            if fetch.lacking:
                continue
            if fetch.place == len(manifest.index_pages):
                return []
            index_page = manifest.index_pages[fetch.place]
            if not has(index_page):
                return [index_page]
            fetch.lacking.extend(dict.fromkeys(split_index(self._store.page(index_page))))
            fetch.place += 1

    def _publish(self, manifest: Manifest, signed: SignedManifest) -> None:
        """Beside the loop. Raises DamagedError."""
        count = 0
        for page_hash in self._store.page_hashes(manifest):
            count += 1
            if not self._store.has_page(page_hash):
                raise DamagedError(f"page {page_hash.hex()} went while the snapshot was fetched")
        if count != manifest.page_count:
            raise DamagedError(f"the index lists {count} pages, the manifest {manifest.page_count}")
        self._store.publish_signed(manifest, signed)

    # -- ends -------------------------------------------------------------------------------------

    def _submit(
        self,
        fetch: _Fetch,
        job: Callable[[], None],
        then: Callable[[], None],
        damaged: Callable[[], None] = lambda: None,
    ) -> None:
        def ended(error: BaseException | None) -> None:
            if self._closed or fetch is not self._active:
                return
            if error is None:
                then()
            elif isinstance(error, DamagedError | WrongDirectoryError):
                damaged()
                self._next_peer(fetch, str(error))
            else:
                self._failed(fetch, error)

        self._runner.submit(job, ended)

    def _failed(self, fetch: _Fetch, error: BaseException) -> None:
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        self._end(fetch, published=False)
        if full or isinstance(error, DiskFullError):
            fields = {"workspace": fetch.workspace_id.hex(), "log_index": fetch.listed.log_index, "why": str(error)}
            log.warning("a workspace snapshot is not fetched", extra={"fields": fields})
        else:
            words = f"fetching a workspace snapshot failed: {error}"
            self._on_fatal(DiskFailedError(words) if isinstance(error, OSError) else error)

    def _end(self, fetch: _Fetch, *, published: bool) -> None:
        self._active = None
        key = fetch.workspace_id, fetch.listed.log_index
        self._snapshots.fetch_ended(published)
        if not published:
            self._lacking_s[key] = self._turns.time() + RETRY_S
            return
        self._lacking_s.pop(key, None)
        self._due_s = 0.0  # there may be another
        self._metrics.snapshots_fetched.inc()
        fields = {"workspace": key[0].hex(), "log_index": key[1], "bytes": fetch.bytes_fetched, "peer": fetch.peer}
        log.info("a workspace snapshot came from a peer", extra={"fields": fields})

    def close(self) -> None:
        """What was being fetched is swept at the next start."""
        self._closed = True
        self._active = None
