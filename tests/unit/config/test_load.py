"""One configuration file: defaults, order of sources, and every mistake at once (OPS-1, CL-14)."""

from __future__ import annotations

import dataclasses

import pytest

from hypercluster.config import Config, ConfigError, load, why_not_voters
from hypercluster.config.settings import RANGES, SECTIONS

GOOD = """
[node]
id = "n1"
data = "data"

[listen]
client = "10.0.0.1:7801"
peer = "10.0.0.1:7802"

[tls]
ca = "ca.pem"
cert = "node.pem"
key = "node.key"
"""


def mistakes(text: str, environment: dict[str, str] | None = None, flags: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        load(text, "node.toml", environment or {}, flags or {})
    return [f"{m.line}: {m.text}" for m in wrong.value.mistakes]


@pytest.mark.req("OPS-1")
def test_defaults_file_environment_flags_in_that_order() -> None:
    assert load(GOOD, "f", {}, {}).rate.ops_per_s == Config().rate.ops_per_s == 500
    with_file = GOOD + "[rate]\nops_per_s = 600\n"
    assert load(with_file, "f", {}, {}).rate.ops_per_s == 600
    environment = {"HYPERCLUSTER_RATE_OPS_PER_S": "700", "HYPERCLUSTER_ACCESS_OPERATORS": "alice, bob"}
    from_environment = load(with_file, "f", environment, {})
    assert from_environment.rate.ops_per_s == 700
    assert from_environment.access.operators == ("alice", "bob")
    assert load(with_file, "f", environment, {"rate.ops_per_s": "800"}).rate.ops_per_s == 800


@pytest.mark.req("OPS-1")
def test_all_mistakes_come_at_once_each_with_its_line() -> None:
    text = (
        GOOD.replace('"n1"', '"N1"')
        + """
[raft]
heartbeat_ms = 50
election_min_ms = 80
electoin_max_ms = 900

[cluster]
voters = 4

[batch]
ops_max = "many"
bytes_max = 99999999

[colour]
x = 1
"""
    )
    found = mistakes(text)
    assert found == [
        '3: node.id "N1": needed, 1 to 63 of a-z, 0-9 and -, like "n1"',
        "17: raft.election_min_ms 80: must be more than 3 × raft.heartbeat_ms (50), so 151 or more",
        "18: raft.electoin_max_ms: no such setting; did you mean raft.election_max_ms?",
        f"21: cluster.voters 4: {why_not_voters(4)}",
        '24: batch.ops_max "many": expected a whole number',
        "25: batch.bytes_max 99999999: must be 1024 to 1048576",
        "27: colour: no such section; did you mean cluster?",
    ]


def test_the_report_reads_as_a_person_would_want_it() -> None:
    with pytest.raises(ConfigError) as wrong:
        load(GOOD + "[cluster]\nvoters = 2\n", "node.toml", {"HYPERCLUSTER_RATE_OPS_PER_S": "x"}, {})
    lines = str(wrong.value).splitlines()
    assert lines[0] == "node.toml: 2 mistakes"
    assert lines[1].startswith("  line 15    cluster.voters 2: ")
    assert lines[2] == '  not in it  rate.ops_per_s "x": expected a whole number'


@pytest.mark.req("CL-14")
@pytest.mark.parametrize("voters", [1, 3, 5, 7])
def test_these_numbers_of_voters_are_accepted(voters: int) -> None:
    assert load(f"{GOOD}[cluster]\nvoters = {voters}\n", "f", {}, {}).cluster.voters == voters


@pytest.mark.req("CL-14")
@pytest.mark.parametrize(
    ("voters", "why"),
    [(-3, "use 3, 5 or 7"), (2, "loss of 0"), (4, "loss of 1, no more than 3"), (6, "loss of 2"), (9, "more disks")],
)
def test_other_numbers_of_voters_are_refused_with_the_reason(voters: int, why: str) -> None:
    assert why in mistakes(f"{GOOD}[cluster]\nvoters = {voters}\n")[0]
    assert why in why_not_voters(voters)


@pytest.mark.req("SEC-5")
def test_no_listener_without_tls_and_no_public_admin_listener() -> None:
    without = GOOD.split("[tls]", maxsplit=1)[0]
    found = mistakes(without)
    assert found[0].startswith('7: listen.client "10.0.0.1:7801": a public address needs tls.ca, tls.cert, tls.key')
    assert found[1].startswith('8: listen.peer "10.0.0.1:7802": a public address')
    assert "loopback" in mistakes(GOOD.replace("peer =", 'admin = "0.0.0.0:7803"\npeer ='))[0]
    assert "host:port" in mistakes(GOOD.replace("10.0.0.1:7801", "10.0.0.1:99999"))[0]
    assert load(GOOD.replace("10.0.0.1", "[::1]"), "f", {}, {}).listen.client == "[::1]:7801"


def test_text_that_is_no_toml_names_its_line() -> None:
    assert mistakes("[node]\nid = \n")[0].startswith("2: this is not TOML")


def test_every_number_has_a_range_that_holds_its_default() -> None:
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            value = getattr(kind(), field.name)
            name = f"{section}.{field.name}"
            if isinstance(value, int) and not isinstance(value, bool) and name != "cluster.voters":
                lowest, highest = RANGES[name]
                assert lowest <= value <= highest, name
    assert all(hasattr(SECTIONS[n.split(".")[0]](), n.split(".")[1]) for n in RANGES)
