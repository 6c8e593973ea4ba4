"""git's own tests with their working directories on a mount (WS-64).

    python -m tests.mount.torture.upstream --source ~/git-2.39.5 --seconds 3600 --json outcome.json

`--source` is an unpacked source tree of git in which `make` was run; its git is the one that is tested. The scripts are
begun in the order of `PATTERNS` or of `--scripts`, `--jobs` of them at once, until the time is over; each that fails on
the mount is run again on a local directory of the same host, and what fails there, too, is not the mount's. Nothing is
killed. Holds when no case failed on the mount alone, but for those of `REFUSED`, which need what the specification
excludes.
"""

from __future__ import annotations

import collections
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.mount.torture.fleet import Arguments, Fleet, Killer, arguments, run

PATTERNS = "t0000-* t0001-* t0010-* t1*-* t3*-*"
SCRIPT_S = 3_600.0  # one that takes longer hangs
REPORT_EVERY_S = 30.0
KILLED_S = 10.0
LINE = re.compile(r"^(ok|not ok) (\d+)(?: - (.*?))?(?: # (skip|TODO|SKIP)\b.*)?$")
PLAN = re.compile(r"^1\.\.(\d+)")
SOCKETS = "WS-23: no mknod, and so no Unix socket in the tree"
# Script and numbers of cases: the line of the specification that refuses what they need.
REFUSED: dict[str, dict[int, str]] = {
    "t0052-simple-ipc": dict.fromkeys(range(1, 10), SOCKETS),
    "t0301-credential-cache": dict.fromkeys((2, 3, 7, 9, 11, 12, 13, 15, 16, 20, 22, 24, 25, *range(26, 32)), SOCKETS),
}


@dataclass(slots=True)
class Outcome:
    """Of one script. `failed`: the numbers and titles of its cases. `end`: whole, cut off, or why it stopped."""

    script: str
    seconds: float = 0.0
    passed: int = 0
    skipped: int = 0
    known_broken: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    failed_locally: list[int] = field(default_factory=list)
    end: str = "whole"

    def read(self, tap: str) -> None:
        planned = -1
        for line in tap.splitlines():
            plan = PLAN.match(line)
            if plan is not None:
                planned = int(plan[1])
            case = LINE.match(line)
            if case is None:
                continue
            verdict, number, title, directive = case.groups()
            if directive == "TODO":
                self.known_broken += 1
            elif verdict == "not ok":
                self.failed[int(number)] = title or ""
            elif directive is not None:
                self.skipped += 1
            else:
                self.passed += 1
        if planned < 0 and self.end == "whole":
            self.end = "stopped before its plan"

    @property
    def unexplained(self) -> dict[int, str]:
        """What failed on the mount alone and is not refused by the specification."""
        refused = REFUSED.get(self.script, {})
        return {n: t for n, t in self.failed.items() if n not in self.failed_locally and n not in refused}


