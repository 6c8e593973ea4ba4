"""The members of real processes, changed by an operator's commands: one step at a time, by admins only (QUO-1)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from hypercluster.client.stubs import cluster_service
from hypercluster.pb.v1 import cluster_pb2
from tests.integration.cluster import Cluster
from tests.integration.operating import command
from tests.integration.test_three_nodes import reason_of, write_until_acknowledged


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as running:
        await running.all_applied(1, 20)
        yield running


@pytest.mark.req("QUO-1", "SEC-2", "CL-15")
async def test_members_change_one_step_at_a_time_and_for_admins_only(cluster: Cluster) -> None:
    leader = await cluster.leader()
    stub = cluster_service(cluster.channel(leader))  # of a client that is in no list
    removal = cluster_pb2.RemoveMemberRequest(node_id="n2", incarnation=bytes(16))
    addition = cluster_pb2.AddMemberRequest(node_id="n9", incarnation=bytes(16), peer_address="h:1")
    for refused in (
        stub.RemoveMember(removal, timeout=5),
        stub.PromoteMember(cluster_pb2.PromoteMemberRequest(node_id="n2", incarnation=bytes(16)), timeout=5),
        stub.AddMember(addition, timeout=5),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await refused
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
        assert "access.admins" in (error.value.details() or "")

    config = ("--config", cluster.client_file)
    add = ("member", "add", "n9", "--address", "127.0.0.1:9", "--incarnation")
    life = "ab" * 16
    code, said = await command(
        "member", "add", "n9", "--incarnation", life, "--address", "127.0.0.1:9", "--json", *config
    )
    assert code == 0, said
    listed = {one["node"]: one for one in json.loads(said)["members"]}
    assert (listed["n9"]["suffrage"], listed["n9"]["connected"], listed["n9"]["promote"]) == ("learner", False, False)
    code, again = await command(
        "member", "add", "n9", "--incarnation", life, "--address", "127.0.0.1:9", "--json", *config
    )
    assert code == 0 and json.loads(again)["index"] == json.loads(said)["index"], "it holds already"
    code, said = await command(*add, "cd" * 16, *config)
    assert code == 1 and "remove that one first" in said
    code, said = await command("member", "promote", "n9", *config)
    assert code == 1 and "caught up" in said
    code, said = await command("member", "promote", "n8", *config)
    assert code == 1 and "n8 is no member" in said
    code, said = await command("member", "remove", "n9", *config)
    assert code == 0 and "n9" not in said
    code, said = await command("member", "list", *config)
    assert code == 0 and said.startswith("3 voters (configured 3)   2 make a majority   leader"), said
    assert said.count(" connected") == 3

    # A leader that is removed hands over, and the two that stay are the least there may be.
    code, said = await command("member", "remove", leader, *config)
    assert code == 0, said
    assert await cluster.leader(other_than=leader)
    await write_until_acknowledged(cluster, 1, 1, "a", '"1"')
    code, said = await command("member", "remove", await cluster.leader(other_than=leader), *config)
    assert code == 1 and "2 are needed" in said
