"""Who judges a run: each checker takes a history and a final state, and says yes, no or unknown (CH-6).

Owns: the checkers by name. Imports nothing of the product, directly or through others (import contract).
Invariants: a checker has no state between runs; `workloads` are those without which it has nothing to judge, and says
unknown; empty: it judges every run.
"""

from __future__ import annotations

from typing import Protocol

from chaos.checkers.append_order import AppendOrderChecker
from chaos.checkers.exactly_once import ExactlyOnceChecker
from chaos.checkers.index_order import IndexOrderChecker
from chaos.checkers.keyed import COUNTER, REGISTER
from chaos.checkers.levels import LevelsChecker
from chaos.checkers.locks import LocksChecker
from chaos.checkers.paths import PATHS
from chaos.checkers.progress import ProgressChecker
from chaos.checkers.sets import SetChecker
from chaos.checkers.workspace import WorkspaceChecker
from chaos.seams import Checker


class WorkloadChecker(Checker, Protocol):
    workloads: frozenset[str]


CHECKERS: dict[str, WorkloadChecker] = {
    checker.name: checker
    for checker in (
        REGISTER,
        COUNTER,
        PATHS,
        SetChecker(),
        LevelsChecker(),
        IndexOrderChecker(),
        AppendOrderChecker(),
        ExactlyOnceChecker(),
        WorkspaceChecker(),
        LocksChecker(),
        ProgressChecker(),
    )
}
