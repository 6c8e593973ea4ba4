"""The watchdog of `lock run`, without a cluster: what it is told, and when its command is dead (WS-65)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.cli.lease_watchdog import LINE_BYTES_MAX, Orders, boot_ns
from hypercluster.cli.lock_run import WATCHDOG
from hypercluster.client.lock_guard import LockGuard
from hypercluster.errors import MalformedError

S_NS = 1_000_000_000
LATE_NS = 3 * S_NS  # on a busy machine


class Site:
    """A watchdog with its two pipes."""

    def __init__(self, *command: str) -> None:
        control_out, self.control = os.pipe()
        report, report_in = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", WATCHDOG, str(control_out), str(report_in), *command],
            pass_fds=(control_out, report_in),
            process_group=0,
        )
        os.close(control_out)
        os.close(report_in)
        self._report = os.fdopen(report, "r")

    def say(self, words: str) -> None:
        os.write(self.control, words.encode() + b"\n")

    def heard(self) -> list[str]:
        return self._report.readline().split()

    def hang_up(self) -> None:
        if self.control >= 0:
            os.close(self.control)
            self.control = -1

    def close(self) -> None:
        self.hang_up()
        self._report.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    opened: list[Site] = []
    yield opened
    for site in opened:
        site.close()


def begun(sites: list[Site], *command: str, lasts_ns: int = 60 * S_NS) -> Site:
    """A watchdog whose command has started."""
    site = Site(*command)
    sites.append(site)
    site.say(f"until {boot_ns() + lasts_ns}")
    assert site.heard()[0] == "started"
    return site


@pytest.mark.req("WS-65")
def test_the_command_is_dead_when_the_lease_ends_whatever_it_does_about_signals(sites: list[Site]) -> None:
    stubborn = "trap '' TERM INT HUP; while true; do sleep 1; done"
    site = Site("sh", "-c", stubborn)
    sites.append(site)
    until_ns = boot_ns() + 2 * S_NS
    site.say(f"until {until_ns}")
    assert site.heard()[0] == "started"
    assert site.heard() == ["ended", "137", "lease"]
    assert until_ns <= boot_ns() < until_ns + LATE_NS


@pytest.mark.req("WS-65")
def test_the_moment_moves_on_and_never_back(sites: list[Site]) -> None:
    site = begun(sites, "sleep", "2.5", lasts_ns=S_NS)
    site.say(f"until {boot_ns() + 60 * S_NS}")
    site.say(f"until {boot_ns()}")
    assert site.heard() == ["ended", "0", "exit"]


@pytest.mark.req("WS-65")
def test_a_command_does_not_start_without_a_lease(sites: list[Site], tmp_path: Path) -> None:
    for words in ("", "kill", f"until {boot_ns() - 1}", "nonsense"):
        site = Site("touch", str(tmp_path / "started"))
        sites.append(site)
        if words:
            site.say(words)
        else:
            site.hang_up()
        assert site.heard() == ["ended", "137", "lease"]
        assert not (tmp_path / "started").exists()


@pytest.mark.req("WS-65")
def test_what_a_supervisor_says_reaches_the_group_and_its_silence_too(sites: list[Site]) -> None:
    site = begun(sites, "sleep", "60")
    site.say(f"signal {int(signal.SIGTERM)}")
    assert site.heard() == ["ended", "143", "exit"]
    site = begun(sites, "sleep", "60")
    site.say("kill")
    assert site.heard() == ["ended", "137", "asked"]
    site = begun(sites, "sleep", "60")
    site.hang_up()
    assert site.heard() == ["ended", "143", "exit"]
    # It is not held back by what is sent to itself, as a terminal would.
    site = begun(sites, "sleep", "0.3")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        site.process.send_signal(number)
    assert site.heard() == ["ended", "0", "exit"]


@pytest.mark.req("WS-65")
def test_codes_are_the_commands_and_what_it_leaves_behind_goes_with_it(sites: list[Site], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    site = begun(sites, "sh", "-c", f"sleep 60 & echo $! > {pid}; exit 5")
    assert site.heard() == ["ended", "5", "exit"]
    assert site.process.wait(10) == 5
    end_s = time.monotonic() + 10
    while Path(f"/proc/{int(pid.read_text())}/cmdline").exists() and _is_alive(int(pid.read_text())):
        assert time.monotonic() < end_s, "what the command left behind lives on"
        os.sched_yield()
    missing = Site("/nowhere/at/all")
    sites.append(missing)
    missing.say(f"until {boot_ns() + 60 * S_NS}")
    assert missing.heard() == ["ended", "127", "exit"]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_words_that_come_in_pieces_or_make_no_sense() -> None:
    orders = Orders()
    orders.feed(b"unt")
    orders.feed(b"il 12\nsignal 15\nuntil 7")
    assert (orders.until_ns, orders.signals, orders.kill) == (12, [15], False)
    orders.feed(b"\n")
    assert orders.until_ns == 12 and not orders.is_over(11) and orders.is_over(12)
    for nonsense in (b"until x\n", b"signal 0\n", b"signal 999\n", b"\n", b"x" * (LINE_BYTES_MAX + 1)):
        odd = Orders()
        odd.feed(nonsense)
        assert odd.kill and odd.is_over(-1)


@pytest.mark.req("WS-42")
def test_a_guard_travels_as_text_and_is_never_left_out_for_being_odd() -> None:
    for guard in (
        LockGuard(b"w" * 16, b"i" * 16, "", 7, b"h" * 16),
        LockGuard(b"w" * 16, b"", "deploy/prod:1", (1 << 64) - 1, b""),
    ):
        assert LockGuard.parse(guard.text()) == guard
        assert LockGuard.of(guard.workspace_id, guard.message()) == guard
    assert LockGuard.parse("") is None
    good = LockGuard(b"w" * 16, b"i" * 16, "", 7, b"").text()
    for odd in ("x", good + ",", good.replace(",7,", ",0,"), good.replace("inode", "node"), good[2:], good[:-1] + "zz"):
        with pytest.raises(MalformedError, match="HYPERCLUSTER_GUARD"):
            LockGuard.parse(odd)
