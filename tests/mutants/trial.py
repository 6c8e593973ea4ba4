"""One trial: the named tests over one copy of the checkout, and what they said of it.

Owns: the copy (every file git knows, as it is in the working tree), a mistake put into it and taken out again, and the
process that runs the tests there.
Never: touches the checkout itself; ends a process it did not start.
Invariants: what is tested is the copy and not the installed package: a run that imports another is broken. A test that
does not collect, a module that does not import, a name that is not there, a fixture that fails and a test that is
skipped show nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tests.mutants import witness
from tests.mutants.catalogue import Mutant

START_S: Final = 60.0  # for an interpreter and its imports, beside the tests
NO_MISTAKE: Final = ("SyntaxError", "ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError")


class Ended(Enum):
    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Trial:
    ended: Ended
    words: str  # the test that failed and what it said, or what is broken


class Copy:
    """A copy of a checkout below a directory of its own, which `remove` takes away."""

    def __init__(self, root: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hypercluster-mutants-"))
        self.tree = self.directory / "tree"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()  # a run begins, or is stopped: `stop` comes from another thread
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
        for name in os.fsdecode(listed).split("\0"):
            source = root / name
            if name and source.is_file():  # one that was deleted and not yet committed is not copied
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, self.tree / name)

    def stop(self) -> None:
        """Ends the run that is under way, if there is one, and lets no other begin."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                kill(self._process)

    def remove(self) -> None:
        shutil.rmtree(self.directory)

    def replace(self, name: str, text: str) -> None:
        """The compiled form goes too: Python tells files apart by second and size, and a mistake may keep both."""
        path = self.tree / name
        path.write_text(text, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def without(self, mutant: Mutant) -> Trial:
        return self.run(mutant)

    def with_mistake(self, mutant: Mutant) -> Trial:
        """Raises CatalogueError."""
        original = (self.tree / mutant.file).read_text(encoding="utf-8")
        self.replace(mutant.file, mutant.mutated(original))
        try:
            return self.run(mutant)
        finally:
            self.replace(mutant.file, original)

    def run(self, mutant: Mutant) -> Trial:
        out = self.directory / "witness.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", witness.__name__]
        command += [f"--timeout={mutant.timeout_s:g}", "-o", "faulthandler_timeout=0", *mutant.tests]
        env = {**os.environ, "PYTHONPATH": str(self.tree), witness.OUT: str(out), witness.MODULE: mutant.module}
        with self._lock:
            if self._stopped:
                return Trial(Ended.BROKEN, "stopped before it began")
            process = self._process = subprocess.Popen(
                command,
                cwd=self.tree,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            printed, _ = process.communicate(timeout=START_S + mutant.timeout_s * len(mutant.tests))
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            return Trial(Ended.TIMED_OUT, "the test process did not end and was killed")
        if not out.exists():
            return Trial(Ended.BROKEN, "pytest did not end: " + printed.decode(errors="replace")[-500:])
        return judge(json.loads(out.read_text(encoding="utf-8")), mutant, self.tree)


def kill(process: subprocess.Popen[bytes]) -> None:
    """With what it started, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def judge(content: dict[str, Any], mutant: Mutant, tree: Path) -> Trial:
    """What a witness's file says of a run of the mutant's tests in `tree`."""
    if content["import_error"]:
        return Trial(Ended.BROKEN, f"{mutant.module} does not import: {content['import_error']}")
    if not Path(content["origin"]).is_relative_to(tree):
        return Trial(Ended.BROKEN, f"{mutant.module} comes from {content['origin']} and not from the copy")
    if content["errors"]:
        return Trial(Ended.BROKEN, "does not collect: " + " ".join(content["errors"][0]))
    for nodeid, when, outcome, words in content["reports"]:
        if outcome == "skipped":
            return Trial(Ended.BROKEN, f"{nodeid} is skipped here: {words}")
        if outcome == "failed" and words.startswith("Failed: Timeout (>"):
            return Trial(Ended.TIMED_OUT, f"{nodeid}: {words}")
        if outcome == "failed":
            crashed = when == "setup" or words.partition(":")[0] in NO_MISTAKE
            return Trial(Ended.BROKEN if crashed else Ended.FAILED, f"{nodeid}: {words}")
    ran = {nodeid for nodeid, when, _, _ in content["reports"] if when == "call"}
    for test in mutant.tests:
        if not any(nodeid == test or nodeid.startswith((test + "[", test + "::")) for nodeid in ran):
            return Trial(Ended.BROKEN, f"{test} did not run")
    return Trial(Ended.PASSED, f"{len(ran)} tests passed")
