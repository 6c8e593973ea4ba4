"""What clients do while the cluster is broken, each workload in processes of its own (see DESIGN.md).

Owns: the names of the workloads and of their operations. Imports nothing of the product, so that whoever judges a run
may ask which operations had to succeed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class NamedWorkload:
    """`ops`: each must succeed at least once for a run to be valid (CH-5); `rare`: those that need not."""

    name: str
    ops: frozenset[str]
    rare: frozenset[str] = frozenset()


def _named(name: str, *ops: str, rare: tuple[str, ...] = ()) -> tuple[str, NamedWorkload]:
    return name, NamedWorkload(name, frozenset(ops), frozenset(rare))


WORKLOADS: dict[str, NamedWorkload] = dict(
    (
        _named("register", "write", "read", "cas"),
        _named("set", "add", "read_all"),
        _named("counter", "increment", "read"),
        _named("files", "create", "append", "overwrite", "rename", "unlink", "mkdir", "rmdir", "read_file"),
        _named("reads", "read"),
        _named("locks", "acquire", "renew", "release", "write", "look", rare=("reclaim",)),
    )
)
