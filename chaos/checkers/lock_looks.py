"""Looks at all locks at one moment, against each other and against what clients were told (WS-40 to WS-42, D-10).

Owns: what may stand in a look, and what follows from a token that is not in one: it is over, and nobody writes or
renews with it afterwards, whether or not somebody else has taken the lock.
A look is a linearizable read: an `ok` operation `look` whose result lists every lock and wait as {key, kind, state,
token, permits}; it shows one moment between its call and its return. What was there, or was granted, before a look was
called and is not in it had ended when it returned.
Never: says more of a grant than it is certain of (lock_grants.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from chaos.checkers.findings import Findings
from chaos.checkers.lock_grants import ENDS, GRACE_NS, TOLERANCE_NS, BadLockError, Grant, compatible, sure
from chaos.checkers.operations import NEVER, Operation
from chaos.records import FAIL, OK

HELD: Final = "held"


class Seen(NamedTuple):
    """One holder in a look."""

    key: str
    kind: str
    state: str
    token: int
    permits: int


@dataclass(slots=True)
class _Life:
    """What looks say of one token."""

    first_ns: int = NEVER  # return of the first that has it
    last_ns: int = 0  # call of the last that has it
    held_ns: int = 0  # call of the last that has it held, and not in its grace
    over_ns: int = NEVER  # return of the first that was called when it was known to be there, and has it not


def read_looks(operations: Sequence[Operation]) -> list[tuple[Operation, dict[int, Seen]]]:
    """By their calls, with their holders by token. Raises BadLockError."""
    looks = []
    for operation in operations:
        if operation.op != "look" or operation.outcome != OK:
            continue
        try:
            rows = [Seen(r["key"], r["kind"], r["state"], r["token"], r["permits"]) for r in operation.result]
        except (TypeError, KeyError) as error:
            raise BadLockError(f"{operation.describe()} does not say what it saw: {error!r}") from None
        looks.append((operation, {row.token: row for row in rows if row.token}))
    return looks


def judge_looks(operations: Sequence[Operation], grants: Sequence[Grant], findings: Findings) -> None:
    looks = read_looks(operations)
    findings.count("looks", len(looks))
    for look, seen in looks:
        _judge_beside(look, seen, findings)
    _judge_present(looks, grants, findings)
    known = {grant.token: grant for grant in grants}
    lives = _lives(looks, known)
    for token, life in lives.items():
        _judge_life(token, life, known.get(token), findings)
    _judge_after(operations, lives, findings)
    _count_refused_to_others(grants, lives, findings)


def _judge_beside(look: Operation, seen: Mapping[int, Seen], findings: Findings) -> None:
    by_key: dict[str, list[Seen]] = defaultdict(list)
    for row in seen.values():
        by_key[row.key].append(row)
    for key, rows in by_key.items():
        first = rows[0]
        apart = any(not compatible(first.kind, first.permits, row.kind, row.permits) for row in rows[1:])
        if apart or (first.permits and len(rows) > first.permits):
            findings.wrong(f"{key}: {len(rows)} holders in one look: {rows}, {look.called_ns} to {look.returned_ns}")


def _judge_present(
    looks: Sequence[tuple[Operation, Mapping[int, Seen]]], grants: Sequence[Grant], findings: Findings
) -> None:
    """What certainly holds is there, and tokens that were given later are larger than all that were seen."""
    calls = [look.called_ns for look, _ in looks]
    for grant, begin, until in sure(grants):
        for look, seen in looks[bisect_left(calls, begin) : bisect_left(calls, until)]:
            if look.returned_ns <= until and grant.token not in seen:
                findings.wrong(f"lost within TTL and grace (certain until {until}): not in {_name(look)}")
    newest, at = 0, 0
    returned = sorted(looks, key=lambda entry: entry[0].returned_ns)
    for grant in sorted(grants, key=lambda grant: grant.made.called_ns):
        while at < len(returned) and returned[at][0].returned_ns < grant.made.called_ns:
            newest = max([newest, *returned[at][1]])
            at += 1
        if grant.token <= newest:
            findings.wrong(f"tokens fall: {grant.describe()}, and {newest} was seen before it was asked for")


def _lives(looks: Sequence[tuple[Operation, Mapping[int, Seen]]], known: Mapping[int, Grant]) -> dict[int, _Life]:
    lives: dict[int, _Life] = defaultdict(_Life)
    for token, grant in known.items():
        lives[token].first_ns = grant.made.returned_ns
    for look, seen in looks:
        for token, row in seen.items():
            life = lives[token]
            life.first_ns = min(life.first_ns, look.returned_ns)
            life.last_ns = max(life.last_ns, look.called_ns)
            if row.state == HELD:
                life.held_ns = max(life.held_ns, look.called_ns)
    calls = [look.called_ns for look, _ in looks]
    for token, life in lives.items():
        for look, seen in looks[bisect_left(calls, life.first_ns) :]:
            if token not in seen:
                life.over_ns = look.returned_ns
                break
    return dict(lives)


def _judge_life(token: int, life: _Life, grant: Grant | None, findings: Findings) -> None:
    if life.last_ns > life.over_ns:
        findings.wrong(f"token {token} was over at {life.over_ns}, and is seen again at {life.last_ns}")
    if grant is not None and life.last_ns > grant.may_until_ns():
        findings.wrong(f"given back, and still seen at {life.last_ns}: {grant.describe()}")
    if life.over_ns == NEVER:
        return
    uses = grant.uses if grant is not None else []
    if any(use.op in ENDS and use.outcome != FAIL and use.called_ns < life.over_ns for use in uses):
        return
    findings.count("expiries")
    if life.held_ns and life.over_ns - life.held_ns < GRACE_NS - TOLERANCE_NS:
        findings.wrong(f"token {token} was held at {life.held_ns} and gone at {life.over_ns}: it had no grace")


def _judge_after(operations: Sequence[Operation], lives: Mapping[int, _Life], findings: Findings) -> None:
    """Nothing is done with a token that is over, whoever holds the lock now."""
    for use in operations:
        if use.op in ("write", "renew", "reclaim") and use.outcome == OK:
            life = lives.get(use.asked["token"])
            if life is not None and use.called_ns > life.over_ns:
                findings.wrong(f"done with a token that was over at {life.over_ns}: {use.describe()}")


def _count_refused_to_others(grants: Sequence[Grant], lives: Mapping[int, _Life], findings: Findings) -> None:
    """Another worker's reclaims that were refused although the lock was still there afterwards."""
    for grant in grants:
        last_ns = max([lives[grant.token].last_ns, *(u.called_ns for u in grant.uses if u.outcome == OK)])
        for use in grant.uses:
            if use.op == "reclaim" and use.outcome == FAIL and use.error == "FENCED":
                foreign = use.text("worker") != grant.worker
                findings.count("reclaims refused to another worker", int(foreign and use.returned_ns < last_ns))


def _name(look: Operation) -> str:
    return f"the look of {look.process} from {look.called_ns} to {look.returned_ns}"
