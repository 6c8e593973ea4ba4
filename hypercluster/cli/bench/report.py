"""The figures of a bench run: names, bars, and how they are shown.

Owns: `Figure`, `Report`, the table, the JSON object and the plot. A figure without a bar is reported only.
Never: measuring, or leaving out a row that was lost.
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """`bar` is what the specification asks ('' for none), as text; `ok` None where there is no bar."""

    name: str
    value: float
    unit: str
    bar: str = ""
    ok: bool | None = None


def at_least(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name, value, unit, f">= {bar:g}", value >= bar)


def at_most(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name, value, unit, f"<= {bar:g}", value <= bar)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured run. `system` is hypercluster or etcd; latencies in milliseconds."""

    workload: str
    system: str
    ops_s: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    note: str = ""


@dataclass(slots=True)
class Report:
    """`context` says what the figures depend on: cores, disk, versions."""

    context: dict[str, object] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def all_ok(self) -> bool:
        return all(f.ok is not False for f in self.figures)

    def as_json(self) -> str:
        return json.dumps(
            {
                "context": self.context,
                "figures": [asdict(f) for f in self.figures],
                "rows": [asdict(r) for r in self.rows],
                "notes": self.notes,
            },
            indent=2,
        )

    def show(self, console: Console) -> None:
        rows = Table("WORKLOAD", "SYSTEM", "OPS/S", "P50 ms", "P99 ms", "ERRORS", "NOTE")
        for row in self.rows:
            rows.add_row(
                row.workload, row.system, f"{row.ops_s:,.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}",
                str(row.errors), row.note,
            )  # fmt: skip
        console.print(rows)
        figures = Table("FIGURE", "VALUE", "UNIT", "BAR", "")
        for figure in self.figures:
            verdict = "" if figure.ok is None else "ok" if figure.ok else "MISSED"
            figures.add_row(figure.name, f"{figure.value:,.3g}", figure.unit, figure.bar, verdict)
        console.print(figures)
        for note in self.notes:
            console.print(note)

    def write(self, path: pathlib.Path) -> None:
        """The JSON object at `path`, and a plot beside it where matplotlib is installed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_json() + "\n", encoding="utf-8")
        plot(self.rows, path.with_suffix(".svg"))


def plot(rows: list[Row], path: pathlib.Path) -> bool:
    """Throughput and p99 of every workload, the systems side by side. False when matplotlib is missing."""
    try:
        import matplotlib as mpl

        mpl.use("svg")
        from matplotlib import pyplot
    except ImportError:
        return False
    workloads = list(dict.fromkeys(r.workload for r in rows))
    systems = list(dict.fromkeys(r.system for r in rows))
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 0.6 * len(workloads) + 2), sharey=True)
    for number, system in enumerate(systems):
        mine = {r.workload: r for r in rows if r.system == system}
        places = [i + 0.8 * (number / len(systems)) for i, w in enumerate(workloads) if w in mine]
        found = [mine[w] for w in workloads if w in mine]
        axes[0].barh(places, [r.ops_s for r in found], height=0.8 / len(systems), label=system)
        axes[1].barh(places, [r.p99_ms for r in found], height=0.8 / len(systems), label=system)
    axes[0].set_yticks([i + 0.3 for i in range(len(workloads))], workloads)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("operations a second")
    axes[1].set_xlabel("p99, ms")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return True
