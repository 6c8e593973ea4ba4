"""What a command prints of names that are no UTF-8 (WS-16)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.req("WS-16", "WS-61")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_of_any_bytes_can_be_shown(as_json: bool, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    odd = os.fsdecode(b"dir/\xff\xfe")
    status = {"worker": "w", "workspace": "demo", "applied_index": 1, "cluster_index": 1, "root": "", "state": "live"}
    (state / "status.json").write_text(json.dumps({**status, "failure": None, "problems": {odd: "no such attribute"}}))
    arguments = ["worker", "status", str(tmp_path / "mirror"), "--state", str(state), *(["--json"] if as_json else [])]
    done = subprocess.run(
        [sys.executable, "-m", "hypercluster.cli.main", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},  # as in any locale but C and its like
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"dir/\\udcff\\udcfe" in done.stdout
    if as_json:
        assert json.loads(done.stdout)["problems"] == {odd: "no such attribute"}
