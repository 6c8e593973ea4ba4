"""Runs a command only as long as a lease can be known to hold: `python -m hypercluster.cli.lease_watchdog` (WS-65).

Owns: the command of `workspace lock run` as its parent, and the moment at which it has to be dead.
Never: talks to a cluster, or trusts that its supervisor is running: a supervisor that is paused or killed says nothing,
and then the last word counts. It imports next to nothing, so that it starts at once and holds little memory.
Invariants: the command does not start before the first word on until when; at that moment, by CLOCK_BOOTTIME, its
process group gets SIGKILL, and so does what is left of the group when the command has ended.

Words on the control pipe, a line each: "until NS" moves the moment, never back; "signal N" is passed on to the group;
"kill" ends it now. On the report pipe: "started PID", and "ended CODE WHY" at last, WHY one of exit, lease, asked.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

LOOK_MS = 100  # a host that wakes up is noticed within this
LINE_BYTES_MAX = 64
LOST_CODE = 128 + signal.SIGKILL


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Orders:
    """What the supervisor has said so far. Pure: bytes in, words out."""

    def __init__(self) -> None:
        self.until_ns = 0
        self.kill = False
        self.signals: list[int] = []
        self._rest = b""

    def feed(self, content: bytes) -> None:
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            self.kill = True  # not our supervisor
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        word, _, number = line.partition(b" ")
        if word == b"until" and number.isdigit():
            self.until_ns = max(self.until_ns, int(number))
        elif word == b"signal" and number.isdigit() and 0 < int(number) < signal.NSIG:
            self.signals.append(int(number))
        else:
            self.kill = True

    def is_over(self, now_ns: int) -> bool:
        return self.kill or now_ns >= self.until_ns


class Watchdog:
    def __init__(self, control: int, report: int, command: list[str]) -> None:
        self._control = control
        self._report = report
        self._command = command
        self._orders = Orders()
        self._silent = False  # the supervisor is gone

    def run(self) -> int:
        while not (self._orders.until_ns or self._silent or self._orders.kill):
            self._listen()
        if self._orders.is_over(boot_ns()):
            self._say(f"ended {LOST_CODE} lease")
            return LOST_CODE
        try:
            # In a group of its own a command that reads the terminal would be stopped for it.
            stdin = subprocess.DEVNULL if os.isatty(0) else None
            child = subprocess.Popen(self._command, process_group=0, stdin=stdin)
        except OSError as error:
            print(f"error: {self._command[0]}: {error.strerror}", file=sys.stderr)
            code = 127 if isinstance(error, FileNotFoundError) else 126
            self._say(f"ended {code} exit")
            return code
        self._say(f"started {child.pid}")
        why = self._watch(child)
        kill_group(child.pid, signal.SIGKILL)  # what the command left behind runs without the lock
        code = child.wait()
        code = code if code >= 0 else 128 - code
        self._say(f"ended {code} {why}")
        return code

    def _watch(self, child: subprocess.Popen[bytes]) -> str:
        told = False
        while child.poll() is None:
            if self._orders.is_over(boot_ns()):
                return "asked" if self._orders.kill else "lease"
            for number in self._orders.signals:
                kill_group(child.pid, number)
            self._orders.signals.clear()
            if self._silent and not told:
                kill_group(child.pid, signal.SIGTERM)  # nobody renews any more: end well, while there is time
                told = True
            self._listen()
        return "exit"

    def _listen(self) -> None:
        """Waits for a word, or a moment: a short one, because poll's clock stands still while the host sleeps."""
        left_ms = (self._orders.until_ns - boot_ns()) // 1_000_000 if self._orders.until_ns else LOOK_MS
        timeout_ms = max(1, min(LOOK_MS, left_ms))
        if self._silent:
            time.sleep(timeout_ms / 1000)
            return
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if poll.poll(timeout_ms):
            content = os.read(self._control, 4096)
            self._silent = not content
            self._orders.feed(content)

    def _say(self, words: str) -> None:
        try:
            os.write(self._report, words.encode() + b"\n")
        except OSError:
            return  # nobody listens any more


def kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def main(arguments: list[str]) -> int:
    """CONTROL REPORT COMMAND…: two open pipes by number, and what to run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        # The supervisor says what the command is told. Caught, not ignored: the command would inherit that.
        signal.signal(number, lambda _number, _frame: None)
    return Watchdog(int(arguments[0]), int(arguments[1]), arguments[2:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
