"""The demo as a whole: it holds on the product, and fails on a build without dedupe (CH-10)."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.demo.run", "--files", "1000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.req("CH-4", "WS-55", "WS-63", "D-7")
def test_the_demo_holds() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything holds" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.req("CH-10")
def test_the_demo_finds_a_build_without_dedupe() -> None:
    done = run("--known-bad", "dedupe_off")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "applied twice 0" not in done.stdout
    assert "✗ nothing acknowledged is lost, nothing is applied twice" in done.stdout
