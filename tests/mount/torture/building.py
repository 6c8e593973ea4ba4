"""A build on one mount while another mount edits its sources (WS-64).

    python -m tests.mount.torture.building --seconds 120 --seed 1

One host runs `make` again and again over a program of many C files; the other replaces the files, each by a rename, as
editors do. Holds when no compilation ever sees half a file, and when, once the editing is over, a build on either host
makes a program that prints exactly what the sources say.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 2
UNITS = 24
BUILD_S = 240.0


def source(number: int, value: int) -> str:
    filler = "".join(f"/* {number} {line} */\n" for line in range(200))
    return f"{filler}int unit_{number}(void) {{ return {value}; }}\n{filler}"


def program() -> str:
    declared = "".join(f"int unit_{n}(void);\n" for n in range(UNITS))
    printed = "".join(f'    printf("%d\\n", unit_{n}());\n' for n in range(UNITS))
    return f"#include <stdio.h>\n{declared}int main(void) {{\n{printed}    return 0;\n}}\n"


def makefile() -> str:
    objects = " ".join(["main.o", *(f"unit{n}.o" for n in range(UNITS))])
    return (
        f"program: {objects}\n\tcc -o program.new {objects}\n\tmv program.new program\n%.o: %.c\n\tcc -O0 -c -o $@ $<\n"
    )


def make(place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "-j3"], cwd=place, capture_output=True, text=True, check=False, timeout=BUILD_S
    )


class Editor(threading.Thread):
    """Knows what the sources are to say in the end; `problems` while nothing was killed."""

    def __init__(self, place: Path, rng: random.Random, values: list[int], end_s: float) -> None:
        super().__init__(name="editor")
        self.place = place
        self.rng = rng
        self.values = values
        self.end_s = end_s
        self.edits = 0
        self.failed = 0

    def run(self) -> None:
        while time.monotonic() < self.end_s:
            number, value = self.rng.randrange(UNITS), self.rng.randrange(1_000_000)
            try:
                self.edit(number, value)
                self.edits += 1
            except OSError:
                self.failed += 1
            time.sleep(self.rng.random() * 0.3)

    def edit(self, number: int, value: int) -> None:
        new = self.place / f".unit{number}.c.new"
        new.write_text(source(number, value))
        self.values[number] = value  # from here on it may be there, whatever the rename answers
        os.rename(new, self.place / f"unit{number}.c")


def main() -> None:
    if shutil.which("cc") is None or shutil.which("make") is None:
        print("not run: it needs cc and make")
        sys.exit(2)
    given = arguments(__doc__ or "", kill_every_s=0.0)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        builds, edits = fleet.everywhere("build")
        values = [rng.randrange(1_000_000) for _ in range(UNITS)]
        (builds / "Makefile").write_text(makefile())
        (builds / "main.c").write_text(program())
        for number, value in enumerate(values):
            (builds / f"unit{number}.c").write_text(source(number, value))
        fleet.settle()
        problems: list[str] = []
        built = 0
        end_s = time.monotonic() + given.seconds
        with Killer(fleet, rng, given.kill_every_s) as killer:
            editor = Editor(edits, random.Random(rng.getrandbits(32)), values, end_s)
            editor.start()
            while time.monotonic() < end_s:
                done = make(builds)
                if done.returncode == 0:
                    built += 1
                elif not given.kill_every_s:
                    problems.append(f"a build failed: {done.stderr[-600:]}")
                    break
            editor.join()
        fleet.settle()
        for place in (builds, edits):
            for number in range(UNITS):
                if given.kill_every_s:  # a rename that failed may not have been done: once more, for certain
                    editor.place = place
                    editor.edit(number, values[number])
                os.utime(place / f"unit{number}.c")  # an edit during its own compilation looks older than the object
            done = make(place)
            said = subprocess.run([place / "program"], capture_output=True, text=True, check=False)
            if done.returncode != 0 or said.stdout.split() != [str(value) for value in values]:
                problems.append(f"{place}: {done.stderr[-300:]} it prints {said.stdout.split()[:5]}…")
            fleet.settle()
        print(
            f"{built} builds, {editor.edits} edits, {editor.failed} failed; "
            f"{killer.leaders} leaders and {killer.workers} workers killed"
        )
        return problems + killer.problems + ([] if built and editor.edits else ["nothing was built"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