@dataclass(frozen=True, slots=True)
class Suite:
    """`source`: the tree of git. `results`: a local directory for logs and output."""

    source: Path
    results: Path

    def scripts(self, patterns: str) -> list[str]:
        found: dict[str, None] = {}
        for pattern in patterns.split():
            for path in sorted((self.source / "t").glob(f"{pattern.removesuffix('.sh')}.sh")):
                found.setdefault(path.stem)
        return list(found)

    def run(self, script: str, place: Path, end_s: float, tell: Callable[[Outcome], None]) -> Outcome:
        """Below `place`, cut off at `end_s`. `tell` hears of it every now and then."""
        outcome = Outcome(script)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON"))}
        output = self.results / f"{script}.tap"
        begun_s = time.monotonic()
        stop_s = min(end_s, begun_s + SCRIPT_S)
        with output.open("wb") as tap:
            process = subprocess.Popen(
                ["sh", f"./{script}.sh", f"--root={place}", "--no-bin-wrappers", "--verbose-log"],
                cwd=self.source / "t",
                env={**environment, "TEST_OUTPUT_DIRECTORY": str(self.results)},
                stdin=subprocess.DEVNULL,
                stdout=tap,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None and time.monotonic() < stop_s:
                    try:
                        process.wait(min(REPORT_EVERY_S, max(0.0, stop_s - time.monotonic())))
                    except subprocess.TimeoutExpired:
                        so_far = Outcome(script)
                        so_far.read(output.read_text(errors="replace"))
                        tell(so_far)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(KILLED_S)
                    over = time.monotonic() >= end_s
                    outcome.end = "cut off: the time was over" if over else f"hung for {SCRIPT_S:.0f} s"
        outcome.seconds = time.monotonic() - begun_s
        outcome.read(output.read_text(errors="replace"))
        return outcome


def words(outcome: Outcome) -> str:
    failed = f"  FAILED {sorted(outcome.failed)}" if outcome.failed else ""
    return (
        f"{outcome.script:42} {outcome.seconds:6.0f} s {outcome.passed:5} passed {outcome.skipped:4} skipped "
        f"{outcome.known_broken:3} broken upstream {'' if outcome.end == 'whole' else outcome.end}{failed}"
    )


def sum_up(outcomes: list[Outcome], planned: int) -> list[str]:
    """Prints the closing lines; answers what is wrong."""
    problems: list[str] = []
    whole = [o for o in outcomes if o.end == "whole"]
    clean = [o for o in whole if not o.failed]
    for outcome in outcomes:
        for number, title in outcome.failed.items():
            why = REFUSED.get(outcome.script, {}).get(number, "not explained")
            why = "fails on a local directory, too" if number in outcome.failed_locally else why
            print(f"  {outcome.script} {number}: {title}: {why}")
        problems += [f"{outcome.script} {n}: {title}" for n, title in outcome.unexplained.items()]
        if outcome.end != "whole" and not outcome.end.startswith("cut off"):
            problems.append(f"{outcome.script}: {outcome.end}")
    passed, failed = sum(o.passed for o in outcomes), sum(len(o.failed) for o in outcomes)
    skipped, broken = sum(o.skipped for o in outcomes), sum(o.known_broken for o in outcomes)
    print(
        f"{len(outcomes)} of {planned} scripts begun, {len(whole)} ran to their end, {len(clean)} of these without a "
        f"failure; {passed} cases passed, {failed} failed, {skipped} skipped, {broken} known to be broken in git",
        flush=True,
    )
    return problems + ([] if any(o.passed for o in outcomes) else ["nothing passed"])


class Progress:
    """What has been done, and a line about it every REPORT_EVERY_S, whichever script is the first to tell."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._begun_s = self._told_s = time.monotonic()
        self._now: dict[str, Outcome] = {}
        self._lock = threading.Lock()

    def tell(self, so_far: Outcome) -> None:
        with self._lock:
            self._now[so_far.script] = so_far
            at_s = time.monotonic()
            if at_s - self._told_s < REPORT_EVERY_S / 2:
                return
            self._told_s = at_s
            known = [*self.outcomes, *self._now.values()]
            print(
                f"{at_s - self._begun_s:6.0f} s  {len(self.outcomes)} scripts, {sum(o.passed for o in known)} passed, "
                f"{sum(len(o.failed) for o in known)} failed; {' '.join(self._now)}",
                flush=True,
            )

    def ended(self, outcome: Outcome) -> None:
        with self._lock:
            self._now.pop(outcome.script, None)
            self.outcomes.append(outcome)
            print(words(outcome), flush=True)


def examine(given: Arguments, suite: Suite, place: Path, killer: Killer) -> list[str]:
    end_s = time.monotonic() + given.seconds
    scripts = suite.scripts(given.options["scripts"] or PATTERNS)
    waiting = collections.deque(scripts)
    progress = Progress()

    def work() -> None:
        while time.monotonic() < end_s and not killer.problems:
            try:
                script = waiting.popleft()
            except IndexError:
                return
            progress.ended(suite.run(script, place, end_s, progress.tell))

    with ThreadPoolExecutor(int(given.options["jobs"] or "1")) as pool:
        for future in [pool.submit(work) for _ in range(int(given.options["jobs"] or "1"))]:
            future.result()
    locally = Suite(suite.source, suite.results / "local")
    locally.results.mkdir(exist_ok=True)
    for outcome in progress.outcomes:
        if outcome.failed or outcome.end.startswith(("stopped", "hung")):
            with tempfile.TemporaryDirectory(prefix="git-tests-") as local:
                again = locally.run(outcome.script, Path(local), time.monotonic() + SCRIPT_S, progress.tell)
            outcome.failed_locally = sorted(again.failed)
            print(f"on a local directory: {words(again)}", flush=True)
    if given.options["json"]:
        rows = [asdict(outcome) for outcome in progress.outcomes]
        Path(given.options["json"]).write_text(json.dumps(rows, indent=1) + "\n")
    return sum_up(progress.outcomes, len(scripts))


def main() -> None:
    given = arguments(
        __doc__ or "",
        kill_every_s=0.0,
        options={
            "source": "a source tree of git, built",
            "scripts": f"patterns of names, in place of {PATTERNS}",
            "jobs": "how many scripts run at once; 1 if it is not said",
            "results": "a local directory for the logs of the scripts",
            "json": "where to write the outcomes",
        },
    )
    source = Path(given.options["source"] or ".").resolve()
    if not (source / "t" / "helper" / "test-tool").exists():
        raise SystemExit(f"--source: {source} is no source tree of git in which make was run")

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        place = fleet.everywhere("git")[0]
        results = Path(given.options["results"] or tempfile.mkdtemp(prefix="git-tests-")).resolve()
        results.mkdir(parents=True, exist_ok=True)
        print(f"logs in {results}", flush=True)
        with Killer(fleet, rng, given.kill_every_s) as killer:
            problems = examine(given, Suite(source, results), place, killer)
        return killer.problems + problems

    run(given, 1, body)


if __name__ == "__main__":
    main()
