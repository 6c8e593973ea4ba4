"""What passes between the servers and the proposer.

Owns: `Caller`, `Verdict`, `Sink`, and the parts of an event loop the shell needs (`Turns`).
Never: protocol buffers services; rpc turns verdicts into messages.
Invariants: a sink is called exactly once per submitted message, with verdicts that cover each of its commands once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.values import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message, as authenticated (D-19, D-20); never what the message claims."""

    principal: str
    scope: Scope
    worker: str


class Verdict(NamedTuple):
    """Results of consecutive commands of one lane: one `Acks` message. Empty columns mean all zero."""

    client_id: bytes
    first_seq: int
    ops: int
    raft_index: int = 0  # where it was judged; 0 for what was turned away
    reasons: Sequence[int] = ()
    versions: Sequence[int] = ()
    files: Sequence[FileOutcome | None] = ()
    message: str = ""
    leader_hint: str = ""
    retry_after_ms: int = 0
    term: int = 0


Sink = Callable[[Sequence[Verdict]], None]


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Turns(Protocol):
    """The part of an asyncio loop that the shell uses; tests drive it with a virtual clock.

    `time` is the loop's, for `call_at` only: uvloop counts it in milliseconds."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], Any], /) -> Cancellable: ...

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Cancellable: ...
