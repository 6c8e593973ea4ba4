"""Locks: one holder, tokens that only rise, a grace that is kept, and writes that an old token can not make (WS-40 to
WS-43, D-6, D-10).

Owns: the verdict `locks`, over a history in which clients acquire, renew, release, reclaim, and write under a token,
and look at all locks.
What an operation says: `acquire` asks {kind, wait} and is answered {token, lock_id}; `renew`, `release`, `reclaim` and
`write` ask {token, lock_id}; a reclaim is answered {token}. `extra` may name worker, log_index (of a write), queued_ns
(when the cluster said that it waits), immediate (granted without waiting), converted (by the handle that held
it as another kind) and permits (of a semaphore).
What is certain of a grant and what may be: lock_grants.py. What follows from looks: lock_looks.py.
Invariants: a history of LONG_NS or more in which hardly anything of what is judged came about is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.lock_grants import (
    EXCLUSIVE,
    GRACE_NS,
    TTL_NS,
    BadLockError,
    Grant,
    asked,
    compatible,
    read_grants,
    sure,
)
from chaos.checkers.lock_looks import judge_looks
from chaos.checkers.operations import HistoryError, Operation, by_key, join
from chaos.records import FAIL, OK, Verdict
from chaos.seams import Finished

LOST: Final = frozenset({"FENCED", "LOCK_LOST"})
# What a history of this length must have met, each so often: else nobody can say that it was kept. Shorter ones may be
# without it: what is rare happens at random.
LONG_NS: Final = 150_000_000_000
LEAST: Final[Mapping[str, int]] = {
    "looks": 10,
    "expiries": 3,
    "reclaims": 1,
    "reclaims refused to another worker": 1,
    "late writes fenced": 1,
}


class LocksChecker:
    name = "locks"
    workloads = frozenset({"locks"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            operations = [o for o in join(run.events) if o.workload in self.workloads]
            grants = read_grants(operations, findings)
            judge_looks(operations, grants, findings)
        except (HistoryError, BadLockError) as error:
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
        _count(operations, grants, findings)
        if operations and operations[-1].called_ns - operations[0].called_ns >= LONG_NS:
            for what, least in LEAST.items():
                if findings.counted(what) < least:
                    findings.unsure(f"{what}: {findings.counted(what)}, at least {least}: the run proves too little")
        return findings.verdict("every lock had one holder, and only its token wrote", len(operations))


def _count(operations: Sequence[Operation], grants: Sequence[Grant], findings: Findings) -> None:
    findings.count("grants", len(grants))
    findings.count("guarded writes", sum(o.op == "write" and o.outcome == OK for o in operations))
    findings.count("fenced writes", sum(o.op == "write" and o.error == "FENCED" for o in operations))
    findings.count("reclaims", sum(o.op == "reclaim" and o.outcome == OK for o in operations))
    findings.count("writes within the grace", 0)
    for grant in grants:
        for use in grant.uses:
            silent_ns = use.called_ns - grant.silent_since_ns(use.called_ns)
            if use.op == "write" and use.error == "FENCED" and silent_ns > TTL_NS + GRACE_NS:
                findings.count("late writes fenced")
            if use.op == "write" and use.outcome == OK and TTL_NS < silent_ns < TTL_NS + GRACE_NS:
                findings.count("writes within the grace")


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
    return compatible(one.kind, one.permits, other.kind, other.permits)


def _may_be_beside(later: Grant, earlier: Grant | None) -> bool:
    """Nobody was told of the grant of an `earlier` that is None; what it was is not known."""
    return later.kind != EXCLUSIVE if earlier is None else _compatible(later, earlier)


def _judge_exclusion(key: str, grants: Sequence[Grant], findings: Findings) -> None:
    open_now: list[tuple[Grant, int, int]] = []
    for entry in sorted(sure(grants), key=lambda entry: entry[1]):
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
    for grant, begin, until in sure(grants):
        for use in grant.uses:
            if use.op == "reclaim" and use.text("worker") != grant.worker:
                continue  # it is refused to whoever it does not belong to
            if use.outcome == FAIL and use.error in LOST and begin <= use.called_ns and use.returned_ns <= until:
                findings.wrong(f"lost within TTL and grace (certain until {until}): {use.describe()}")


def _judge_writes(key: str, grants: Sequence[Grant], operations: Sequence[Operation], findings: Findings) -> None:
    by_token = {grant.token: grant for grant in grants}
    for one in grants:
        for use in one.uses:
            if use.op == "renew" and use.outcome == OK and use.called_ns > one.may_until_ns():
                findings.wrong(f"{key}: renewed after the lock was given back: {use.describe()}")
    writes = [o for o in operations if o.op == "write" and o.outcome == OK]
    for write in writes:
        token = asked(write, "token")
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
        token = asked(write, "token")
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
        unheard = any(
            o is not refused and o.outcome not in (OK, FAIL) and o.called_ns < refused.returned_ns for o in asking
        )
        waits = any(
            o is not refused and o.called_ns < refused.returned_ns and o.returned_ns > refused.called_ns for o in asking
        )
        if not (held or unheard or waits):
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
