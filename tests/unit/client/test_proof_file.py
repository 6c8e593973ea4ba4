"""Proof files: what holds, what is noticed, and what a root does not cover (WS-35).

HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from hypercluster.cli.main import main
from hypercluster.client.proof_file import ProofFile, ProvenExtent, decode
from hypercluster.errors import MalformedError
from hypercluster.limits import CHUNK_BYTES_MAX, PROOF_NAMES_MAX
from hypercluster.state_machine.workspace.content import content_digest
from hypercluster.state_machine.workspace.proof_trees import ProofTrees
from hypercluster.state_machine.workspace.proofs import LeafProof, prove_path
from hypercluster.state_machine.workspace.queries import list_extents
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

SEED = int(os.environ.get("HYPERCLUSTER_SEED", "11"))
NAMES = (b"docs", b"caf\xc3\xa9", b"\xff.bin")


class Tree:
    """A site with a file that has a whole chunk, a part of one, a hole and an inline end; and a symlink."""

    def __init__(self) -> None:
        self.site = Site()
        self.site.found()
        above = self.site.directory(NAMES[0])
        below = self.site.directory(NAMES[1], above)
        for number in range(40):
            self.site.file(b"other %d" % number, below)
        self.file = self.site.file(NAMES[2], below)
        draw = random.Random(SEED)
        chunk = draw.randbytes(CHUNK_BYTES_MAX)
        self.site.done(ops.chunk_put(chunk))
        name = blake3(chunk).digest()
        self.site.done(ops.write_pieces(self.file, 0, [(name, 0, CHUNK_BYTES_MAX)]))
        self.site.done(ops.write(self.file, 1_000, b"in the middle"))
        self.site.done(ops.write(self.file, 200_000, b"behind a hole"))
        self.site.done(ops.truncate(self.file, 210_000))
        self.site.done(ops.symlink(above, b"link", b"caf\xc3\xa9"))

    def prove(self, names: tuple[bytes, ...]) -> ProofFile:
        site = self.site
        tree = ProofTrees().open(site.store, site.workspace_id)
        assert tree is not None
        proof = prove_path(site.store, tree, site.workspace_id, names)
        assert proof is not None
        return ProofFile(site.workspace_id, site.header.log_index, site.header.root, names, proof)

    def proof(self) -> ProofFile:
        extents = list_extents(self.site.store, self.site.workspace_id, self.file, 0, 100).extents
        proven = []
        for extent in extents:
            chunk = self.site.chunks[extent.chunk_hash]
            end = extent.chunk_offset + extent.length
            proven.append(ProvenExtent(extent, chunk[: extent.chunk_offset], chunk[end:]))
        assert len(proven) == 4 and any(found.before for found in proven)
        return replace(self.prove(NAMES), extents=tuple(proven))

    def content(self) -> bytes:
        return self.site.content(self.file)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree()


@pytest.mark.req("WS-35")
def test_a_proof_file_says_what_it_was_made_of(tree: Tree) -> None:
    made = tree.proof()
    found = decode(made.encode())
    assert found == made
    inode = found.verify()
    assert inode is not None and inode.inode_id == tree.file
    assert (inode.size, inode.content_digest) == (210_000, tree.site.inode(tree.file).content_digest)
    assert found.verify_content(inode, tree.content()) == ""


@pytest.mark.req("WS-35")
def test_content_that_is_not_the_proven_one_is_told(tree: Tree) -> None:
    found = tree.proof()
    inode = found.verify()
    assert inode is not None
    content = bytearray(tree.content())
    for at in (0, 999, 1_000, 1_013, 65_535, 65_536, 150_000, 200_000, 200_013, 209_999):
        changed = bytearray(content)
        changed[at] ^= 0x41
        assert found.verify_content(inode, bytes(changed)), at
    assert "bytes" in found.verify_content(inode, bytes(content) + b"\0")
    assert "bytes" in found.verify_content(inode, bytes(content[:-1]))
    assert found.extents is not None
    short = replace(found, extents=found.extents[:-1])
    assert "extents" in short.verify_content(inode, bytes(content))
    swapped = replace(found, extents=found.extents[::-1])
    assert "extents" in swapped.verify_content(inode, bytes(content))
    assert "can not be checked" in replace(found, extents=None).verify_content(inode, bytes(content))


@pytest.mark.req("WS-35")
def test_a_flipped_byte_anywhere_in_the_file_is_noticed(tree: Tree) -> None:
    text = tree.prove(NAMES).encode()
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    for at in range(len(text)):
        flipped = text[:at] + bytes([text[at] ^ (1 << draw.randrange(8))]) + text[at + 1 :]
        with pytest.raises(MalformedError):
            decode(flipped)
    for at in range(0, len(text), 97):
        with pytest.raises(MalformedError):
            decode(text[:at])
    with pytest.raises(MalformedError):
        decode(text + b"\n")


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key in value for found in _leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in _leaves(item, (*path, at))]
    return [path]


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, int):
        return value + 1
    at = draw.randrange(len(value))
    digit = draw.choice([c for c in "0123456789abcdef" if c != value[at]])
    return value[:at] + digit + value[at + 1 :]


@pytest.mark.req("WS-35")
def test_who_changes_a_value_and_the_checksum_too_proves_nothing_else(tree: Tree) -> None:
    """The checksum is for accidents. Against intent stand the hashes: every value but the two claims is under them."""
    made = tree.proof()
    text = made.encode()
    proven = made.verify()
    draw = random.Random(SEED)
    content = tree.content()
    assert proven is not None
    claims = 0
    for path in _leaves(json.loads(text)):
        body = json.loads(text)
        where = body
        for step in path[:-1]:
            where = where[step]
        where[path[-1]] = _changed(where[path[-1]], draw)
        del body["checksum"]
        body["checksum"] = blake3(json.dumps(body, ensure_ascii=True, indent=1).encode()).hexdigest()
        try:
            found = decode((json.dumps(body, ensure_ascii=True, indent=1) + "\n").encode())
        except MalformedError:
            continue
        inode = found.verify()
        if path[0] in {"workspace_id", "log_index"}:
            claims += 1
            assert inode == proven and (found.root, found.names) == (made.root, made.names)
        elif path[0] == "extents":
            assert inode == proven
            assert found.verify_content(proven, content), path
        elif path[0] != "checksum":
            assert inode is None, path
    assert claims == 2


@pytest.mark.req("WS-35")
def test_a_symlinks_target_is_covered(tree: Tree) -> None:
    made = replace(tree.prove((b"docs", b"link")), target=b"caf\xc3\xa9")
    found = decode(made.encode()).verify()
    assert found is not None and found.target == b"caf\xc3\xa9"
    assert replace(made, target=b"elsewhere").verify() is None
    assert replace(tree.proof(), target=b"caf\xc3\xa9").verify() is None


@pytest.mark.req("WS-35")
@pytest.mark.parametrize(
    "change",
    [
        {"format": "hypercluster-proof/2"},
        {"log_index": -1},
        {"log_index": True},
        {"log_index": 1 << 64},
        {"root": "zz"},
        {"path": [{"hex": "f"}]},
        {"path": ["x"] * (PROOF_NAMES_MAX + 1)},
        {"entries": {}},
        {"inode": []},
        {"extents": [{"offset": 0, "length": 1 << 20, "chunk": "00" * 32, "chunk_offset": 0}]},
        {"extents": [{"offset": 1.5, "length": 1, "chunk": "00" * 32, "chunk_offset": 0}]},
        {"unknown": 1},
    ],
)
def test_a_file_of_another_form_is_refused(tree: Tree, change: dict[str, Any]) -> None:
    body = json.loads(tree.prove(NAMES).encode())
    del body["checksum"]
    body |= change
    body["checksum"] = blake3(json.dumps(body, ensure_ascii=True, indent=1).encode()).hexdigest()
    with pytest.raises(MalformedError):
        decode((json.dumps(body, ensure_ascii=True, indent=1) + "\n").encode())


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"format":"hypercluster-proof/1"}'])
def test_any_bytes_are_answered(text: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(text)


@pytest.mark.req("WS-35", "WS-13")
def test_the_digest_of_extents_alone_is_the_one_the_tree_has() -> None:
    """Also of files whose extents stand in pages, and whatever edits they came from."""
    site = Site(seed=SEED)
    site.found()
    draw = random.Random(SEED)
    inode_id = site.file(b"f")
    for number in range(260):
        site.done(ops.write(inode_id, draw.randrange(40) * 20_000 + draw.randrange(50), b"%d" % number))
        if number % 20 == 0:
            inode = site.inode(inode_id)
            extents = list(list_extents(site.store, site.workspace_id, inode_id, 0, 10_000).extents)
            assert content_digest(inode.size, extents) == inode.content_digest, f"seed {SEED}, {number}"
    assert len(extents) > 64
    assert content_digest(0, []) == bytes(32)


@pytest.mark.req("WS-35")
def test_kept_subtrees_give_the_same_proofs_as_none() -> None:
    site = Site()
    site.found()
    trees = ProofTrees()
    directory = site.directory(b"d")
    for start in range(0, 400, 50):
        site.entry(*[ops.create(directory, b"f%d" % number) for number in range(start, start + 50)])
    draw = random.Random(SEED)
    for _ in range(60):
        name = b"f%d" % draw.randrange(400)
        site.entry(ops.chmod(site.inode(directory).inode_id, draw.choice([0o700, 0o750])))
        kept, fresh = trees.open(site.store, site.workspace_id), ProofTrees().open(site.store, site.workspace_id)
        assert kept is not None and fresh is not None
        proof = prove_path(site.store, kept, site.workspace_id, [b"d", name])
        assert proof == prove_path(site.store, fresh, site.workspace_id, [b"d", name])
        assert proof is not None and isinstance(proof.inode, LeafProof)
    assert ProofTrees().open(site.store, bytes(16)) is None


@pytest.mark.req("WS-35", "WS-61")
def test_the_command_verifies_without_a_cluster(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYPERCLUSTER_CLIENT", raising=False)
    made = tree.proof()
    file, content = tmp_path / "it.proof", tmp_path / "content"
    file.write_bytes(made.encode())
    content.write_bytes(tree.content())

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["workspace", "verify-proof", str(file), *arguments])
        return int(ended.value.code or 0)

    assert run("--root", made.root.hex(), "--content", str(content)) == 0
    words = capsys.readouterr().out
    assert "docs/café/\\xff.bin is a file" in words and "exactly its content" in words
    assert run("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["inode"]["size"], told["root_given"]) == (True, 210_000, False)
    content.write_bytes(tree.content()[:-1] + b"x")
    assert run("--content", str(content)) == 1
    assert "is not the proven content" in capsys.readouterr().err
    assert run("--root", "00" * 32) == 1
    assert "another than the one given" in capsys.readouterr().err
    assert run("--root", "00") == 2
    file.write_bytes(made.encode().replace(b'"log_index": ', b'"log_index": 1'))
    assert run() == 1
    assert "checksum" in capsys.readouterr().err
