"""`make mutants`: puts each recorded mistake into a copy of the checkout and shows a marked test failing (CH-12).

    python -m tests.mutants.run --ids D-3,CL-2
    python -m tests.mutants.run --draw 40 --seed 7
    python -m tests.mutants.run --all

Owns: which entries run, in how many copies at once, a line for each, the counts, and the exit status: 0 if all were
caught, 1 if one survived or is broken, 2 if what was asked for is not there.
Invariants: a mistake counts as caught only if the same tests passed in a copy without it; a seed draws the same entries
as long as the same are recorded.
"""

from __future__ import annotations

import argparse
import queue
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tests.mutants.catalogue import CATALOGUE, ROOT, Catalogue, CatalogueError, Mutant, read_catalogue
from tests.mutants.trial import Copy, Ended, Trial

PROGRAM: Final = "python -m tests.mutants.run"
DRAW: Final = 40
JOBS_MAX: Final = 16


class Verdict(Enum):
    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"


@dataclass(frozen=True, slots=True)
class Result:
    mutant: Mutant
    verdict: Verdict
    seconds: float
    words: str

    def __str__(self) -> str:
        return f"{self.mutant.spec_id:8} {self.mutant.file:52} {self.verdict.value:8} {self.seconds:6.1f} s"

    def explained(self) -> str:
        return f"{self}\n         mistake: {self.mutant.why}\n         outcome: {self.words}"


def verdict_of(mutant: Mutant, mutated: Trial) -> Verdict:
    """Of a mistake whose tests pass without it."""
    match mutated.ended:
        case Ended.FAILED:
            return Verdict.CAUGHT
        case Ended.TIMED_OUT:
            return Verdict.CAUGHT if mutant.hangs else Verdict.BROKEN
        case Ended.PASSED:
            return Verdict.SURVIVED
        case Ended.BROKEN:
            return Verdict.BROKEN


class Bench:
    """The copies, one a job, and which tests are known to pass in them without a mistake."""

    def __init__(self, root: Path, jobs: int) -> None:
        self.copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        self.all = [Copy(root) for _ in range(jobs)]
        for copy in self.all:
            self.copies.put(copy)
        self.pristine: dict[tuple[str, ...], Trial] = {}

    def stop(self) -> None:
        for copy in self.all:
            copy.stop()

    def close(self) -> None:
        for copy in self.all:
            copy.remove()

    def judge(self, mutant: Mutant) -> Result:
        copy = self.copies.get()
        began = time.monotonic()
        try:
            verdict, words = self.compare(copy, mutant)
        except CatalogueError as error:
            verdict, words = Verdict.BROKEN, str(error)
        finally:
            self.copies.put(copy)
        return Result(mutant, verdict, time.monotonic() - began, words)

    def compare(self, copy: Copy, mutant: Mutant) -> tuple[Verdict, str]:
        before = self.pristine.get(mutant.tests)
        if before is None:
            before = self.pristine[mutant.tests] = copy.without(mutant)
        if before.ended is not Ended.PASSED:
            return Verdict.BROKEN, f"without the mistake: {before.words}"
        after = copy.with_mistake(mutant)
        return verdict_of(mutant, after), after.words


def judge_all(mutants: Sequence[Mutant], root: Path = ROOT, jobs: int = 1) -> Iterator[Result]:
    """In the order they end."""
    bench = Bench(root, min(jobs, len(mutants)))
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(bench.judge, mutant) for mutant in mutants]):
            yield future.result()
    finally:
        # All have ended, or whoever asked looks no further: then nothing goes on behind it.
        pool.shutdown(wait=False, cancel_futures=True)
        bench.stop()
        pool.shutdown()
        bench.close()


def choose(catalogue: Catalogue, arguments: argparse.Namespace) -> list[Mutant]:
    """Raises CatalogueError."""
    if arguments.ids:
        return [catalogue.find(spec_id) for spec_id in dict.fromkeys(arguments.ids.split(","))]
    drawable = sorted(catalogue.drawable(), key=lambda mutant: mutant.spec_id)
    if arguments.all:
        return drawable
    if len(drawable) < arguments.draw:
        raise CatalogueError(f"{arguments.draw} are to be drawn and only {len(drawable)} are recorded")
    return random.Random(arguments.seed).sample(drawable, arguments.draw)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants.run", description="Recorded mistakes must be caught."
    )
    parser.add_argument("--ids", default="", help="these lines of the specification, as D-3,CL-2")
    parser.add_argument("--all", action="store_true", help="every recorded mistake that may be drawn")
    parser.add_argument("--draw", type=int, default=DRAW, help=f"so many, drawn by the seed (default {DRAW})")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the draw (default: any)")
    parser.add_argument("--jobs", type=int, default=1, help="so many at once, each in a copy of its own")
    parser.add_argument(
        "--explain", action="store_true", help="say of caught ones, too, what the mistake is and who saw it"
    )
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.draw < 1:
        parser.error("--draw is at least 1")
    if not 1 <= arguments.jobs <= JOBS_MAX:
        parser.error(f"--jobs is 1 to {JOBS_MAX}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    arguments = read_arguments(words)
    try:
        chosen = choose(read_catalogue(arguments.catalogue), arguments)
    except CatalogueError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.ids and not arguments.all:
        print(
            f"{len(chosen)} drawn; again: python -m tests.mutants.run --draw {arguments.draw} --seed {arguments.seed}"
        )
    counts: Counter[Verdict] = Counter()
    for result in judge_all(chosen, arguments.root, arguments.jobs):
        counts[result.verdict] += 1
        plain = result.verdict is Verdict.CAUGHT and not arguments.explain
        print(result if plain else result.explained(), flush=True)
    print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
    return 0 if counts[Verdict.CAUGHT] == len(chosen) else 1


def _ended(_signal: int, _frame: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)  # as for Ctrl-C: the copies go away, and what runs in them ends
    sys.exit(main())
