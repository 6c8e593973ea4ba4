"""What must hold of every history, whatever the workload and the faults."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.records import INFO, INVOKE, Event
from chaos.workloads import WORKLOADS


def check_history(events: Sequence[Event]) -> None:
    """As one process of the harness wrote it: every operation has one end, and nobody goes on after an unknown one."""
    open_: dict[str, Event] = {}
    gone: set[str] = set()
    last_ns = 0
    for event in events:
        assert event.at_ns >= last_ns
        last_ns = event.at_ns
        assert event.op in WORKLOADS[event.workload].ops | WORKLOADS[event.workload].rare
        if event.kind == INVOKE:
            assert event.process not in gone, f"{event.process} goes on after an unknown outcome"
            assert event.process not in open_, f"{event.process} has two operations open"
            open_[event.process] = event
            continue
        begun = open_.pop(event.process)
        assert (event.op, event.key, event.level, event.workload) == (begun.op, begun.key, begun.level, begun.workload)
        assert bool(event.error) == (event.kind in ("fail", INFO)), event
        if event.kind == INFO:
            gone.add(event.process)
    assert not open_
