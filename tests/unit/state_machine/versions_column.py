"""A store with nothing in it but versions of tree records and their heads, driven as the machine does."""

from __future__ import annotations

from collections.abc import Sequence

from hypercluster.state_machine import versions
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term

Command = Sequence[tuple[bytes, bytes | None]]  # what it does to objects, in order; None deletes


class Column:
    """`entry` stores versions, and heads as a workspace keeps them: place and value."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.overlay = Overlay(self.store)
        self.index = 0
        self.last_changes: list[Change] = []

    def entry(self, *commands: Command, floor: int | None = None, floor_at: int = 0) -> int:
        """Applies one entry; with a floor, command number `floor_at` raises it first. Answers how many keys went."""
        self.index += 1
        removed = 0
        effects = Effects()
        for ordinal, command in enumerate(commands):
            if floor is not None and ordinal == floor_at:
                removed = versions.raise_floor(self.overlay, Index(floor))
            context = OpContext(
                self.overlay, effects, Index(self.index), Term(1), ordinal, Nanos(1), bytes(16), "p", Scope("o", "p"),
                "w", ClientId(bytes(16)), Seq(1), b"", b"",
            )  # fmt: skip
            for key, value in command:
                self._put(context, key, value)
        versions.flush(self.overlay, Index(self.index), list(effects.superseded))
        self._write()
        return removed

    def _put(self, context: OpContext, key: bytes, value: bytes | None) -> None:
        head = self.overlay.get(Family.TREE, key)
        place = versions.put(context, Family.TREE, key, value, None if head is None else head[: versions.PLACE.size])
        if value is None:
            self.overlay.delete(Family.TREE, key)
        else:
            self.overlay.put(Family.TREE, key, place + value)

    def raise_floor(self, floor: int) -> int:
        """Between entries, so that tests count indexes by what they put."""
        removed = versions.raise_floor(self.overlay, Index(floor))
        self._write()
        return removed

    def restart(self) -> None:
        """Only what the store holds is left."""
        self.overlay = Overlay(self.store)

    def at(self, key: bytes, index: int) -> bytes | None:
        found = versions.read_at(self.store, Family.TREE, key, Index(index))
        return None if found is None else found.value

    def _write(self) -> None:
        self.last_changes = self.overlay.take_changes()
        self.store.write(self.last_changes)
