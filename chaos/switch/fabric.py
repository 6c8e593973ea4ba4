"""What becomes of a frame: at once, later, or never. No clock and no I/O of its own.

Owns: which port a hardware address is at, the links, the frames that wait.
Never: looks into a frame further than its two addresses.
Invariants: frames of one direction never overtake each other; what is cut loses also the frames that already wait;
when a link changes, its waiting frames go at once, in order, so that a healed link is healed at that moment. Waiting
frames are bounded in bytes, and in time where a rate holds them up: beyond that they are dropped, as in any switch.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.seams import Link, Pair

ADDRESS_BYTES = 6
ADDRESSES_MAX = 1_024
QUEUED_BYTES_MAX = 64 << 20
RATE_WAIT_S_MAX = 0.5  # a frame that would wait longer for its turn is dropped
GOOD = Link()


@dataclass(order=True, slots=True)
class Waiting:
    due_s: float
    number: int
    pair: tuple[int, int] = field(compare=False)
    frame: bytes = field(compare=False)


@dataclass(slots=True)
class Direction:
    """From one port to another. `free_s`: when its rate lets the next frame begin; `last_s`: when the last one that
    waits is due."""

    link: Link = GOOD
    cut: bool = False
    free_s: float = 0.0
    last_s: float = 0.0
    waiting: int = 0


class Fabric:
    def __init__(self, ports: Sequence[str], rng: random.Random, *, header_bytes: int = 0) -> None:
        """`header_bytes` stand before each frame and are left alone."""
        self._ports = {name: number for number, name in enumerate(ports)}
        self._rng = rng
        self._header_bytes = header_bytes
        self._directions = {(a, b): Direction() for a in range(len(ports)) for b in range(len(ports)) if a != b}
        self._at: dict[bytes, int] = {}
        self._waiting: list[Waiting] = []
        self._queued_bytes = 0
        self._number = 0
        self.counts = {"frames": 0, "dropped": 0, "late": 0}

    def set_links(self, cut: Iterable[Pair], shape: Mapping[Pair, Link], now_s: float) -> None:
        """Exactly these from now on. Raises ValueError naming the field; then nothing has changed."""
        cuts = {self._pair(pair) for pair in cut}
        links = {self._pair(pair): _checked(pair, link) for pair, link in shape.items()}
        changed: set[tuple[int, int]] = set()
        for pair, direction in self._directions.items():
            link, is_cut = links.get(pair, GOOD), pair in cuts
            if (link, is_cut) != (direction.link, direction.cut):
                direction.link, direction.cut = link, is_cut
                direction.free_s = direction.last_s = now_s
                changed.add(pair)
        for one in self._waiting:
            if one.pair in changed:
                one.due_s = now_s
        heapq.heapify(self._waiting)

    def _pair(self, pair: Pair) -> tuple[int, int]:
        for name in pair:
            if name not in self._ports:
                raise ValueError(f"pair {pair}: no port is named {name!r}")
        if pair[0] == pair[1]:
            raise ValueError(f"pair {pair}: there is no link from a port to itself")
        return self._ports[pair[0]], self._ports[pair[1]]

    def offer(self, source: int, frame: bytes, now_s: float) -> list[tuple[int, bytes]]:
        """A frame came in at `source`. What is to go out at once, as (port, frame)."""
        head = self._header_bytes
        if len(frame) < head + 2 * ADDRESS_BYTES:
            self.counts["dropped"] += 1
            return []
        self.counts["frames"] += 1
        target_address = frame[head : head + ADDRESS_BYTES]
        source_address = frame[head + ADDRESS_BYTES : head + 2 * ADDRESS_BYTES]
        if source_address in self._at or len(self._at) < ADDRESSES_MAX:
            self._at[source_address] = source
        is_group = bool(target_address[0] & 1)
        known = None if is_group else self._at.get(target_address)
        targets = range(len(self._ports)) if known is None else (known,)
        return [(target, frame) for target in targets if target != source and self._now((source, target), frame, now_s)]

    def _now(self, pair: tuple[int, int], frame: bytes, now_s: float) -> bool:
        """Whether it goes at once; else it waits or is gone."""
        direction = self._directions[pair]
        link = direction.link
        if direction.cut or (link.loss and self._rng.random() < link.loss):
            self.counts["dropped"] += 1
            return False
        begin_s = now_s
        if link.rate_mbit:
            begin_s = max(now_s, direction.free_s)
            if begin_s - now_s > RATE_WAIT_S_MAX:
                self.counts["dropped"] += 1
                return False
            begin_s += len(frame) * 8 / (link.rate_mbit * 1e6)
            direction.free_s = begin_s
        delay_ms = link.delay_ms
        if link.jitter_ms:
            delay_ms = max(0.0, delay_ms + self._rng.uniform(-link.jitter_ms, link.jitter_ms))
        due_s = max(begin_s + delay_ms / 1e3, direction.last_s)
        if due_s <= now_s and not direction.waiting:  # one that waits and is due by now must go first
            return True
        self._wait(pair, frame, due_s)
        return False

    def _wait(self, pair: tuple[int, int], frame: bytes, due_s: float) -> None:
        if self._queued_bytes + len(frame) > QUEUED_BYTES_MAX:
            self.counts["dropped"] += 1
            return
        direction = self._directions[pair]
        direction.last_s = due_s
        direction.waiting += 1
        self._number += 1
        self._queued_bytes += len(frame)
        self.counts["late"] += 1
        heapq.heappush(self._waiting, Waiting(due_s, self._number, pair, frame))

    def due(self, now_s: float) -> list[tuple[int, bytes]]:
        """What waited and is to go out now."""
        out: list[tuple[int, bytes]] = []
        while self._waiting and self._waiting[0].due_s <= now_s:
            one = heapq.heappop(self._waiting)
            self._queued_bytes -= len(one.frame)
            direction = self._directions[one.pair]
            direction.waiting -= 1
            if direction.cut:
                self.counts["dropped"] += 1
            else:
                out.append((one.pair[1], one.frame))
        return out

    def next_due_s(self) -> float | None:
        return self._waiting[0].due_s if self._waiting else None

    @property
    def waiting(self) -> int:
        return len(self._waiting)


def _checked(pair: Pair, link: Link) -> Link:
    for name, value, most in (
        ("delay_ms", link.delay_ms, 60_000.0),
        ("jitter_ms", link.jitter_ms, 60_000.0),
        ("loss", link.loss, 1.0),
        ("rate_mbit", link.rate_mbit, 100_000.0),
    ):
        if not 0.0 <= value <= most:
            raise ValueError(f"link {pair}: {name} is {value}, must be 0 to {most:g}")
    return link
