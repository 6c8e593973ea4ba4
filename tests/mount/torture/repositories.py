"""git torture: one real repository, worked on from two mounts, while leaders and workers are killed (WS-64).

    python -m tests.mount.torture.repositories --seconds 600 --seed 1 --repository ~/src/project

A repository is cloned into the workspace: that of `--repository`, of the environment's HYPERCLUSTER_TORTURE_REPOSITORY,
the checkout this module lies in, or, where that has no history, one that is made. The two mounts share objects, refs
and packs, and each has a worktree of its own: they edit, add, commit, merge, check out, make and delete branches, look
at status and collect garbage at random. Holds when `git fsck --full` finds nothing on either mount, every acknowledged
commit and merge is in the history of its branch, acknowledged branches are there and deleted ones are not, both mounts
have the same files with the same bytes, and no command failed at a time at which nothing had been killed.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests.mount.mounts import within
from tests.mount.torture.fleet import Fleet, Killer, arguments, run
from tests.mount.torture.hands import Hand, Quiet, git, locks_of

MOUNTS = 2
COMMITS = 500  # of a repository that is made
COMMITS_LEAST = 200  # of the checkout, for it to be used
FILES = 40
DIFFERENCES_MAX = 5
SETTLE_S = 120.0
REPOSITORY = "HYPERCLUSTER_TORTURE_REPOSITORY"


def commits_of(repository: Path) -> int:
    """0 for a shallow one, and where there is none."""
    shallow = git(repository, "rev-parse", "--is-shallow-repository")
    counted = git(repository, "rev-list", "--count", "HEAD")
    return int(counted.stdout) if counted.returncode == 0 and shallow.stdout.strip() == b"false" else 0


def source_of(wanted: str) -> Path | None:
    """What is to be cloned; None: one is made. Ends the process if what was asked for can not be had."""
    named = wanted or os.environ.get(REPOSITORY, "")
    if named:
        source = Path(named).expanduser().resolve()
        if not source.is_dir() or not commits_of(source):
            sys.exit(f"--repository: {source} is no repository with its whole history")
        return source
    checkout = Path(__file__).resolve().parents[3]
    return checkout if commits_of(checkout) >= COMMITS_LEAST else None


def history(rng: random.Random) -> bytes:
    """A stream for git fast-import."""
    parts: list[str] = []
    for number in range(COMMITS):
        text = "".join(f"{rng.getrandbits(64):x}\n" for _ in range(rng.randint(1, 60)))
        name = f"dir{number % 7}/file{rng.randrange(FILES)}"
        parts.append(
            f"commit refs/heads/main\ncommitter t <t@example.org> {1_700_000_000 + number} +0000\n"
            f"data {len(str(number))}\n{number}\n"
            f"M 100644 inline {name}\ndata {len(text)}\n{text}\n"
        )
    return "".join(parts).encode()


def make_repository(repository: Path, source: Path | None, rng: random.Random) -> int:
    """How many commits it has."""
    repository.mkdir()
    if source is not None:
        cloned = git(repository, "clone", "-q", f"file://{source}", ".")
        assert cloned.returncode == 0, cloned.stderr
    else:
        assert git(repository, "init", "-q", "-b", "main").returncode == 0
        imported = git(repository, "fast-import", "--quiet", given=history(rng))
        assert imported.returncode == 0, imported.stderr
    for setting in (["gc.auto", "0"], ["core.checkStat", "default"]):
        assert git(repository, "config", *setting).returncode == 0
    for number in range(MOUNTS):
        made = git(repository, "worktree", "add", "-q", "-b", f"work{number}", f"../tree{number}", "HEAD")
        assert made.returncode == 0, made.stderr
        # Each mount has a path of its own: the way to the repository must not name one.
        pointer = repository.parent / f"tree{number}" / ".git"
        pointer.write_text(f"gitdir: ../repository/.git/worktrees/tree{number}\n")
    return commits_of(repository)


def content_of(base: Path) -> dict[str, tuple[int, bytes]]:
    """Of each file its mode and a digest of its bytes; of a link where it leads."""
    found: dict[str, tuple[int, bytes]] = {}
    for directory, directories, files in os.walk(base):
        for name in directories + files:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found[str(path.relative_to(base))] = (mode, os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(mode):
                found[str(path.relative_to(base))] = (mode, hashlib.sha256(path.read_bytes()).digest())
            else:
                found[str(path.relative_to(base))] = (mode, b"")
    return found


def judge(base: Path, hands: list[Hand], commits: int) -> list[str]:
    """What is wrong with the repository as one mount shows it."""
    where = base.parent.name
    checked = git(base / "repository", "fsck", "--full", "--no-dangling")
    said = (checked.stdout + checked.stderr).decode(errors="replace").strip()
    problems: list[str] = []
    if checked.returncode != 0 or "missing" in said or "error" in said:
        problems.append(f"{where}: fsck: {said[:600]}")
    refs = git(base / "repository", "for-each-ref", "--format=%(refname:short)", "refs/heads").stdout.decode().split()
    for hand in hands:
        kept = git(base / "repository", "log", "--format=%s", hand.branch).stdout.decode().splitlines()
        lost = sorted({*hand.subjects} - {*kept})
        if lost:
            problems.append(f"{where}: {hand.branch}: {len(lost)} acknowledged commits are lost: {lost[:5]}")
        if len(kept) < commits:
            problems.append(f"{where}: {hand.branch}: only {len(kept)} of {commits} commits are left")
        gone, back = hand.branches - {*refs}, hand.deleted & {*refs}
        if gone or back:
            problems.append(f"{where}: branches lost: {sorted(gone)[:5]}, come back: {sorted(back)[:5]}")
        state = git(hand.tree, "status", "--porcelain")
        if state.returncode != 0 or state.stdout:
            problems.append(f"tree{hand.number}: not clean after a check-out: {(state.stdout + state.stderr)[:300]!r}")
    return problems


def equal(bases: list[Path]) -> list[str]:
    """What is wrong with the mounts together. Printed: how much was compared."""
    first, *others = [content_of(base) for base in bases]
    print(f"{len(first)} files and directories compared on {len(bases)} mounts", flush=True)
    problems: list[str] = []
    for other in others:
        different = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
        if different:
            problems.append(f"the mounts differ in {len(different)} files: {different[:DIFFERENCES_MAX]}")
    return problems


def settle(fleet: Fleet, bases: list[Path], hands: list[Hand]) -> None:
    """Nobody works any more: no lock has an owner, and each hand's tree is made to be what its branch says."""
    fleet.settle()

    def unlocked() -> bool:
        for lock in locks_of(bases[0]):
            lock.unlink(missing_ok=True)
        return True

    within(unlocked, "the last locks are gone", SETTLE_S)
    for hand in hands:
        hand.unsure = True
        within(hand.ready, f"{hand.branch} is checked out", SETTLE_S)
    fleet.settle()


