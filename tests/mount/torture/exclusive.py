"""O_EXCL races: eight processes on four mounts create the same name at once, again and again (WS-22, WS-64).

    python -m tests.mount.torture.exclusive --seconds 120 --seed 1

Holds when each name was created by exactly one of them, whoever lost was told EEXIST, and the file holds what the
winner wrote. Nothing is killed by default; with --kill-every a race in which a call failed otherwise is checked for at
most one winner.
"""

from __future__ import annotations

import errno
import os
import random
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 4
CONTENDERS = 8
RACES_MAX = 1_000
WON, LOST, UNKNOWN = "won", "lost", "unknown"


def contend(number: int, directory: Path, door: Connection) -> None:
    """Waits for a name and a time, then tries."""
    while True:
        name, at_s = door.recv()
        if not name:
            return
        time.sleep(max(0.0, at_s - time.monotonic()))
        try:
            fd = os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            door.send(LOST)
            continue
        except OSError as error:
            door.send(f"{UNKNOWN} {errno.errorcode.get(error.errno or 0)}")
            continue
        try:
            os.write(fd, b"%d" % number)
            os.close(fd)
        except OSError as error:
            door.send(f"{UNKNOWN} {errno.errorcode.get(error.errno or 0)}")
            continue
        door.send(WON)


def main() -> None:
    given = arguments(__doc__ or "", kill_every_s=0.0)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        paths = fleet.everywhere("races")
        context = get_context("fork")
        doors: list[Connection] = []
        processes = []
        for number in range(CONTENDERS):
            ours, theirs = context.Pipe()
            process = context.Process(target=contend, args=(number, paths[number % MOUNTS], theirs))
            process.start()
            doors.append(ours)
            processes.append(process)
        problems: list[str] = []
        races = 0
        end_s = time.monotonic() + given.seconds
        winners: dict[str, int] = {}
        with Killer(fleet, rng, given.kill_every_s) as killer:
            while races < RACES_MAX and time.monotonic() < end_s and not problems:
                name = f"lock-{races}"
                at_s = time.monotonic() + 0.002
                for door in doors:
                    door.send((name, at_s))
                answers = [door.recv() for door in doors]
                won = [number for number, answer in enumerate(answers) if answer == WON]
                clear = all(answer in {WON, LOST} for answer in answers)
                if len(won) > 1 or (clear and len(won) != 1):
                    problems.append(f"{name}: {answers}")
                if won and clear:
                    winners[name] = won[0]
                races += 1
        for door in doors:
            door.send(("", 0.0))
        for process in processes:
            process.join()
        fleet.settle()
        for path in paths:
            for name, number in winners.items():
                if (path / name).read_bytes() != b"%d" % number:
                    problems.append(f"{path / name}: not what its winner wrote")
        spread = [sum(1 for winner in winners.values() if winner == number) for number in range(CONTENDERS)]
        print(f"{races} races, won by {spread}; {killer.leaders} leaders and {killer.workers} workers killed")
        return problems + killer.problems + ([] if winners else ["nobody won anything"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
