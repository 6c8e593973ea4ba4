"""What `hypercluster status` says of workers that can not go on (WS-5)."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hypercluster.cli.status import add_up, as_dict, show
from hypercluster.pb.v1.cluster_pb2 import NodeStatus, PeerInfo


@pytest.mark.req("WS-5")
def test_a_worker_that_stopped_is_a_line_of_the_status() -> None:
    peers = [PeerInfo(node_id="n1", client_address="h:1", suffrage="voter", connected=True)]
    problem = "builder (77777777) stopped: log_index 7, errno 28: no room [left]"
    said = NodeStatus(
        node_id="n1", role="leader", leader="n1", term=3, peers=peers, workers_connected=2, worker_problems=[problem]
    )
    overview = add_up({"h:1": said}, {})
    out = io.StringIO()
    show(overview, Console(file=out, width=200))
    assert f"worker {problem}" in out.getvalue().splitlines()
    (node,) = as_dict(overview)["nodes"]
    assert node["workers_connected"] == 2 and node["worker_problems"] == [problem]
