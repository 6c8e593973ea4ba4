"""The demo as a whole: it holds on the product, and fails on a build without dedupe (CH-10)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo.run import Demo
from tests.integration.cluster import Cluster, eventually


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
    assert "  applied twice " in done.stdout
    assert "applied twice 0 " not in done.stdout
    assert "✗ nothing acknowledged is lost, nothing is applied twice" in done.stdout


@pytest.mark.req("CH-10")
async def test_a_node_that_stops_by_itself_ends_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stood still until its time was up: two nodes were gone, and nobody looked."""
    async with Cluster(tmp_path, 1) as cluster:
        demo = Demo(tmp_path, cluster, seed=1)
        watch = asyncio.create_task(demo.node_ends())
        await cluster.restart("n1")
        await cluster.leader()
        assert not watch.done()  # a kill is what the demo does itself
        cluster.processes["n1"].terminate()
        await eventually(watch.done, "the end is noticed", 20.0)
        await watch
        assert demo.failures == ["no node stops by itself"]
    assert "n1: exit status " in capsys.readouterr().out
