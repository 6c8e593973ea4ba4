"""`python -m chaos`: list, run, suite, check, export, shrink (see DESIGN.md).

Owns: the command line, where runs lie, and the order of run and judgement.
Exit status: 0 everything held, 1 something did not, 2 unknown or an invalid run, 3 not run on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.checkers import CHECKERS
from chaos.cluster import host_features, open_cluster, probe, why_not
from chaos.cluster.host import hosts_for
from chaos.export import FORMATS, export
from chaos.judging import BROKEN, HELD, NOT_RUN, UNSURE, exit_status, judge, read_verdicts
from chaos.nemeses import NEMESES, make_nemeses
from chaos.records import Verdict
from chaos.report import Figures
from chaos.runner import run, validity
from chaos.scenarios import SCENARIOS, Scenario
from chaos.schedule import Schedule, draw, read_schedule, wanted
from chaos.shrink import shrink
from chaos.workloads import WORKLOADS

BAD_MODULE = "tests.known_bad.serve"
SUITE_OPS_MIN, SUITE_FAULTS_MIN, SUITE_UNKNOWN_MAX = 50_000, 40, 0.2


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break a cluster, and see whether it holds.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="scenarios, nemeses, workloads, checkers, and what this machine lacks")
    running = commands.add_parser("run", help="one scenario")
    running.add_argument("scenario", choices=sorted(SCENARIOS))
    running.add_argument("--nodes", type=int, choices=(3, 5))
    running.add_argument("--seed", type=int, default=None)
    running.add_argument("--duration", type=float, help="seconds of faults")
    running.add_argument("--cluster", choices=("local", "namespaces", "switch"))
    running.add_argument("--only", help="these nemeses alone, comma-separated")
    running.add_argument("--bad", default="", help="a known-bad build of tests/known_bad, which must be caught")
    running.add_argument("--schedule", type=Path, help="schedule.json of another run, in place of a drawn one")
    running.add_argument("--directory", type=Path, default=Path("chaos-runs"), help="where runs are kept")
    suite = commands.add_parser("suite", help="the swarm over 3 and then 5 nodes, with bars on what they did together")
    suite.add_argument("--seed", type=int, default=None)
    suite.add_argument("--duration", type=float, default=270.0, help="seconds of faults, for each")
    suite.add_argument("--directory", type=Path, default=Path("chaos-runs"), help="where runs are kept")
    checking = commands.add_parser("check", help="judge a run again")
    checking.add_argument("run", type=Path)
    exporting = commands.add_parser("export", help="a history for other checkers")
    exporting.add_argument("run", type=Path)
    exporting.add_argument("--to", choices=sorted(FORMATS), required=True)
    exporting.add_argument("--output", type=Path)
    shrinking = commands.add_parser("shrink", help="fewer faults that still make it fail")
    shrinking.add_argument("run", type=Path)
    shrinking.add_argument("--runs", type=int, default=20, help="runs at most")
    chosen = parser.parse_args(arguments)
    # Either signal unwinds the run: nodes, namespaces and mounts go with it.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _carry_out(chosen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _carry_out(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "list":
            return _list()
        case "run":
            return asyncio.run(_run(chosen))
        case "suite":
            return asyncio.run(_suite(chosen))
        case "check":
            return _check(chosen.run)
        case "export":
            text = export(chosen.run, chosen.to)
            if chosen.output:
                chosen.output.write_text(text, encoding="utf-8")
            else:
                sys.stdout.write(text)
            return HELD
        case _:
            return asyncio.run(_shrink(chosen.run, chosen.runs))


def _list() -> int:
    lacking = {name: words for name, words in probe().items() if words}
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:12} {scenario.words} ({scenario.cluster}, {scenario.nodes} nodes)")
    for title, names in (("nemeses", NEMESES), ("workloads", WORKLOADS), ("checkers", CHECKERS)):
        print(f"\n{title}: {', '.join(sorted(names))}")
    for name, words in sorted(lacking.items()):
        print(f"\nlacking here: {name}: {words}")
    return HELD


def _scenario(chosen: argparse.Namespace) -> Scenario:
    scenario = SCENARIOS[chosen.scenario]
    if chosen.nodes:
        scenario = replace(scenario, nodes=chosen.nodes)
    if chosen.cluster:
        scenario = replace(scenario, cluster=chosen.cluster)
    if chosen.duration:
        share = chosen.duration / scenario.duration_s
        scenario = replace(
            scenario,
            duration_s=chosen.duration,
            ops_min=int(scenario.ops_min * share),
            faults_min=max(1, int(scenario.faults_min * share)),
        )
    if chosen.only:
        scenario = replace(scenario, nemeses=tuple(chosen.only.split(",")), share=1.0)
        unknown = [name for name in scenario.nemeses if name not in NEMESES]
        if unknown:
            sys.exit(f"--only: there is no nemesis {', '.join(unknown)}; see: python -m chaos list")
    return scenario


async def _run(chosen: argparse.Namespace) -> int:
    scenario = _scenario(chosen)
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4), "big")
    schedule = read_schedule(chosen.schedule) if chosen.schedule else None
    name = f"{scenario.name}-{scenario.nodes}-{seed}" + (f"-{chosen.bad}" if chosen.bad else "")
    return await _once(scenario, seed, chosen.bad, schedule, _fresh(chosen.directory / name))


async def _suite(chosen: argparse.Namespace) -> int:
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4), "big")
    worst, completed, unknown, faults = HELD, 0, 0, 0
    for nodes in (3, 5):
        scenario = replace(SCENARIOS["swarm"], nodes=nodes, duration_s=chosen.duration)
        directory = _fresh(chosen.directory / f"swarm-{nodes}-{seed}")
        status = await _once(scenario, seed, "", None, directory)
        if status == NOT_RUN:
            return NOT_RUN
        worst = status if worst == HELD or status == BROKEN else worst
        context, verdicts = read_verdicts(directory)
        completed, unknown = completed + context["completed"], unknown + context["unknown"]
        faults += sum(v.counts["faults"] for v in verdicts if v.checker == "enough")
    share = unknown / max(1, completed + unknown)
    say(f"together: {completed} operations completed, {faults} faults, {share:.1%} of unknown outcome")
    if worst == HELD and (completed < SUITE_OPS_MIN or faults < SUITE_FAULTS_MIN or share > SUITE_UNKNOWN_MAX):
        say(f"UNKNOWN: at least {SUITE_OPS_MIN} and {SUITE_FAULTS_MIN}, and at most {SUITE_UNKNOWN_MAX:.0%} unknown")
        return UNSURE
    return worst


def _fresh(wanted: Path) -> Path:
    number = 1
    path = wanted
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}.{number}")
    path.mkdir(parents=True)
    return path.resolve()


async def _once(scenario: Scenario, seed: int, bad: str, schedule: Schedule | None, directory: Path) -> int:
    replay = f"python -m chaos run {scenario.name} --nodes {scenario.nodes} --seed {seed}"
    say(f"seed {seed}; again: {replay} --duration {scenario.duration_s:g}" + (f" --bad {bad}" if bad else ""))
    module, arguments = (BAD_MODULE, ("--bad", bad)) if bad else ("hypercluster.cli.main", ())
    context: dict[str, Any] = {
        "scenario": scenario.name,
        "nodes": scenario.nodes,
        "cluster": scenario.cluster,
        "workloads": list(scenario.workloads),
        "seed": seed,
        "duration_s": scenario.duration_s,
        "bad": bad,
        "ops_min": scenario.ops_min,
        "faults_min": scenario.faults_min,
    }
    if lacking := why_not(scenario.cluster):
        say(f"not run: a cluster of kind {scenario.cluster} needs {lacking}")
        return NOT_RUN
    nemeses = make_nemeses()
    needed = {need for nemesis in wanted(scenario, nemeses) for need in nemesis.needs}
    able = {feature for feature, lacking in host_features().items() if not lacking and feature in needed}
    hosts = hosts_for(directory / "hosts", [f"n{number + 1}" for number in range(scenario.nodes)], able, seed)
    cluster = open_cluster(scenario.cluster, directory, scenario.nodes, hosts, module, arguments)
    if schedule is None:
        schedule = draw(scenario, nemeses, cluster.features, seed, scenario.duration_s)
    for name, words in schedule.not_run.items():
        say(f"not run: {name} {words}")
    if not schedule.faults:
        say("no fault of this scenario can be made on this machine: not run")
        return NOT_RUN
    state = await run(scenario, cluster, nemeses, schedule, seed=seed, duration_s=scenario.duration_s, tell=say)
    context["not_run"] = dict(schedule.not_run)
    verdicts = judge(directory, context, state.verdicts, enough=_enough(scenario), tell=say)
    return _tell(directory, verdicts)


def _enough(scenario: Scenario) -> Any:
    def enough(found: Figures, faults: int) -> Verdict:
        return validity(scenario, found.completed, faults)

    return enough


def _tell(directory: Path, verdicts: Sequence[Verdict]) -> int:
    for verdict in verdicts:
        if verdict.outcome != "yes":
            say(f"{verdict.outcome.upper()} {verdict.checker}: {verdict.words}")
            for line in verdict.evidence[:5]:
                say(f"    {line}")
    status = exit_status(verdicts)
    say(f"{'held' if status == HELD else 'DID NOT HOLD' if status != UNSURE else 'UNKNOWN'}: {directory}/report.html")
    return status


def _check(directory: Path) -> int:
    context, verdicts = read_verdicts(directory)
    seen = [v for v in verdicts if v.checker not in CHECKERS and v.checker != "enough"]
    for gone in ("completed", "unknown", "seconds", "ends", "left_out"):
        context.pop(gone, None)
    scenario = replace(SCENARIOS[context["scenario"]], ops_min=context["ops_min"], faults_min=context["faults_min"])
    return _tell(directory, judge(directory, context, seen, enough=_enough(scenario), tell=say))


async def _shrink(directory: Path, runs_max: int) -> int:
    context, _ = read_verdicts(directory)
    scenario = replace(
        SCENARIOS[context["scenario"]],
        nodes=context["nodes"],
        cluster=context["cluster"],
        duration_s=context["duration_s"],
        ops_min=0,
        faults_min=0,
    )
    number = 0

    async def fails(schedule: Schedule) -> bool:
        nonlocal number
        number += 1
        where = _fresh(directory / "shrink" / str(number))
        return await _once(scenario, context["seed"], context["bad"], schedule, where) == 1

    smallest = await shrink(read_schedule(directory / "schedule.json"), fails, runs_max, say)
    smallest.write(directory / "smallest.json")
    say(f"{len(smallest.faults)} faults are left: {directory}/smallest.json (run it with --schedule)")
    return HELD


if __name__ == "__main__":
    sys.exit(main())
