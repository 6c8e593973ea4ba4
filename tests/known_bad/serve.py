"""A test build of the command line: `python -m tests.known_bad.serve --bad NAME ARGUMENTS…`.

Breaks one safety rule in this process, then runs the product's command with the arguments that follow. There is no
way from the product to here: nothing under hypercluster/ imports tests/.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from tests.known_bad import (
    ablations,
    apply_raises,
    dedupe_off,
    eager_leases,
    lenient_hello,
    lock_builds,
    no_fsync,
    replicated_wrong,
)

_for_good = contextlib.ExitStack()


def _ablation(name: str) -> Callable[[], None]:
    return lambda: _for_good.enter_context(ablations.ablate(name))


def _locks(name: str) -> Callable[[], None]:
    return lambda: lock_builds.BUILDS[name](setattr)


def _dedupe_off() -> None:
    """In apply, and on the leader's fast path too, which would hide it from most retries."""
    from hypercluster.cli import serve

    dedupe_off.install()
    serve.stored_answer = lambda lane, group: None  # type: ignore[assignment]


BAD: dict[str, Callable[[], None]] = {
    "ack_before_majority": replicated_wrong.install_ack_before_majority,
    "ack_before_sync": _ablation("DUR"),
    "any_quarantine": lenient_hello.any_quarantine,
    "apply_raises": apply_raises.install,
    "dedupe_off": _dedupe_off,
    "durable_at_once": no_fsync.install_durable_at_once,
    "meets_anew": lenient_hello.meets_anew,
    "entries_unsynced": no_fsync.install_entries_unsynced,
    **{f"locks_{name}": _locks(name) for name in lock_builds.BUILDS},
    "no_excl": replicated_wrong.install_no_excl,
    "no_fsync": no_fsync.install,
    "out_of_order": replicated_wrong.install_out_of_order,
    "renew_without_round": lambda: eager_leases.install("renew_without_round"),
    "stale_reads": _ablation("READ"),
    "stock_truncation": _ablation("S1"),
}


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[0] != "--bad" or arguments[1] not in BAD:
        sys.exit(f"usage: python -m tests.known_bad.serve --bad {{{','.join(sorted(BAD))}}} ARGUMENTS…")
    BAD[arguments[1]]()
    print(f"test build: {arguments[1]}", file=sys.stderr, flush=True)
    from hypercluster.cli.main import main as run

    run(arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
