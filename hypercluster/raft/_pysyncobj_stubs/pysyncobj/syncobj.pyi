from collections.abc import Callable

from .journal import Journal
from .node import Node
from .transport import Transport

createJournal: Callable[[object], object]
createPoller: Callable[[object], object]
monotonicTime: Callable[[], float]

class _RAFT_STATE:
    FOLLOWER: int
    CANDIDATE: int
    LEADER: int

class SyncObjConf:
    def __init__(
        self,
        *,
        autoTick: bool,
        appendEntriesPeriod: float,
        raftMinTimeout: float,
        raftMaxTimeout: float,
        leaderFallbackTimeout: float,
        connectionTimeout: float,
        appendEntriesBatchSizeBytes: int,
        commandsWaitLeader: bool,
        commandsQueueSize: int,
        useFork: bool,
        dynamicMembershipChange: bool,
        onStateChanged: Callable[[int, int], None] | None,
    ) -> None: ...

class SyncObj:
    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__votedForNodeId: str | None
    _SyncObj__votesCount: int
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLog: Journal
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftNextIndex: dict[Node, int]
    _SyncObj__raftMatchIndex: dict[Node, int]
    _SyncObj__lastResponseTime: dict[Node, float]
    _SyncObj__leaderCommitIndex: int | None
    _SyncObj__noopIDx: int | None
    _SyncObj__changeClusterIDx: int | None
    _SyncObj__otherNodes: set[Node]
    _SyncObj__readonlyNodes: set[Node]
    _SyncObj__connectedNodes: set[Node]
    _SyncObj__serializer: object
    def __init__(
        self, selfNode: Node, otherNodes: list[Node], conf: SyncObjConf, *, nodeClass: type[Node], transport: Transport
    ) -> None: ...
    def doTick(self, timeToWait: float = 0.0) -> None: ...
    def _SyncObj__setState(self, newState: int) -> None: ...
    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...
    def _SyncObj__onBecomeLeader(self) -> None: ...
    def _SyncObj__onNodeConnected(self, node: Node) -> None: ...
    def _SyncObj__onNodeDisconnected(self, node: Node) -> None: ...
    def _SyncObj__getCurrentLogIndex(self) -> int: ...
    def _SyncObj__getCurrentLogTerm(self) -> int: ...
