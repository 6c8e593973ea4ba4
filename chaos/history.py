"""A finished run read back from its directory, packed or not; and the packing of one to be kept.

Owns: `read_run`, and `python -m chaos.history RUN KEPT`, which makes a recorded history of a run: what checkers need,
gzipped, and expected.json with the verdicts it must get for ever (tests/chaos/test_recorded.py).
Invariants: a history file is `NAME.jsonl` or `NAME.jsonl.gz`, never both; a line that is no record is an error that
names file and line; a last line without an end is left out. Packing the same run twice gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from chaos.records import Event, decode, read
from chaos.seams import Finished

EXPECTED: Final = "expected.json"
KEPT_BYTES_MAX: Final = 2 << 20  # packed: it lives in the repository


def events_of(directory: Path) -> list[Event]:
    """All streams of a run, in the order of time. Raises BadRecordError."""
    history = directory / "history"
    events = [event for path in sorted(history.glob("*.jsonl")) for event in read(Event, path)]
    events += [event for path in sorted(history.glob("*.jsonl.gz")) for event in _packed(path)]
    return sorted(events, key=lambda event: event.at_ns)


def _packed(path: Path) -> Iterator[Event]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith("\n"):
                yield decode(Event, line, f"{path.name}:{number}")


def read_run(directory: Path, budget_s: float = 120.0) -> Finished:
    """Without a final state where there is none. Raises OSError and ValueError."""
    final: dict[str, Any] = {}
    plain, packed = directory / "final.json", directory / "final.json.gz"
    if plain.exists():
        final = json.loads(plain.read_bytes())
    elif packed.exists():
        final = json.loads(gzip.decompress(packed.read_bytes()))
    return Finished(events_of(directory), final, directory, budget_s)


def keep(run: Path, kept: Path) -> int:
    """Packs a run into a new directory; returns the bytes it takes. Its verdicts are those of run.json."""
    if not (run / "run.json").exists():
        raise ValueError(f"{run} has no run.json: it is no run, or one that did not end")
    verdicts = json.loads((run / "run.json").read_text(encoding="utf-8"))["verdicts"]
    kept.mkdir(parents=True)
    (kept / "history").mkdir()
    parts = [*sorted((run / "history").glob("*.jsonl")), *sorted((run / "final").glob("*.json"))]
    for path in [*parts, *(p for p in [run / "final.json"] if p.exists())]:
        target = kept / path.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        target.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    expected = {verdict["checker"]: verdict["outcome"] for verdict in verdicts}
    words = {"words": f"{run.name}: say here what broke, on which build, and why it is worth keeping"}
    (kept / EXPECTED).write_text(json.dumps(words | {"verdicts": expected}, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    if size > KEPT_BYTES_MAX:
        raise ValueError(f"{kept} takes {size} bytes packed, limit KEPT_BYTES_MAX is {KEPT_BYTES_MAX}: a shorter run")
    return size


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m chaos.history RUN KEPT")
    try:
        kept_bytes = keep(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"{kept_bytes} bytes; now edit {sys.argv[2]}/{EXPECTED}")
