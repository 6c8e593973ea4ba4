"""Locks: one holder, tokens that only rise, a grace that is kept, and writes that an old token can not make (WS-40 to
WS-43, D-6, D-10).

Owns: the verdict `locks`, over a history in which clients acquire, renew, release, reclaim, and write under a token.
What an operation says: `acquire` asks {kind, wait} and is answered {token, lock_id}; `renew`, `release`, `reclaim` and
`write` ask {token, lock_id}; a reclaim is answered {token}. `extra` may name worker, log_index (of a write), queued_ns
(when the cluster said that it waits), immediate (granted without waiting), converted (by the handle that held
it as another kind) and permits (of a semaphore).

What is certain of a grant: it began before its acquire returned. It lasts at least until TTL + GRACE after the latest
renewal that was answered ok was *called*; an immediate grant counts from its own call too, a grant that was waited for
only from its first renewal, as nobody knows when it was given. A release or a reclaim ends the certainty where it was
called. What may be: a grant exists from its call, and ends at the return of an ok release or reclaim of it; until then
nobody can say that it has ended. Unknown outcomes widen what may be and never what is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.operations import NEVER, HistoryError, Operation, by_key, join
from chaos.records import FAIL, OK, Verdict
from chaos.seams import Finished

TTL_NS: Final = 5_000_000_000
GRACE_NS: Final = 2_000_000_000
TOLERANCE_NS: Final = 50_000_000  # between the clocks of two processes of one machine, and of a timer
SHARED: Final = "shared"
EXCLUSIVE: Final = "exclusive"
LOST: Final = frozenset({"FENCED", "LOCK_LOST"})


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
        sent = [use.called_ns for use in self.uses if use.op == "renew" and use.outcome == OK]
        if self.made.extra.get("immediate") or self.made.op == "reclaim":
            sent.append(self.made.called_ns)
        until = max(sent, default=-TTL_NS - GRACE_NS) + TTL_NS + GRACE_NS - TOLERANCE_NS
        return min([until, *(use.called_ns for use in self.uses if use.op in ("release", "reclaim"))])

    def may_until_ns(self) -> int:
        ends = (u.returned_ns for u in self.uses if u.op in ("release", "reclaim") and u.outcome == OK)
        return min(ends, default=NEVER)

    def describe(self) -> str:
        return f"token {self.token} of {self.made.describe()}"


class LocksChecker:
    name = "locks"
    workloads = frozenset({"locks"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            operations = [o for o in join(run.events) if o.workload in self.workloads]
            grants = _grants(operations, findings)
        except (HistoryError, _BadLockError) as error:
            return cannot_judge(self.name, str(error))
        _judge_tokens(grants, findings)
        for key, of_key in by_key(operations).items():
            held = [grant for grant in grants if grant.key == key]
            _judge_exclusion(key, held, findings)
            _judge_grace(held, findings)
            _judge_writes(key, held, of_key, findings)
            _judge_refusals(key, held, of_key, findings)
            _judge_fairness(key, held, findings)
            _judge_reclaims(held, findings)
        findings.count("grants", len(grants))
        findings.count("guarded writes", sum(o.op == "write" and o.outcome == OK for o in operations))
        findings.count("fenced writes", sum(o.op == "write" and o.error == "FENCED" for o in operations))
        return findings.verdict("every lock had one holder, and only its token wrote", len(operations))


class _BadLockError(ValueError):
    """An operation without the fields that the checker needs."""


def _asked(operation: Operation, name: str) -> Any:
    if not isinstance(operation.asked, dict) or name not in operation.asked:
        raise _BadLockError(f"{operation.describe()} does not say its {name}")
    return operation.asked[name]


def _grants(operations: Sequence[Operation], findings: Findings) -> list[Grant]:
    """By token. Raises _BadLockError."""
    grants: dict[int, Grant] = {}
    for operation in operations:
        if operation.op not in ("acquire", "reclaim") or operation.outcome != OK:
            continue
        result = operation.result
        if not isinstance(result, dict) or not isinstance(result.get("token"), int):
            raise _BadLockError(f"{operation.describe()} was granted without a token")
        token = result["token"]
        if token in grants:
            findings.wrong(f"token {token} was granted twice: {grants[token].describe()}; {operation.describe()}")
            continue
        kind = str(_asked(operation, "kind"))
        permits = operation.number("permits") or 0
        grants[token] = Grant(token, operation, operation.key, kind, permits, operation.text("worker"))
    for operation in operations:
        if operation.op in ("renew", "release", "write", "reclaim"):
            used = grants.get(_asked(operation, "token"))
            if used is not None:
                used.uses.append(operation)
    return [grants[token] for token in sorted(grants)]


def _judge_tokens(grants: Sequence[Grant], findings: Findings) -> None:
    """One counter for the cluster: who is granted after another was told has the larger token (D-10)."""
    told: Grant | None = None  # with the largest token of those that returned so far
    order = sorted(grants, key=lambda grant: grant.made.called_ns)
    returned = sorted(grants, key=lambda grant: grant.made.returned_ns)
    at = 0
    for grant in order:
        while at < len(returned) and returned[at].made.returned_ns < grant.made.called_ns:
            if told is None or returned[at].token > told.token:
                told = returned[at]
            at += 1
        if told is not None and grant.token < told.token:
            findings.wrong(f"tokens fall: {grant.describe()} was asked for after {told.describe()}")


def _compatible(one: Grant, other: Grant) -> bool:
    return one.kind == other.kind == SHARED or bool(one.permits and one.permits == other.permits)


def _may_be_beside(later: Grant, earlier: Grant | None) -> bool:
    """Nobody was told of the grant of an `earlier` that is None; what it was is not known."""
    return later.kind != EXCLUSIVE if earlier is None else _compatible(later, earlier)


def _sure(grants: Sequence[Grant]) -> Iterator[tuple[Grant, int, int]]:
    for grant in grants:
        until = grant.sure_until_ns()
        if until > grant.sure_from_ns:
            yield grant, grant.sure_from_ns, until


def _judge_exclusion(key: str, grants: Sequence[Grant], findings: Findings) -> None:
    sure = sorted(_sure(grants), key=lambda entry: entry[1])
    open_now: list[tuple[Grant, int, int]] = []
    for entry in sure:
        open_now = [other for other in open_now if other[2] > entry[1]]
        for other in open_now:
            if not _compatible(entry[0], other[0]):
                words = f"{other[0].describe()}, certain until {other[2]}"
                findings.wrong(f"{key}: two holders at {entry[1]}: {entry[0].describe()}; {words}")
        open_now.append(entry)
        permits = entry[0].permits
        if permits and len(open_now) > permits:
            findings.wrong(f"{key}: {len(open_now)} hold {permits} permits at {entry[1]}: {entry[0].describe()}")


def _judge_grace(grants: Sequence[Grant], findings: Findings) -> None:
    """Whoever renewed in time is not told that the lock is lost before TTL and grace are over (WS-41)."""
    for grant, begin, until in _sure(grants):
        for use in grant.uses:
            if use.outcome == FAIL and use.error in LOST and begin <= use.called_ns and use.returned_ns <= until:
                findings.wrong(f"lost within TTL and grace (certain until {until}): {use.describe()}")


def _judge_writes(key: str, grants: Sequence[Grant], operations: Sequence[Operation], findings: Findings) -> None:
    by_token = {grant.token: grant for grant in grants}
    writes = [o for o in operations if o.op == "write" and o.outcome == OK]
    for write in writes:
        token = _asked(write, "token")
        grant = by_token.get(token)
        if grant is not None and write.called_ns > grant.may_until_ns():
            findings.wrong(f"{key}: written after the lock was given back: {write.describe()}")
        # Whoever was granted later and had heard of it when this write was called had taken the lock from it.
        for later in grants:
            taken = later.token > token and later.made.returned_ns < write.called_ns
            if taken and not _may_be_beside(later, grant):
                findings.wrong(f"{key}: an old token wrote: {write.describe()}, after {later.describe()}")
                break
    logged = [(index, o) for o in writes if (index := o.number("log_index")) is not None]
    logged.sort(key=lambda entry: entry[0])
    newest: dict[tuple[str, int], Grant] = {}  # that has written so far, by kind
    for index, write in logged:
        token = _asked(write, "token")
        grant = by_token.get(token)
        for later in newest.values():
            if token < later.token and not _may_be_beside(later, grant):
                findings.wrong(
                    f"{key}: at log_index {index} an older token writes: {write.describe()}, after {later.describe()}"
                )
        if grant is not None:
            kind = grant.kind, grant.permits
            newest[kind] = max(newest.get(kind, grant), grant, key=lambda one: one.token)


def _judge_refusals(key: str, grants: Sequence[Grant], operations: Sequence[Operation], findings: Findings) -> None:
    """Nobody is refused a lock that nobody can have."""
    asking = [o for o in operations if o.op in ("acquire", "reclaim")]
    for refused in asking:
        if refused.outcome != FAIL or refused.error not in ("EWOULDBLOCK", "EAGAIN", "LOCK_HELD_EXPIRING"):
            continue
        held = any(
            grant.made.called_ns < refused.returned_ns and grant.may_until_ns() > refused.called_ns for grant in grants
        )
        # One that waits, or whose answer nobody heard, may have it too.
        asked = any(
            o is not refused and o.outcome not in (OK, FAIL) and o.called_ns < refused.returned_ns for o in asking
        )
        waits = any(
            o is not refused and o.called_ns < refused.returned_ns and o.returned_ns > refused.called_ns for o in asking
        )
        if not (held or asked or waits):
            findings.wrong(f"{key}: refused though nobody can have had it: {refused.describe()}")


def _judge_fairness(key: str, grants: Sequence[Grant], findings: Findings) -> None:
    """A request that was in the queue when another was called is served before it, unless both fit (WS-40)."""
    asked_last: dict[tuple[str, int], Grant] = {}  # of those served so far, by kind: the one that was called last
    for grant in grants:  # in the order in which they were served
        queued_ns = grant.made.number("queued_ns")
        for served in asked_last.values() if queued_ns is not None else ():
            if served.made.called_ns > (queued_ns or 0) and not _compatible(served, grant):
                findings.wrong(f"{key}: overtaken in the queue: {grant.describe()}; {served.describe()}")
        if grant.made.op == "acquire" and not grant.made.extra.get("converted"):
            kind = grant.kind, grant.permits
            if kind not in asked_last or grant.made.called_ns > asked_last[kind].made.called_ns:
                asked_last[kind] = grant


def _judge_reclaims(held: Sequence[Grant], findings: Findings) -> None:
    """By the same worker, and only once the old client has been silent for a TTL (WS-43)."""
    for grant in held:
        for reclaim in (use for use in grant.uses if use.op == "reclaim" and use.outcome == OK):
            worker = reclaim.text("worker")
            if worker != grant.worker:
                findings.wrong(f"worker {worker!r} took over what {grant.worker!r} held: {reclaim.describe()}")
            since_ns = reclaim.returned_ns - TTL_NS
            for sign in grant.uses:
                of_client = sign.text("client_id") == grant.made.text("client_id") != ""
                alive = sign.outcome == OK and (sign.op == "renew" or (sign.op == "write" and of_client))
                if alive and sign.called_ns > since_ns and sign.returned_ns < reclaim.called_ns:
                    findings.wrong(f"taken over from a client that was heard: {reclaim.describe()}; {sign.describe()}")
