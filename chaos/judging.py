"""The verdicts over a directory of a run: what the run itself saw, and what the checkers find in it.

Owns: `judge` (run.json and report.html are written by it), `exit_status`.
Never: talks to a cluster.
Invariants: a checker that raises is *unknown*, with its words; a run without a final state is judged by what there is,
and the checkers that need it say unknown; a checker is left out, and named, only where the run was to have none of the
workloads that it judges.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.checkers import CHECKERS
from chaos.records import Fault, Verdict, encode, read, read_history
from chaos.report import Figures, figures, write_page
from chaos.seams import Checker, Finished

HELD, BROKEN, UNSURE, NOT_RUN = 0, 1, 2, 3
CHECKER_BUDGET_S = 120.0


def judge(
    directory: Path,
    context: Mapping[str, Any],
    seen: Sequence[Verdict],
    *,
    enough: Callable[[Figures, int], Verdict],
    tell: Callable[[str], None],
) -> list[Verdict]:
    """`seen` are the verdicts of the run itself. Writes run.json and report.html."""
    events = read_history(directory / "history")
    faults = list(read(Fault, directory / "faults.jsonl"))
    found = figures(events)
    final_file = directory / "final.json"
    final = json.loads(final_file.read_text(encoding="utf-8")) if final_file.exists() else {}
    run = Finished(events, final, directory, CHECKER_BUDGET_S)
    verdicts = [*seen, enough(found, sum(1 for f in faults if f.phase == "begin"))]
    left_out = without_workload({*context.get("workloads", ()), *(event.workload for event in events)})
    for name, checker in CHECKERS.items():
        if name in left_out:
            tell(f"{name}: left out, {left_out[name]}")
            continue
        verdict = _ask(name, checker, run)
        tell(f"{name}: {verdict.outcome}, {verdict.words}")
        verdicts.append(verdict)
    summary = {
        **context,
        "completed": found.completed,
        "unknown": found.unknown,
        "seconds": found.seconds,
        "ends": {" ".join(key): count for key, count in sorted(found.ends.items())},
        "left_out": left_out,
        "verdicts": [json.loads(encode(verdict)) for verdict in verdicts],
    }
    (directory / "run.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_page(directory, context, found, faults, verdicts)
    return verdicts


def without_workload(workloads: Collection[str]) -> dict[str, str]:
    """Checkers with nothing to judge in a run of these workloads, and why."""
    return {
        name: f"this run has no {' or '.join(sorted(checker.workloads))}"
        for name, checker in CHECKERS.items()
        if checker.workloads and checker.workloads.isdisjoint(workloads)
    }


def _ask(name: str, checker: Checker, run: Finished) -> Verdict:
    try:
        return checker.check(run)
    except Exception as error:
        words = traceback.format_exception(error)[-3:]
        return Verdict(name, "unknown", f"the checker failed: {error!r}", tuple(line.strip() for line in words))


def exit_status(verdicts: Sequence[Verdict]) -> int:
    outcomes = {verdict.outcome for verdict in verdicts}
    if "no" in outcomes:
        return BROKEN
    return HELD if outcomes == {"yes"} else UNSURE


def read_verdicts(directory: Path) -> tuple[dict[str, Any], list[Verdict]]:
    """The context of a finished run, and its verdicts."""
    summary = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    verdicts = [
        Verdict(v["checker"], v["outcome"], v.get("words", ""), tuple(v.get("evidence", ())), v.get("counts", {}))
        for v in summary.pop("verdicts")
    ]
    return summary, verdicts
