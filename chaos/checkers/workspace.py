"""Workspaces in the end: one log, one root, one tree, on every node (WS-1, WS-21, WS-31, WS-35, CL-17).

Owns: the verdict `workspace`, over the final state alone.
Invariants: log_index counts up by one from 1; Raft indexes never fall along it; each operation can follow those before
it (tree_model.py); the tree that comes of it is the tree of every node, byte for byte as far as the log tells bytes;
all nodes have the root of the last record; nodes at one applied index have one digest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from chaos.checkers.final import FinalError, Workspace, nodes, problems, workspaces
from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.tree_model import RECORD_BYTES, Node, TreeModel
from chaos.records import Verdict
from chaos.seams import Finished


class WorkspaceChecker:
    name = "workspace"
    workloads: frozenset[str] = frozenset()

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            found, status = workspaces(run), nodes(run)
        except FinalError as error:
            return cannot_judge(self.name, str(error))
        if found is None or status is None:
            return cannot_judge(self.name, "the final state of the workspaces or the nodes is lacking")
        for words in problems(run):
            findings.unsure(f"the observer: {words}")
        judged = _judge_digests(status, findings)
        if any(event.workload == "files" for event in run.events):
            judged = 0  # with files there must be logs to judge
        for workspace in found:
            if workspace.log is None:
                findings.unsure(f"the log of {workspace.name} is lacking")
                continue
            judged += len(workspace.log)
            _judge_log(workspace, findings)
            _judge_roots(workspace, set(status), findings)
            _judge_trees(workspace, set(status), findings)
        findings.count("workspaces", len(found))
        return findings.verdict("digests, logs, roots and trees are the same on every node", judged)


def _judge_digests(status: Mapping[str, Any], findings: Findings) -> int:
    """How many digests there were."""
    by_index: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for node, view in status.items():
        if "digest" not in view or "applied_index" not in view:
            findings.unsure(f"the digest of {node} is lacking: {view.get('problem', '')}")
            continue
        by_index[view["applied_index"]][view["digest"]].append(node)
    if len(by_index) > 1:
        findings.unsure(f"nodes stand at different indexes: {sorted(by_index)}")
    for index, digests in by_index.items():
        findings.count("nodes with one digest", max(len(there) for there in digests.values()))
        if len(digests) > 1:
            shown = "; ".join(f"{', '.join(there)}: {digest[:16]}" for digest, there in sorted(digests.items()))
            findings.wrong(f"digests differ at index {index}: {shown}")
    return sum(len(there) for digests in by_index.values() for there in digests.values())


def _judge_log(workspace: Workspace, findings: Findings) -> None:
    raft_index = 0
    for number, line in enumerate(workspace.log or (), 1):
        if line.log_index != number:
            findings.wrong(f"{workspace.name}: log_index {line.log_index} where {number} should stand")
            return
        if line.raft_index is not None:
            if line.raft_index < raft_index:
                findings.wrong(
                    f"{workspace.name}: log_index {number} at Raft index {line.raft_index} after {raft_index}"
                )
            raft_index = line.raft_index


def _judge_roots(workspace: Workspace, everywhere: set[str], findings: Findings) -> None:
    if set(workspace.roots) != everywhere:
        findings.unsure(f"{workspace.name}: the root is known of {sorted(workspace.roots)} only")
    expected = workspace.log[-1].root if workspace.log else ""
    for node, root in sorted(workspace.roots.items()):
        if expected and root != expected:
            findings.wrong(f"{workspace.name}: root {root[:16]} on {node}, the log ends with {expected[:16]}")
    if len(set(workspace.roots.values())) > 1:
        findings.wrong(f"{workspace.name}: roots differ: {dict(workspace.roots)}")


def _judge_trees(workspace: Workspace, everywhere: set[str], findings: Findings) -> None:
    if set(workspace.trees) != everywhere:
        findings.unsure(f"{workspace.name}: the tree is known of {sorted(workspace.trees)} only")
    model = TreeModel()
    for line in workspace.log or ():
        try:
            model.apply(line.line)
        except (KeyError, TypeError, ValueError) as error:
            findings.unsure(f"{workspace.name}: log_index {line.log_index} lacks something: {error!r}")
            return
    for words in model.wrong:
        findings.wrong(f"{workspace.name}: {words}")
    expected = model.paths()
    first: tuple[str, Mapping[str, Any]] | None = None
    for node, tree in sorted(workspace.trees.items()):
        _compare(f"{workspace.name} on {node}", expected, tree, findings)
        if first is not None and tree != first[1]:
            path = next(p for p in sorted({*tree, *first[1]}) if tree.get(p) != first[1].get(p))
            findings.wrong(f"{workspace.name}: {path} is another on {node} than on {first[0]}: {tree.get(path)}")
        first = first or (node, tree)
    findings.count("paths", len(expected))
    _compare_records(workspace, expected, findings)


def _compare(where: str, expected: Mapping[str, tuple[str, Node]], tree: Mapping[str, Any], findings: Findings) -> None:
    for path in sorted(expected.keys() - tree.keys()):
        findings.wrong(f"{where}: {path} is not there, the log says that it is")
    for path in sorted(tree.keys() - expected.keys()):
        findings.wrong(f"{where}: {path} is there, the log says that it is not")
    for path in sorted(expected.keys() & tree.keys()):
        inode, node = expected[path]
        there = tree[path]
        wanted: dict[str, Any] = {"kind": node.kind, "inode": inode}
        if node.kind == "file":
            wanted |= {"nlink": node.links} | ({} if node.size is None else {"size": node.size})
        differs = {name: there.get(name) for name, value in wanted.items() if there.get(name) != value}
        if differs:
            findings.wrong(f"{where}: {path} has {differs}, the log says {wanted}")


def _compare_records(workspace: Workspace, expected: Mapping[str, tuple[str, Node]], findings: Findings) -> None:
    if workspace.files is None:
        findings.unsure(f"{workspace.name}: the content of its files is lacking")
        return
    known = compared = 0
    for path, (_, node) in expected.items():
        there = (workspace.files.get(path) or {}).get("records")
        if node.kind != "file" or node.records is None or node.size is None:
            continue
        wanted = [node.records.get(at, "") for at in range(0, node.size, RECORD_BYTES)]
        if "" in wanted:
            continue  # a hole: there are no such writes in the workloads
        known += 1
        if there is None:
            continue
        compared += 1
        if there != wanted:
            at = next((n for n, (a, b) in enumerate(zip(there, wanted, strict=False)) if a != b), len(wanted))
            findings.wrong(f"{workspace.name}: {path} differs from the log at record {at}: {there[at : at + 1]}")
    findings.count("files compared", compared)
    if known and not compared:
        findings.unsure(f"{workspace.name}: no file could be compared with the log, of {known} whose records it tells")
