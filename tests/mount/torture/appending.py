"""Append torture: eight processes on four mounts append lines to one file while leaders and workers are killed (WS-22).

    python -m tests.mount.torture.appending --seconds 120 --seed 1

Holds when every line in the file is whole, every acknowledged line is there exactly once, a line whose write failed is
there at most once, and the lines of one writer stand in the order in which they were written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

from tests.mount.mounts import within
from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 4
WRITERS = 8
LINE_BYTES = (40, 20_000)  # inline, and as a chunk of its own
PAUSE_S = 0.05

Report = tuple[int, list[int], list[int]]  # writer, acknowledged numbers, numbers whose write failed


def line_of(writer: int, number: int, rng: random.Random) -> bytes:
    most = LINE_BYTES[1] if rng.random() < 0.1 else 200
    body = rng.randbytes(rng.randint(LINE_BYTES[0], most) // 2).hex()
    text = f"{writer}:{number}:{body}"
    return f"{text}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}\n".encode()


def write_lines(writer: int, path: Path, seed: int, end_s: float, reports: Queue[Report]) -> None:
    rng = random.Random(seed)
    acknowledged: list[int] = []
    failed: list[int] = []
    number = 0
    fd = -1
    while time.monotonic() < end_s:
        try:
            if fd < 0:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError:
            time.sleep(PAUSE_S)
            continue
        number += 1
        line = line_of(writer, number, rng)
        try:
            if os.write(fd, line) != len(line):
                raise OSError("a short write")
            acknowledged.append(number)
        except OSError:
            failed.append(number)
            with contextlib.suppress(OSError):
                os.close(fd)
            fd = -1
            time.sleep(PAUSE_S)
    reports.put((writer, acknowledged, failed))


def judge(content: bytes, reports: list[Report]) -> list[str]:
    problems: list[str] = []
    found: dict[int, list[int]] = {}
    for at, line in enumerate(content.split(b"\n")[:-1]):
        text, _, digest = line.decode(errors="replace").rpartition(":")
        if hashlib.blake2b(text.encode(), digest_size=8).hexdigest() != digest:
            problems.append(f"line {at} is not whole: {line[:60]!r}")
            continue
        writer, number, _ = text.split(":", 2)
        found.setdefault(int(writer), []).append(int(number))
    if content and not content.endswith(b"\n"):
        problems.append("the last line is not whole")
    for writer, acknowledged, failed in reports:
        there = found.get(writer, [])
        if there != sorted(set(there)):
            problems.append(f"writer {writer}: lines twice or out of order")
        missing = set(acknowledged) - set(there)
        if missing:
            problems.append(f"writer {writer}: acknowledged and lost: {sorted(missing)[:10]}")
        strange = set(there) - set(acknowledged) - set(failed)
        if strange:
            problems.append(f"writer {writer}: never written: {sorted(strange)[:10]}")
    return problems


def main() -> None:
    given = arguments(__doc__ or "", kill_every_s=10.0)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        paths = [path / "log" for path in fleet.everywhere("append")]
        paths[0].write_bytes(b"")
        for path in paths:
            within(path.exists, f"{path} is there")
        context = get_context("fork")
        reports: Queue[Report] = context.Queue()
        end_s = time.monotonic() + given.seconds
        writers = [
            context.Process(target=write_lines, args=(w, paths[w % MOUNTS], rng.getrandbits(32), end_s, reports))
            for w in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        with Killer(fleet, rng, given.kill_every_s) as killer:
            told = [reports.get(timeout=given.seconds + 120) for _ in writers]
            for writer in writers:
                writer.join()
        fleet.settle()
        contents = {path.read_bytes() for path in paths}
        content = contents.pop()
        lines = sum(len(acknowledged) for _, acknowledged, _ in told)
        unknown = sum(len(failed) for _, _, failed in told)
        print(
            f"{lines} lines acknowledged, {unknown} failed, {len(content)} bytes; "
            f"{killer.leaders} leaders and {killer.workers} workers killed"
        )
        problems = judge(content, told) + killer.problems
        if contents:
            problems.append("the mounts do not show the same file")
        return problems + ([] if lines else ["nothing was written"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
