"""The final state of a run as files: final.json, and its large parts beside it.

Owns: how a part is named in the whole, and the reading back. Imports nothing of the product.
Invariants: `read_final` gives what was put in, whatever was put beside; a part is whole or the file is not there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FINAL_FILE = "final.json"
PARTS = "final"
PART_KEY = "$file"


def put_part(directory: Path, name: str, part: Any) -> dict[str, str]:
    """Writes one part; what comes back stands for it in the whole."""
    (directory / PARTS).mkdir(exist_ok=True)
    _write(directory / PARTS / f"{name}.json", part)
    return {PART_KEY: f"{PARTS}/{name}.json"}


def put_final(directory: Path, whole: dict[str, Any]) -> None:
    _write(directory / FINAL_FILE, whole)


def read_final(directory: Path) -> dict[str, Any]:
    """With all its parts in their places. Raises OSError and ValueError."""
    whole = _resolved(directory, json.loads((directory / FINAL_FILE).read_text(encoding="utf-8")))
    if not isinstance(whole, dict):
        raise ValueError(f"{directory / FINAL_FILE} holds no object")
    return whole


def _resolved(directory: Path, found: Any) -> Any:
    if isinstance(found, dict):
        if found.keys() == {PART_KEY}:
            part = (directory / found[PART_KEY]).resolve()
            if not part.is_relative_to(directory.resolve()):
                raise ValueError(f"{found[PART_KEY]} lies outside {directory}")
            return json.loads(part.read_text(encoding="utf-8"))
        return {key: _resolved(directory, value) for key, value in found.items()}
    return found


def _write(path: Path, content: Any) -> None:
    begun = path.with_suffix(".begun")
    with begun.open("w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))
    os.replace(begun, path)
