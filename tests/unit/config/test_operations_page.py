"""The settings in docs/operations.md are those of the program, each with its default and range (OPS-1)."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import pytest

from hypercluster.config.settings import RANGES, SECTIONS

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "operations.md"
ROW = re.compile(r"\| `([a-z]+\.[a-z_]+)` \| `([^`]*)` \|([^|]*)\| ([^|]+) \|")


def expected() -> dict[str, tuple[str, str]]:
    found = {}
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            name = f"{section}.{field.name}"
            value = getattr(kind(), field.name)
            lowest_highest = RANGES.get(name)
            limits = "{} to {}".format(*lowest_highest) if lowest_highest else ""
            found[name] = (json.dumps(list(value) if isinstance(value, tuple) else value), limits)
    return found


@pytest.mark.req("OPS-1")
def test_the_page_names_every_setting_with_its_default_and_range() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert {name: (default, limits.strip()) for name, default, limits, _ in rows} == expected()
    assert len(rows) == len(expected()), "each once"
