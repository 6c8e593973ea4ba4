"""Locks once more, written from the specification alone and as simply as it can be said (WS-40 to WS-43, WS-47, D-10).

There is one list of requests, in the order in which they were asked for, and everything is worked out from it each
time. Numbers are those of the proto; an answer is ("ok", state, id, token), ("errno", n), ("fenced",) or
("expiring",); `told` is what watchers hear: (event, id).
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHARED, EXCLUSIVE, PERMIT = 1, 2, 3
QUEUED, HELD, GRACE, FREE = 1, 2, 3, 4
GRANTED, EXPIRING, RENEWED, LOST, WAIT_ENDED, RELEASED, DEADLOCK, JOINED = range(1, 9)
EWOULDBLOCK, EINVAL, EDEADLK = 11, 22, 35

Answer = tuple[object, ...]
Owner = tuple[int, int]  # client, handle


@dataclass
class Asked:
    id: int
    owner: Owner
    worker: str
    target: str
    kind: int
    permits: int
    single: bool  # its owner waits for one thing at a time
    until: int  # 0: no deadline
    state: int = QUEUED
    token: int = 0

    def waits(self, now: int) -> bool:
        return self.state == QUEUED and (self.until == 0 or now < self.until)


@dataclass
class LockModel:
    all: list[Asked] = field(default_factory=list)
    token: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)

    # -- looking -----------------------------------------------------------------------------------

    def of(self, target: str) -> list[Asked]:
        return [asked for asked in self.all if asked.target == target]

    def holders(self, target: str) -> list[Asked]:
        return [asked for asked in self.of(target) if asked.state in {HELD, GRACE}]

    def find(self, lock_id: int) -> Asked | None:
        return next((asked for asked in self.all if asked.id == lock_id), None)

    def compatible(self, kind: int, permits: int, others: list[Asked]) -> bool:
        if kind == PERMIT:
            return len(others) < permits
        if kind == SHARED:
            return all(other.kind == SHARED for other in others)
        return not others

    def passes(self, target: str, token: int) -> bool:
        """D-10: whether a write guarded by this token goes through."""
        return any(holder.token == token for holder in self.holders(target))

    # -- changing ----------------------------------------------------------------------------------

    def end(self, asked: Asked, event: int) -> None:
        self.all.remove(asked)
        self.told.append((event, asked.id))

    def grant(self, asked: Asked) -> None:
        self.token += 1
        asked.state, asked.token = HELD, self.token
        self.told.append((GRANTED, asked.id))

    def serve(self, target: str, now: int) -> None:
        for asked in self.of(target):
            if not asked.waits(now):
                continue
            if not self.compatible(asked.kind, asked.permits, self.holders(target)):
                return
            self.grant(asked)

    def acquire(
        self, now: int, owner: Owner, worker: str, target: str, kind: int, permits: int,
        wait: bool, wait_ms: int, single: bool,
    ) -> Answer:  # fmt: skip
        own = next((asked for asked in self.of(target) if asked.owner == owner), None)
        others = [asked for asked in self.of(target) if asked is not own]
        if any((other.kind == PERMIT) != (kind == PERMIT) or other.permits != permits for other in others):
            return ("errno", EINVAL)
        same = own is not None and own.kind == kind and own.permits == permits
        held = own is not None and own.state != QUEUED
        if own is not None and same and (held or own.waits(now)):
            return ("ok", own.state, own.id, own.token) if held or wait else self.refuse(others)
        holders = [other for other in others if other.state != QUEUED]
        waiting = [other for other in others if other.waits(now)]
        free = self.compatible(kind, permits, holders) and (held or not waiting)
        new = Asked(now, owner, worker, target, kind, permits, single, now + wait_ms * 1_000_000 if wait_ms else 0)
        if not free:
            if not wait:
                return self.refuse(others)
            if single and kind == EXCLUSIVE:
                if any(a.owner == owner and a is not own and self.in_graph(a) and a.waits(now) for a in self.all):
                    return ("errno", EINVAL)
                if self.closes_a_cycle(now, owner, holders):
                    self.told.append((DEADLOCK, now))
                    return ("errno", EDEADLK)
        if own is not None:
            self.end(own, RELEASED if held else WAIT_ENDED)
        self.all.append(new)
        if free:
            self.grant(new)
        else:
            self.told.append((JOINED, new.id))
        self.serve(target, now)
        return ("ok", new.state, new.id, new.token)

    def refuse(self, others: list[Asked]) -> Answer:
        return ("expiring",) if any(other.state == GRACE for other in others) else ("errno", EWOULDBLOCK)

    def in_graph(self, asked: Asked) -> bool:
        return asked.single and asked.kind == EXCLUSIVE

    def closes_a_cycle(self, now: int, owner: Owner, holders: list[Asked]) -> bool:
        """Whether anybody that `owner` would wait for waits for him, however indirectly."""
        edges: dict[Owner, set[Owner]] = {}
        for asked in self.all:
            if self.in_graph(asked) and asked.waits(now):
                ahead = [holder for holder in self.holders(asked.target) if self.in_graph(holder)]
                edges.setdefault(asked.owner, set()).update(holder.owner for holder in ahead)
        reached: set[Owner] = set()
        front = {holder.owner for holder in holders if self.in_graph(holder)}
        while front:
            reached |= front
            front = set().union(*(edges.get(one, set()) for one in front)) - reached
        return owner in reached

    def release(self, now: int, client: int, lock_id: int) -> Answer:
        asked = self.find(lock_id)
        if asked is None or asked.owner[0] != client:
            return ("fenced",)
        token = asked.token
        self.end(asked, WAIT_ENDED if asked.state == QUEUED else RELEASED)
        self.serve(asked.target, now)
        return ("ok", FREE, lock_id, token)

    def reclaim(self, now: int, owner: Owner, worker: str, lock_id: int, token: int) -> Answer:
        old = self.find(lock_id)
        if old is None or old.state == QUEUED or old.token != token or old.worker != worker:
            return ("fenced",)
        if old.owner[0] == owner[0]:
            return ("errno", EINVAL)
        own = next((asked for asked in self.of(old.target) if asked.owner == owner), None)
        if own is not None and own.state != QUEUED:
            return ("errno", EINVAL)
        if own is not None:
            self.end(own, WAIT_ENDED)
        self.end(old, LOST)
        new = Asked(now, owner, worker, old.target, old.kind, old.permits, False, 0)
        self.all.append(new)
        self.grant(new)
        self.serve(old.target, now)
        return ("ok", new.state, new.id, new.token)

    def step(self, now: int, lock_id: int, token: int, from_state: int, to_state: int, until: int) -> bool:
        asked = self.find(lock_id)
        if asked is None or (asked.state, asked.token) != (from_state, token):
            return False
        match from_state, to_state:
            case (2, 3):
                asked.state = GRACE
                self.told.append((EXPIRING, lock_id))
            case (3, 2):
                asked.state = HELD
                self.told.append((RENEWED, lock_id))
            case (3, 4):
                self.end(asked, LOST)
                self.serve(asked.target, now)
            case (1, 4):
                if until and (until != asked.until or now < until):
                    return False
                self.end(asked, WAIT_ENDED)
                self.serve(asked.target, now)
            case _:
                return False
        return True
