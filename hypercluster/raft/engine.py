"""The contract of the consensus engine: everything above knows only this module.

Owns: `Engine`, what it needs from below and above (`Host`, `Checkpoints`, `Clock`, `PeerTransport`), and
the outcomes of a proposal. The adapter over pysyncobj and `FakeEngine` pass the same contract tests.
Threads: every call and every callback happens on the owner's one loop; nothing here blocks. Syncs and
checkpoints run elsewhere and come back through `SyncRunner`.
Invariants: a `Committed` outcome is durable on a majority and applied here; callbacks of one term come in
index order; `done` is called exactly once per proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hypercluster.values import CheckpointMeta as CheckpointMeta  # noqa: PLC0414 (the engine contract offers it)
from hypercluster.values import Digest, Index, Membership, NodeId, Role, Suffrage, Term


@dataclass(frozen=True, slots=True)
class Committed:
    """`result` is what `Host.apply` returned for the entry."""

    index: Index
    term: Term
    result: object


@dataclass(frozen=True, slots=True)
class NotProposed:
    """Definitely not: the entry never entered a log. `reason` is a code of errors.py."""

    reason: str
    leader: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Leadership was lost, or a snapshot replaced the log, while the entry was in flight."""

    reason: str


ProposalOutcome = Committed | NotProposed | Unknown


@dataclass(frozen=True, slots=True)
class ReadReady:
    """The state machine has applied at least `index`, and this node led `term` after the read arrived."""

    index: Index
    term: Term


ReadOutcome = ReadReady | NotProposed


@dataclass(frozen=True, slots=True)
class PeerStatus:
    node_id: NodeId
    suffrage: Suffrage
    connected: bool
    match_index: Index
    in_flight_bytes: int
    fsync_us: int  # the peer's latest, from its acknowledgement (QUO-2)
    last_contact_ms: int


@dataclass(frozen=True, slots=True)
class EngineStatus:
    node_id: NodeId
    role: Role
    term: Term
    leader: NodeId | None
    last_index: Index
    durable_index: Index
    commit_index: Index
    applied_index: Index
    base_index: Index  # compaction point: entries above it are in the log
    membership: Membership
    peers: tuple[PeerStatus, ...]
    refusing_writes: str  # '' or why ("DISK_FULL", "CLOCK_SKEW", …)
    clock_skew_ms: int  # this node against the median of the voters it hears (D-5)
    fresh_boottime_ns: int = 0  # own CLOCK_BOOTTIME: what was committed before it is applied here (CL-10); 0: unknown
    stopped: str = ""  # '' or the code of what stopped this engine


class Host(Protocol):
    """The replicated state machine as the engine sees it."""

    @property
    def applied_index(self) -> Index: ...

    def apply(self, index: Index, term: Term, payload: bytes, context: object) -> object:
        """Applies one committed entry. `context` is what `propose` was given here, or None.

        Total: raising stops the node before the index is stored (CL-16)."""

    def advance(self, index: Index, term: Term) -> None:
        """A committed entry with nothing to apply (no-op, configuration): only the applied index moves."""

    def digest_at(self, index: Index) -> Digest | None:
        """digest_k (CL-17) for a recent k, None when no longer known."""

    def ready(self) -> bool:
        """False while the host can not take another entry (write stall, or its turn's 2 ms are used up)."""


class Checkpoints(Protocol):
    """Makes, streams and installs checkpoints (CL-8). Blocking work runs elsewhere; `done` comes back on the loop."""

    def latest(self) -> CheckpointMeta | None: ...

    def create(
        self, index: Index, term: Term, membership: Membership, done: Callable[[CheckpointMeta | None], None]
    ) -> None:
        """Of the state as it is now (the caller says at which index and term)."""

    def read_piece(self, checkpoint_id: str, offset: int, bytes_max: int) -> bytes | None:
        """None when that checkpoint is no longer kept: the sender starts over with the latest."""

    def receive(self, meta: CheckpointMeta) -> CheckpointReceiver: ...


class CheckpointReceiver(Protocol):
    """Stages one incoming checkpoint. Nothing of the node's own state changes before `install`."""

    def write(self, offset: int, piece: bytes) -> None:
        """Pieces come in order; another offset than expected raises ValueError."""

    def verify(self) -> None:
        """Checks sizes and checksums and syncs what is staged. Raises DamagedError."""

    def missing_chunks(self, count_max: int) -> list[bytes]:
        """Hashes whose bytes this node still lacks, after verify."""

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        """Raises ValueError when the bytes are not the hash's."""

    def install(self) -> None:
        """Replaces the state by rename; a restart at any moment finds the old or the new."""

    def abort(self) -> None: ...


class ChunkSource(Protocol):
    """Where the engine reads chunk bytes that a peer asks for while installing a checkpoint."""

    def read_chunk(self, chunk_hash: bytes) -> bytes | None: ...


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; timeouts and intervals only."""

    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME: goes on while the host is suspended (CL-10)."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, for stamps and clock comparison only (D-5)."""


class SyncRunner(Protocol):
    """Runs a blocking job beside the loop, one at a time and in order; `done(error)` is called on the loop."""

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None: ...


class PeerTransport(Protocol):
    """Ordered frames to and from peers. The stream to a peer is FIFO; a reconnect drops the old stream first."""

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        """Frames are serialized hypercluster.v1.PeerFrame messages, already bounded and from an authenticated peer."""

    def set_peers(self, membership: Membership) -> None:
        """Whom to keep a stream with, and who may speak."""

    def send(self, to: NodeId, frame: bytes) -> bool:
        """False when not connected or the peer's queue is full: the frame is dropped, the engine recovers."""

    def queued_bytes(self, to: NodeId) -> int: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Consensus. See the module's docstring for threading and invariants."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """Fails what is in flight with Unknown and closes. Idempotent."""

    def propose(self, payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        """`payload` (at most ENTRY_BYTES_MAX) as one entry. `context` reaches this node's own `Host.apply`."""

    def read_index(self, done: Callable[[ReadOutcome], None]) -> None:
        """Linearizable read barrier (CL-10): many calls share one round."""

    def transfer_leadership(self, to: NodeId | None, done: Callable[[ProposalOutcome | None], None]) -> None:
        """To a caught-up voter, or the best one. done(None) once another leader is seen."""

    def change_membership(self, wanted: Membership, done: Callable[[ProposalOutcome], None]) -> None:
        """One step from the present configuration (QUO-1); otherwise NotProposed."""

    def next_stamp_ns(self, span: int) -> int:
        """A committed_at for an entry of `span` commands: strictly above every stamp in this node's log plus its
        span, never above the voters' median clock plus CLOCK_SKEW_MAX (D-5). Leader only."""

    def status(self) -> EngineStatus: ...

    def tick(self) -> None:
        """Advances timers, sends and applies what is due. Called by the owner's loop when woken and at
        `next_deadline()`."""

    def next_deadline(self) -> float:
        """Clock.monotonic() time of the next timer."""