def work(fleet: Fleet, hands: list[Hand], killer: Killer, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    threads = [threading.Thread(target=hand.work, args=(end_s,)) for hand in hands]
    with killer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def summary(hands: list[Hand], killer: Killer) -> str:
    done: Counter[str] = Counter()
    for hand in hands:
        done.update(hand.done)
    return (
        f"{sum(done.values())} commands: {', '.join(f'{count} {name}' for name, count in sorted(done.items()))}; "
        f"{sum(hand.failed for hand in hands)} failed, {sum(hand.conflicts for hand in hands)} merges given up, "
        f"{sum(hand.locks_removed for hand in hands)} locks removed\n"
        f"{sum(len(hand.subjects) for hand in hands)} commits and merges acknowledged; {killer.leaders} leaders and "
        f"{killer.workers} workers killed"
    )


def main() -> None:
    given = arguments(
        __doc__ or "", kill_every_s=30.0, options={"repository": "what is cloned, in place of this checkout"}
    )
    source = source_of(given.options["repository"])

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        bases = fleet.everywhere("git")
        begun_s = time.monotonic()
        commits = make_repository(bases[0] / "repository", source, rng)
        fleet.settle()
        print(f"{commits} commits of {source or 'a made one'} in {time.monotonic() - begun_s:.0f} s", flush=True)
        quiet = Quiet()
        killer = Killer(fleet, rng, given.kill_every_s)
        hands = [
            Hand(n, (n + 1) % MOUNTS, base, random.Random(rng.getrandbits(32)), quiet, killer.disturbances)
            for n, base in enumerate(bases)
        ]
        work(fleet, hands, killer, given.seconds)
        settle(fleet, bases, hands)
        problems = killer.problems + [problem for hand in hands for problem in hand.problems]
        for base in bases:
            problems += judge(base, hands, commits)
        problems += equal(bases)
        print(summary(hands, killer), flush=True)
        return problems + ([] if any(hand.subjects for hand in hands) else ["nothing was committed"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
