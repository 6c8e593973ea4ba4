"""The present links, one a peer, and the membership they are judged by.

Owns: `PeerRegistry`: which link is used for whom, the engine's callbacks and their order, the counters of refusals.
Never: sockets, gRPC calls, dialing.
Invariants: one link a peer; `on_disconnected` for the one before comes ahead of `on_connected` for the next; between
the two the peer has no link; callbacks never come from inside `send`, `set_membership` or `close`; what a callback
raises reaches `on_fatal` and is never swallowed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from hypercluster.errors import REJOIN, check
from hypercluster.pb.v1.peer_pb2 import PeerHello
from hypercluster.raft import peer_hello
from hypercluster.raft.peer_hello import LocalNode, Refusal, quarantine_difference
from hypercluster.raft.peer_link import PeerLink
from hypercluster.values import NO_INDEX, Incarnation, Membership, NodeId

_LOG = logging.getLogger(__name__)
Admit = Callable[[Incarnation, bytes, Collection[Incarnation]], bool]
NOBODY: Final = Membership(index=NO_INDEX, configured_voters=1, members=())


class PeerRegistry:
    def __init__(
        self,
        local: LocalNode,
        on_fatal: Callable[[BaseException], None],
        applied_index: Callable[[], int] = lambda: 0,
        admit: Admit = lambda _incarnation, _birth, _members: True,
    ) -> None:
        """`applied_index` is for the words about a quarantine only; `admit` is MetPeers.admit."""
        self.local = local
        self._applied_index = applied_index
        self._admit = admit
        self.membership = NOBODY
        self.refusals: Counter[Refusal] = Counter()
        self._on_fatal = on_fatal
        self._links: dict[NodeId, PeerLink] = {}
        self._announced: set[NodeId] = set()  # peers whose latest callback was on_connected
        self._client_addresses: dict[NodeId, str] = {}
        self._last_problem: dict[str, str] = {}
        self._on_frame: Callable[[NodeId, bytes], None] | None = None
        self._on_connected: Callable[[NodeId], None] = lambda _: None
        self._on_disconnected: Callable[[NodeId], None] = lambda _: None

    @property
    def running(self) -> bool:
        return self._on_frame is not None

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        check(self._on_frame is None, "the peer transport is started once")
        self._on_frame, self._on_connected, self._on_disconnected = on_frame, on_connected, on_disconnected

    def set_membership(self, membership: Membership) -> None:
        self.membership = membership
        for link in list(self._links.values()):
            if not self._is_member(link):
                self._drop(link, "no longer a member")
        members = {member.node_id for member in membership.members}
        for node_id in self._client_addresses.keys() - members:
            del self._client_addresses[node_id]

    def link_of(self, node_id: NodeId) -> PeerLink | None:
        return self._links.get(node_id)

    def client_address(self, node_id: NodeId) -> str:
        return self._client_addresses.get(node_id, "")

    def problem_of(self, node_id: NodeId) -> str:
        return "" if node_id in self._links else self._last_problem.get(node_id, "")

    async def hold(self, link: PeerLink, client_address: str) -> None:
        """Uses `link`, whose hellos were judged, until it ends."""
        if not self.running or not self._is_member(link):
            return
        before = self._links.get(link.peer)
        if before is not None:
            self._drop(before, "replaced by a new stream")
        self._tell_disconnected(link.peer)
        self._links[link.peer] = link
        self._client_addresses[link.peer] = client_address
        self._announced.add(link.peer)
        self._call(self._on_connected, link.peer)
        self._last_problem.pop(link.peer, None)
        _LOG.info("peer %s connected", link.peer)
        try:
            await link.run()
        finally:
            self._drop(link, "the stream ended")
            # A link that was replaced or removed has been told of, or will be by the call that _drop asked for.
            if link.peer not in self._links:
                self._tell_disconnected(link.peer)
            _LOG.info("peer %s disconnected: %s", link.peer, link.problem)

    def deliver(self, peer: NodeId, frame: bytes) -> None:
        """A link's frames come through here."""
        if self._on_frame is not None:
            try:
                self._on_frame(peer, frame)
            except BaseException as error:
                self._on_fatal(error)

    def count(self, refusal: Refusal, who: str, detail: str = "") -> None:
        """Counted always; logged once until the reason of that peer changes, so that nobody can fill the log."""
        self.refusals[refusal] += 1
        self.problem(who, f"refused: {refusal.value}{': ' if detail else ''}{detail}")

    def judge(self, hello: PeerHello, proven: NodeId) -> Refusal | None:
        """`judge_hello`, and that it is not an empty log under an incarnation that was met before."""
        refusal = peer_hello.judge_hello(hello, proven, self.local, self.membership)
        if refusal is not None:
            return refusal
        members = {member.incarnation for member in self.membership.members}
        return None if self._admit(Incarnation(hello.incarnation), hello.birth, members) else Refusal.LOST_LOG

    def detail(self, refusal: Refusal, hello: PeerHello) -> str:
        """Words for an enrolled node whose hello was refused; '' where the code says it all."""
        if refusal is Refusal.LOST_LOG:
            return (
                f"{hello.node_id} was here before as incarnation {hello.incarnation.hex()} and has no log now: it lost "
                f"its directory, or was given a new one by hand. {REJOIN}"
            )
        if refusal is not Refusal.QUARANTINE_DIFFERS:
            return ""
        return quarantine_difference(hello, self.local, self._applied_index())

    def problem(self, who: str, text: str, *, vague: bool = False) -> None:
        """Logged when it is news; a `vague` text only while nothing better is known."""
        if len(self._last_problem) > 256:
            self._last_problem.clear()
        if self._last_problem.get(who) != text and not (vague and who in self._last_problem):
            self._last_problem[who] = text
            _LOG.warning("peer stream, %s: %s", who, text)

    def close(self) -> None:
        """No callback comes after it."""
        self._on_frame = None
        self._on_connected = self._on_disconnected = lambda _: None
        for link in list(self._links.values()):
            self._drop(link, "this node is stopping")
        self._announced.clear()

    def fatal(self, error: BaseException) -> None:
        self._on_fatal(error)

    def _is_member(self, link: PeerLink) -> bool:
        member = self.membership.find(link.peer)
        return member is not None and member.incarnation == link.incarnation

    def _drop(self, link: PeerLink, problem: str) -> None:
        link.close(problem)
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            # Later, because this may run inside a call of the engine. `hold` may be faster with a new link.
            asyncio.get_running_loop().call_soon(self._tell_gone, link.peer)

    def _tell_gone(self, peer: NodeId) -> None:
        if peer not in self._links:
            self._tell_disconnected(peer)

    def _tell_disconnected(self, peer: NodeId) -> None:
        if peer in self._announced:
            self._announced.discard(peer)
            self._call(self._on_disconnected, peer)

    def _call(self, callback: Callable[[NodeId], None], peer: NodeId) -> None:
        try:
            callback(peer)
        except BaseException as error:
            self._on_fatal(error)
