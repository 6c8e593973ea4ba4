"""A short stretch of each torture run with kills (tests/mount/torture)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mount.mounts import NEEDS

pytestmark = [*NEEDS, pytest.mark.long]

SECONDS = "40"
SEED = "7"


@pytest.mark.req("WS-22", "WS-64", "WS-65")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["exclusive", "appending", "databases", "repositories", "building"])
def test_a_short_stretch(name: str) -> None:
    command = [sys.executable, "-m", f"tests.mount.torture.{name}", "--seconds", SECONDS, "--seed", SEED]
    kill_every_s = "0" if name == "building" else "8"
    done = subprocess.run([*command, "--kill-every", kill_every_s], capture_output=True, text=True, check=False)
    print(done.stdout)
    if done.returncode == 2:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
