"""A pytest plugin that writes down what happened, for a process that judges it from outside.

Owns: the file named by HYPERCLUSTER_WITNESS, in JSON: where the package came from, which tests were collected with
which lines of the specification, what did not collect, and how each test ended.
Never: changes an outcome.
Invariants: the file is complete or absent; a test that was stopped by its timeout is told apart from one that failed.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

OUT = "HYPERCLUSTER_WITNESS"
MODULE = "HYPERCLUSTER_WITNESS_MODULE"  # is imported first, and must come from the directory of the run


class Witness:
    def __init__(self, out: Path) -> None:
        self.out = out
        self.content: dict[str, Any] = {"origin": "", "import_error": "", "collected": {}, "errors": [], "reports": []}

    def look_at(self, module: str) -> None:
        try:
            self.content["origin"] = str(importlib.import_module(module).__file__)
        except Exception as error:
            self.content["import_error"] = f"{type(error).__name__}: {error}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.content["errors"].append([report.nodeid, str(report.longrepr)[-2_000:]])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            ids = sorted({name for marker in item.iter_markers("req") for name in marker.args})
            self.content["collected"][item.nodeid] = {"ids": ids, "long": item.get_closest_marker("long") is not None}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report: pytest.TestReport = yield
        words = ""
        if call.excinfo is not None:
            words = f"{call.excinfo.typename}: {call.excinfo.value}".partition("\n")[0][:300]
        self.content["reports"].append([item.nodeid, report.when, report.outcome, words])
        return report

    def pytest_unconfigure(self) -> None:
        written = self.out.with_suffix(".part")
        written.write_text(json.dumps(self.content), encoding="utf-8")
        written.rename(self.out)


def pytest_configure(config: pytest.Config) -> None:
    if out := os.environ.get(OUT):
        witness = Witness(Path(out))
        if module := os.environ.get(MODULE):
            witness.look_at(module)
        config.pluginmanager.register(witness, "hypercluster-witness")
