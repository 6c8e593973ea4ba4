"""Metrics, percentiles, logs and the admin listener."""

from __future__ import annotations

import asyncio
import json
import logging
import pathlib
import random
import re

import pytest

import hypercluster
from hypercluster.telemetry.admin import REQUEST_BYTES_MAX, AdminListener, Page, text_page
from hypercluster.telemetry.logs import JsonFormatter
from hypercluster.telemetry.metrics import Metrics
from hypercluster.telemetry.percentiles import Percentiles


@pytest.mark.req("OBS-1")
def test_metric_names_stand_in_one_file_and_follow_the_rules() -> None:
    page = Metrics().page().decode()
    names = set(re.findall(r"^# TYPE (\S+) ", page, re.M))
    verbatim = {
        "batch_size", "batch_bytes", "batch_latency_ms", "forced_flush_count_total", "rate_limit_rejections_total",
        "intent_rate",
    }  # fmt: skip
    assert verbatim <= names
    for name in names - verbatim - {f"{n.removesuffix('_total')}_created" for n in names}:
        assert name.startswith(("hypercluster_", *[v.removesuffix("_total") for v in verbatim])), name
    package = pathlib.Path(hypercluster.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "metrics.py":
            assert "from prometheus_client import" not in file.read_text(encoding="utf-8"), file


def test_two_nodes_of_one_process_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.entries_applied.inc()
    assert "hypercluster_entries_applied_total 1.0" in first.page().decode()
    assert "hypercluster_entries_applied_total 0.0" in second.page().decode()


def test_percentiles_are_exact_over_the_window() -> None:
    rng = random.Random(7)
    times = Percentiles(window_s=60, samples_max=1_000)
    values = [rng.randrange(1, 10_000) for _ in range(500)]
    times.add(0.0, 999_999)
    for value in values:
        times.add(100.0, value)
    ordered = sorted(values)
    assert times.read(101.0, 50, 99) == [ordered[250], ordered[495]]
    assert times.read(500.0, 50) == [0]
    for _ in range(3_000):
        times.add(600.0, 5)
    assert times.read(600.0, 1, 100) == [5, 5]


@pytest.mark.req("OBS-2")
def test_log_lines_are_json_with_their_fields() -> None:
    formatter = JsonFormatter("n1")
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "it %s", ("happened",), None)
    record.fields = {"index": 7, "level": "spoof"}
    line = json.loads(formatter.format(record))
    assert (line["event"], line["node"], line["index"], line["level"]) == ("it happened", "n1", 7, "warning")
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: why" in json.loads(formatter.format(record))["exception"]


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def broken() -> Page:
    raise RuntimeError("secret")


@pytest.mark.req("OBS-2")
async def test_the_admin_listener_serves_pages_and_survives_nonsense() -> None:
    listener = AdminListener({"/health": lambda: text_page(200, "ok\n"), "/broken": broken})
    port = await listener.start("127.0.0.1", 0)
    try:
        assert await ask(port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"ok\n")
        assert await ask(port, b"HEAD /health HTTP/1.1\r\n\r\n") == (200, b"")
        assert (await ask(port, b"GET /health?x=1 HTTP/1.0\r\n\r\n"))[0] == 200
        assert (await ask(port, b"GET /nothing HTTP/1.1\r\n\r\n"))[0] == 404
        assert (await ask(port, b"POST /health HTTP/1.1\r\n\r\n"))[0] == 405
        assert (await ask(port, b"\x16\x03\x01 tls\r\n\r\n"))[0] == 400
        status, body = await ask(port, b"GET /broken HTTP/1.1\r\n\r\n")
        assert status == 500 and b"secret" not in body
        assert (await ask(port, b"GET /" + b"a" * (2 * REQUEST_BYTES_MAX) + b" HTTP/1.1\r\n\r\n"))[0] == 400
        assert await ask(port, b"GET /health HTTP/1.1\r\n\r\n") == (200, b"ok\n")
    finally:
        await listener.stop()
