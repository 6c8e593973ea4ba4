"""Grants of locks as a history tells of them: what is certain of each, and what may be.

Owns: `Grant`, `read_grants`, `compatible`, and the times of the specification (WS-41).
Never: a verdict, but on tokens that were granted twice.
Certain: a grant began before its acquire returned. It lasts at least until TTL + GRACE after the latest renewal that
was answered ok was *called*; an immediate grant and a reclaim count from their own call too, a grant that was waited
for only from its first renewal, as nobody knows when it was given. A release or a reclaim ends the certainty where it
was called, unless it certainly did nothing.
What may be: a grant exists from its call, and ends at the return of an ok release or reclaim of it; until then nobody
can say that it has ended. Unknown outcomes widen what may be and never what is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.findings import Findings
from chaos.checkers.operations import NEVER, Operation
from chaos.records import FAIL, OK

TTL_NS: Final = 5_000_000_000
GRACE_NS: Final = 2_000_000_000
TOLERANCE_NS: Final = 50_000_000  # between the clocks of two processes of one machine, and of a timer
SHARED: Final = "shared"
EXCLUSIVE: Final = "exclusive"
ENDS: Final = frozenset({"release", "reclaim"})


class BadLockError(ValueError):
    """An operation without the fields that the checker needs."""


@dataclass(slots=True)
class Grant:
    """One token, and everything that was done with it. `made`: the acquire or reclaim that was answered with it."""

    token: int
    made: Operation
    key: str
    kind: str
    permits: int
    worker: str
    uses: list[Operation] = field(default_factory=list)  # in the order of their calls

    @property
    def sure_from_ns(self) -> int:
        return self.made.returned_ns

    def sure_until_ns(self) -> int:
        """Below `sure_from_ns` where nothing is certain."""
        until = max(self._sent(NEVER), default=-TTL_NS - GRACE_NS) + TTL_NS + GRACE_NS - TOLERANCE_NS
        return min([until, *(use.called_ns for use in self.uses if use.op in ENDS and use.outcome != FAIL)])

    def may_until_ns(self) -> int:
        return min((u.returned_ns for u in self.uses if u.op in ENDS and u.outcome == OK), default=NEVER)

    def silent_since_ns(self, at_ns: int) -> int:
        """When its holder last sent what was answered well before that moment, for all that is known."""
        return max(self._sent(at_ns), default=self.made.returned_ns)

    def _sent(self, before_ns: int) -> list[int]:
        """When the renewals were called that were answered ok, and the grant itself, where it began with its call."""
        sent = [u.called_ns for u in self.uses if u.op == "renew" and u.outcome == OK and u.called_ns < before_ns]
        if self.made.extra.get("immediate") or self.made.op == "reclaim":
            sent.append(self.made.called_ns)
        return sent

    def describe(self) -> str:
        return f"token {self.token} of {self.made.describe()}"


def asked(operation: Operation, name: str) -> Any:
    """Raises BadLockError."""
    if not isinstance(operation.asked, dict) or name not in operation.asked:
        raise BadLockError(f"{operation.describe()} does not say its {name}")
    return operation.asked[name]


def read_grants(operations: Sequence[Operation], findings: Findings) -> list[Grant]:
    """By token. Raises BadLockError."""
    grants: dict[int, Grant] = {}
    for operation in operations:
        if operation.op not in ("acquire", "reclaim") or operation.outcome != OK:
            continue
        result = operation.result
        if not isinstance(result, dict) or not isinstance(result.get("token"), int):
            raise BadLockError(f"{operation.describe()} was granted without a token")
        token = result["token"]
        if token in grants:
            findings.wrong(f"token {token} was granted twice: {grants[token].describe()}; {operation.describe()}")
            continue
        kind = str(asked(operation, "kind"))
        permits = operation.number("permits") or 0
        grants[token] = Grant(token, operation, operation.key, kind, permits, operation.text("worker"))
    for operation in operations:
        if operation.op in ("renew", "release", "write", "reclaim"):
            used = grants.get(asked(operation, "token"))
            if used is not None:
                used.uses.append(operation)
    return [grants[token] for token in sorted(grants)]


def compatible(kind: str, permits: int, other_kind: str, other_permits: int) -> bool:
    """Whether two may hold one target beside each other; how many permits there are is another question."""
    return kind == other_kind == SHARED or bool(permits and permits == other_permits)


def sure(grants: Sequence[Grant]) -> Iterator[tuple[Grant, int, int]]:
    """Those of which something is certain: from when, and until when."""
    for grant in grants:
        until = grant.sure_until_ns()
        if until > grant.sure_from_ns:
            yield grant, grant.sure_from_ns, until
