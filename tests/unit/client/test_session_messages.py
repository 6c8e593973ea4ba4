"""What a worker says of itself (WS-50, WS-5)."""

from __future__ import annotations

from pathlib import Path

from hypercluster.client.worker.session_messages import PERMILLE_MAX, WORDS_MAX, _memory_permille, applied, hello
from hypercluster.client.worker.state import Failure, WorkerStatus

MINE = b"w" * 16


def status() -> WorkerStatus:
    made = WorkerStatus(workspace="tree", worker="builder", directory="/nowhere")
    made.applied_index = 7
    made.root = "ab" * 32
    return made


def test_a_hello_names_protocol_workspace_and_what_the_worker_can_do() -> None:
    said = hello(status(), MINE, b"i" * 16)
    assert (said.protocol, said.workspace_id, said.worker, said.applied_index) == ("hypersync/1", MINE, "builder", 7)
    assert "pressure" in said.features


def test_a_report_says_how_hard_the_host_has_it_as_far_as_that_is_known(tmp_path: Path) -> None:
    said = applied(status(), MINE, tmp_path)
    assert (said.workspace_id, said.root, said.read_only) == (MINE, b"\xab" * 32, False)
    assert 0 < said.pressure.memory_permille <= 1_000 and said.pressure.cpu_permille <= PERMILLE_MAX
    assert 0 < said.pressure.disk_free_bytes <= said.pressure.disk_total_bytes
    gone = applied(status(), MINE, tmp_path / "gone")
    assert gone.pressure.disk_total_bytes == 0


def test_a_failure_is_told_in_bounded_words(tmp_path: Path) -> None:
    failed = status()
    failed.failure = Failure(8, 28, "x" * 10_000, True)
    said = applied(failed, MINE, tmp_path)
    assert (said.read_only, said.error_log_index, said.error_errno) == (True, 8, 28)
    assert len(said.error_message) == WORDS_MAX


def test_memory_that_is_available_counts_as_free() -> None:
    text = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     250 kB\nHugePages_Total:       0\n"
    assert _memory_permille(text) == 750
