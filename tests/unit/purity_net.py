"""Runs the machine with everything impure taken away, and prints the digest it ends with (D-4).

`python -m tests.unit.purity_net [--impure KIND]`, in a process of its own. Modules are imported and entries made first;
then clocks and randomness raise, an audit hook raises at the first file, socket, process, thread or import, and the
entries are decoded and applied. `--impure KIND` plants that fault, to show that the net holds.
"""

from __future__ import annotations

import argparse
import builtins
import logging
import os
import random
import secrets
import sys
import threading
import time
import uuid

from hypercluster.log.entry import decode_entry
from hypercluster.state_machine.hub import Hub, HubOp, ScopeState
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import Index, Term
from tests.golden.log.claim_workload import claim_entries
from tests.golden.log.lock_workload import lock_entries
from tests.golden.log.workload import core_entries, file_entries

SEED = 7
FORBIDDEN_EVENTS = ("open", "import", "os.", "socket.", "subprocess.", "shutil.", "tempfile.", "ctypes.", "_thread.")


class ImpureError(BaseException):
    """Not an Exception: apply must not be able to wrap it as a failure of its own."""


def refuse(name: str) -> object:
    def raises(*_args: object, **_named: object) -> object:
        raise ImpureError(name)

    return raises


def arm() -> None:
    for module, names in (
        (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")),
        (random, ("random", "randrange", "getrandbits", "randbytes", "choice", "seed", "Random")),
        (secrets, ("token_bytes", "token_hex", "randbelow")),
        (uuid, ("uuid1", "uuid4")),
        (os, ("urandom", "getpid", "getenv", "open", "read", "write", "stat")),
        (threading.Thread, ("start",)),
        (logging.Logger, ("_log",)),
        (builtins, ("print", "input", "open")),
    ):
        for name in names:
            setattr(module, name, refuse(f"{module.__name__}.{name}"))

    def audit(event: str, _args: object) -> None:
        if event.startswith(FORBIDDEN_EVENTS):
            raise ImpureError(event)

    sys.addaudithook(audit)


def impure(kind: str) -> int:
    """A small number that depends on what a pure function may not ask."""
    match kind:
        case "clock":
            return time.time_ns() & 1
        case "randomness":
            return random.getrandbits(1)
        case "urandom":
            return os.urandom(1)[0] & 1
        case "file":
            return len(os.listdir("/")) & 1
        case "socket":
            import socket

            return socket.socket().fileno() & 1
        case "hash":
            return hash("apply") & 1
        case "set":
            return list({"a", "b", "c", "d", "e", "f"}).index("a") & 1
        case _:
            return 0


def plant(kind: str) -> None:
    judge = Hub.judge

    def judges(self: Hub, state: ScopeState, op: HubOp, index: int, ordinal: int) -> tuple[int, int]:
        op = op._replace(payload=op.payload + b" " * impure(kind))
        return judge(self, state, op, index, ordinal)

    Hub.judge = judges  # type: ignore[method-assign]


def apply_all(payloads: list[bytes]) -> str:
    store = MemoryStore()
    machine = Machine(store)
    for index, payload in enumerate(payloads, 1):
        applied = machine.apply(Index(index), Term(1), decode_entry(payload))
        store.write(applied.changes)
    return machine.applied.digest.hex()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impure", default="")
    kind = parser.parse_args().impure
    workloads = [
        list(core_entries(SEED, 60)),
        list(file_entries(SEED, 60)),
        list(lock_entries(SEED, 120)),
        list(claim_entries(SEED, 120)),
    ]
    for payloads in workloads:  # modules that load late do so now
        apply_all(payloads[:30])
    if kind:
        plant(kind)
    write = sys.stdout.write
    arm()
    digests = [apply_all(payloads) for payloads in workloads]
    write(" ".join(digests) + "\n")


if __name__ == "__main__":
    main()
