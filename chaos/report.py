"""One page of a run: what broke when, how the cluster did meanwhile, and what the checkers say.

Owns: `figures` (what the history amounts to), `plot` and `write_page`.
Never: judges.
Invariants: the page needs nothing from outside it but the plot and logs beside it; a run without matplotlib has its
page, without the plot.
"""

from __future__ import annotations

import html
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.records import INVOKE, Event, Fault, Verdict

BUCKET_S = 1.0


@dataclass(slots=True)
class Figures:
    """`ends` counts (workload, op, kind); the series have one value for each BUCKET_S since `began_ns`."""

    began_ns: int = 0
    seconds: int = 0
    ends: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    series: dict[str, list[int]] = field(default_factory=dict)  # kind -> ends in each bucket
    latencies_ms: list[list[float]] = field(default_factory=list)  # of ok, in each bucket

    @property
    def completed(self) -> int:
        return sum(count for (_, _, kind), count in self.ends.items() if kind in {"ok", "fail"})

    @property
    def unknown(self) -> int:
        return sum(count for (_, _, kind), count in self.ends.items() if kind == "info")


def figures(events: Sequence[Event]) -> Figures:
    found = Figures()
    if not events:
        return found
    found.began_ns = events[0].at_ns
    found.seconds = int((events[-1].at_ns - found.began_ns) / 1e9 / BUCKET_S) + 1
    found.series = {kind: [0] * found.seconds for kind in ("ok", "fail", "info")}
    found.latencies_ms = [[] for _ in range(found.seconds)]
    invoked: dict[str, int] = {}
    for event in events:
        if event.kind == INVOKE:
            invoked[event.process] = event.at_ns
            continue
        bucket = int((event.at_ns - found.began_ns) / 1e9 / BUCKET_S)
        found.ends[event.workload, event.op, event.kind] += 1
        found.series[event.kind][bucket] += 1
        if event.kind == "ok" and event.process in invoked:
            found.latencies_ms[bucket].append((event.at_ns - invoked[event.process]) / 1e6)
    return found


def _spans(faults: Sequence[Fault], began_ns: int, end_s: float) -> list[tuple[str, float, float, str]]:
    """(nemesis, from, to, words) in seconds."""
    open_: dict[str, tuple[float, str]] = {}
    spans = []
    for fault in faults:
        at_s = (fault.at_ns - began_ns) / 1e9
        if fault.phase == "begin":
            open_[fault.nemesis] = (at_s, fault.words)
        elif fault.nemesis in open_:
            from_s, words = open_.pop(fault.nemesis)
            spans.append(
                (fault.nemesis, from_s, at_s, words if fault.phase == "healed" else f"{words} ({fault.words})")
            )
    return spans + [(name, from_s, end_s, f"{words} (never healed)") for name, (from_s, words) in open_.items()]


def plot(found: Figures, faults: Sequence[Fault], path: Path) -> bool:
    """Throughput by outcome, latency, and the faults below them on one time axis. False without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("svg")
        from matplotlib import pyplot
    except ImportError:
        return False
    seconds = list(range(found.seconds))
    spans = _spans(faults, found.began_ns, found.seconds)
    names = sorted({span[0] for span in spans})
    figure, (rate, latency, bands) = pyplot.subplots(
        3, 1, figsize=(12, 7 + 0.2 * len(names)), sharex=True, height_ratios=[3, 2, 1 + 0.25 * len(names)]
    )
    for kind, colour in (("ok", "#2a7"), ("fail", "#88a"), ("info", "#d60")):
        rate.plot(seconds, found.series[kind], label=kind, color=colour, linewidth=1)
    rate.set_ylabel("operations a second")
    rate.legend(loc="upper right")
    for share, label in ((0.5, "p50"), (0.99, "p99")):
        values = [sorted(v)[min(len(v) - 1, int(len(v) * share))] if v else None for v in found.latencies_ms]
        latency.plot(seconds, values, label=label, linewidth=1)
    latency.set_yscale("log")
    latency.set_ylabel("latency, ms")
    latency.legend(loc="upper right")
    for name, from_s, to_s, _ in spans:
        bands.barh(names.index(name), max(0.2, to_s - from_s), left=from_s, height=0.7, color="#c44")
    bands.set_yticks(range(len(names)), names, fontsize=7)
    bands.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return True


def write_page(
    directory: Path, context: Mapping[str, Any], found: Figures, faults: Sequence[Fault], verdicts: Sequence[Verdict]
) -> Path:
    drawn = found.seconds > 0 and plot(found, faults, directory / "timeline.svg")
    ends: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (workload, op, kind), count in found.ends.items():
        ends[workload, op][kind] += count
    parts = [
        "<!doctype html><meta charset=utf-8><title>chaos run</title>",
        "<style>body{font:14px sans-serif;margin:2em;max-width:80em}td,th{padding:2px 10px;text-align:left;"
        "vertical-align:top}.no{color:#b00;font-weight:bold}.unknown{color:#a60}.yes{color:#070}</style>",
        f"<h1>{html.escape(str(context.get('scenario', '')))}, seed {context.get('seed')}</h1>",
        f"<p>{html.escape(json.dumps(context))}</p>",
        f"<p>{found.completed} operations completed, {found.unknown} of unknown outcome, "
        f"{sum(1 for f in faults if f.phase == 'begin')} faults, {found.seconds} s</p>",
        "<h2>Verdicts</h2><table>",
        *[_verdict_row(verdict) for verdict in verdicts],
        "</table>",
        "<h2>Time</h2><img src=timeline.svg alt='operations, latency and faults over time'>" if drawn else "",
        "<h2>Operations</h2><table><tr><th>workload<th>operation<th>ok<th>fail<th>info",
        *[
            f"<tr><td>{html.escape(w)}<td>{html.escape(op)}<td>{c['ok']}<td>{c['fail']}<td>{c['info']}"
            for (w, op), c in sorted(ends.items())
        ],
        "</table><h2>Faults</h2><table><tr><th>from<th>to<th>what<th>whom",
        *[
            f"<tr><td>{from_s:.1f}<td>{to_s:.1f}<td>{html.escape(name)}<td>{html.escape(words)}"
            for name, from_s, to_s, words in _spans(faults, found.began_ns, found.seconds)
        ],
        "</table><h2>Logs</h2><ul>",
        *[f"<li><a href='{name}'>{name}</a>" for name in _logs(directory)],
        "</ul>",
    ]
    page = directory / "report.html"
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def _logs(directory: Path) -> list[str]:
    found = sorted([*directory.glob("*.log"), *directory.glob("**/n*/log")])
    return [html.escape(str(log.relative_to(directory))) for log in found]


def _verdict_row(verdict: Verdict) -> str:
    evidence = "<br>".join(html.escape(line) for line in verdict.evidence)
    return (
        f"<tr><td>{html.escape(verdict.checker)}<td class={verdict.outcome}>{verdict.outcome}"
        f"<td>{html.escape(verdict.words)}<br><small>{evidence}</small>"
    )
