"""Did the clients get anything done? A run in which some operation never succeeded proves nothing (CH-5).

Owns: the verdict `progress`, which is yes or unknown, never no: an invalid run is no proof of a defect.
Invariants: judged are the workloads of the history and those that run.json names; each of their operations succeeded
at least once, and fewer than UNKNOWN_SHARE_MAX of all ended unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.operations import HistoryError, join
from chaos.records import INFO, OK, Verdict
from chaos.seams import Finished
from chaos.workloads import WORKLOADS

UNKNOWN_SHARE_MAX: Final = 0.2


class ProgressChecker:
    name = "progress"
    workloads: frozenset[str] = frozenset()

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            operations = join(run.events)
        except HistoryError as error:
            return cannot_judge(self.name, str(error))
        done = Counter((o.workload, o.op) for o in operations if o.outcome == OK)
        seen = {(o.workload, o.op) for o in operations}
        for workload in {workload for workload, _ in seen} | _asked_for(run):
            known = WORKLOADS.get(workload)
            if known is None:
                findings.unsure(f"there is no workload {workload!r}")
                continue
            seen |= {(workload, op) for op in known.ops}
        for workload, op in sorted(seen):
            findings.count(f"{workload} {op}", done[workload, op])
            if not done[workload, op]:
                findings.unsure(f"{op} of {workload} never succeeded: the run is invalid")
        unknown = sum(o.outcome == INFO for o in operations)
        findings.count("unknown", unknown)
        if operations and unknown >= UNKNOWN_SHARE_MAX * len(operations):
            share = f"{unknown} of {len(operations)} operations ended unknown"
            findings.unsure(f"{share}, limit {UNKNOWN_SHARE_MAX:.0%}: the run is invalid")
        return findings.verdict("every operation of every workload succeeded", len(operations))


def _asked_for(run: Finished) -> set[str]:
    """The workloads that the run was to have, where that is written down."""
    try:
        named = json.loads((run.directory / "run.json").read_text(encoding="utf-8")).get("workloads", [])
    except (OSError, ValueError, AttributeError):
        return set()
    return {name for name in named if isinstance(name, str)}
