"""Commands on paths of a workspace against real nodes: attributes, history, base indexes, proofs (WS-61)."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from hypercluster.cli.main import main
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("cli"), 1) as running:
        yield running


class Shell:
    """Runs commands as a person would."""

    def __init__(self, cluster: Cluster) -> None:
        self._config = ("--config", str(cluster.client_file))

    def raw(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        command = [sys.executable, "-m", "hypercluster.cli.main", "workspace", *arguments]
        if arguments[0] != "verify-proof":
            command += self._config
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw(*arguments, "--json").splitlines()]

    def row(self, *arguments: str) -> dict[str, object]:
        (found,) = self.rows(*arguments)
        return found


class Desk(Shell):
    """The same commands in this process, which is quicker by the start of an interpreter each."""

    def raw(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        return self.run("workspace", *arguments, *self._config, stdin=stdin, code=code)

    def run(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        with CliRunner().isolation(stdin) as (out, _, both):
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
            assert ended.value.code == code, (arguments, both.getvalue())
            return both.getvalue() if code else out.getvalue()


@pytest.mark.req("WS-61", "WS-4", "WS-24", "WS-28")
async def test_attributes_history_and_base_indexes(cluster: Cluster) -> None:
    shell = Shell(cluster)

    def work() -> None:
        shell.raw("create", "paths")
        shell.raw("put", "paths", "one", stdin=b"first")
        shell.raw("xattr", "set", "paths", "one", "user.kind", "text")
        shell.raw("xattr", "set", "paths", "one", "user.raw", stdin=b"\x00\xff")
        assert b"EEXIST" in shell.raw("xattr", "set", "paths", "one", "user.raw", "x", "--create", code=1)
        assert b"ENODATA" in shell.raw("xattr", "set", "paths", "one", "user.none", "x", "--replace", code=1)
        assert [row["name"] for row in shell.rows("xattr", "list", "paths", "one")] == ["user.kind", "user.raw"]
        assert shell.raw("xattr", "get", "paths", "one", "user.raw") == b"\x00\xff"
        assert shell.row("xattr", "get", "paths", "one", "user.raw")["base64"] == "AP8="
        shell.raw("xattr", "rm", "paths", "one", "user.raw")
        assert b"ENODATA" in shell.raw("xattr", "get", "paths", "one", "user.raw", code=1)

        seen = str(shell.row("stat", "paths", "one")["content_index"])
        shell.raw("put", "paths", "one", "--base-index", seen, stdin=b"second")
        refused = shell.raw("put", "paths", "one", "--base-index", seen, stdin=b"third", code=1)
        assert b"it has changed since it was read (present index" in refused
        blocks = shell.rows("cat", "paths", "one")
        assert b"".join(base64.b64decode(str(block["base64"])) for block in blocks) == b"second"

        shell.raw("put", "paths", "two", stdin=b"other")
        shell.raw("mv", "paths", "one", "renamed")
        operations = [row["op"] for row in shell.rows("history", "paths", "renamed")]
        assert operations[:2] == ["create", "write"] and operations[-1] == "rename"
        assert operations.count("set_xattr") == 2 and operations.count("remove_xattr") == 1

        done = shell.rows("log", "paths", "-n", "1")[0]
        told = shell.row("intent", f"{done['client']}:{done['seq']}:0")
        assert (told["state"], told["reason"], told["log_index"]) == ("committed", "OK", done["log_index"])
        assert b"may still be" in shell.raw("intent", f"{done['client']}:{int(str(done['seq'])) + 1}:0", code=3)
        shell.raw("intent", "nonsense", code=2)

    await asyncio.to_thread(work)


@pytest.mark.req("WS-61", "WS-35")
async def test_a_proof_of_a_path_holds_without_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(cluster)
    content, file = tmp_path / "content", tmp_path / "it.proof"
    content.write_bytes(bytes(range(256)) * 500)

    def work() -> None:
        shell.raw("create", "proven")
        shell.raw("mkdir", "proven", "docs")
        shell.raw("put", "proven", "docs/one", stdin=content.read_bytes())
        shell.raw("ln", "proven", "one", "docs/link", "-s")
        shell.raw("proof", "proven", "docs/one", "-o", str(file))
        root = str(shell.row("status", "proven")["root"])
        told = json.loads(shell.raw("verify-proof", str(file), "--root", root, "--content", str(content), "--json"))
        assert told["holds"] and told["path"] == "docs/one" and told["inode"]["size"] == 128_000
        index = told["claimed"]["log_index"]
        shell.raw("verify-proof", str(file), "--content", str(file), code=1)
        assert b"ENOENT" in shell.raw("proof", "proven", "docs/two", code=1)
        # A link, a directory and the root have proofs as well.
        for path, kind in (("docs/link", "symlink"), ("docs", "directory"), ("/", "directory")):
            other = tmp_path / "other.proof"
            other.write_bytes(shell.raw("proof", "proven", path, "--index", str(index)))
            assert json.loads(shell.raw("verify-proof", str(other), "--json"))["inode"]["kind"] == kind
        # The file changes: its old proof still holds for the old root, and the old tree can no longer be proven.
        shell.raw("put", "proven", "docs/one", stdin=b"short")
        assert shell.raw("verify-proof", str(file), "--root", root)
        newer = str(shell.row("status", "proven")["root"])
        assert b"another than the one given" in shell.raw("verify-proof", str(file), "--root", newer, code=1)
        assert b"has the Merkle tree of log_index" in shell.raw(
            "proof", "proven", "docs/one", "--index", str(index), code=1
        )
        assert b"PROOF_NAMES_MAX" in shell.raw("proof", "proven", "x/" * 200, code=1)

    await asyncio.to_thread(work)


@pytest.mark.req("WS-61", "WS-28")
async def test_what_is_refused_leaves_nothing_behind(cluster: Cluster) -> None:
    shell = Desk(cluster)

    def work() -> None:
        shell.raw("create", "careful")
        shell.raw("put", "careful", "kept", stdin=b"content")
        before = shell.row("status", "careful")["log_index"]
        for root in ("/", ""):
            assert b"root directory" in shell.raw("rm", "careful", root, "-r", code=1)
        assert b"ENOENT" in shell.raw("put", "careful", "gone", "--base-index", "99", stdin=b"x", code=1)
        for mode in ("-644", "99", "77777", "rw"):
            assert b"not an octal number" in shell.raw("put", "careful", "new", f"--mode={mode}", stdin=b"x", code=2)
        assert b"at most 255" in shell.raw("mkdir", "careful", "x" * 256, code=1)
        assert b"at most 255" in shell.raw("xattr", "set", "careful", "kept", "user." + "x" * 255, "v", code=1)
        assert b"no such reservation" in shell.raw("unreserve", "careful", "3", code=1)
        told = shell.raw("set", "careful", "--local-patterns", "/no/such/file", code=1)
        assert told == b"error: /no/such/file: No such file or directory\n"
        assert b"is not UTF-8" in shell.raw("create", "odd\udcff", code=2)
        assert shell.row("status", "careful")["log_index"] == before

        # The new content is shorter, as long, and longer: nothing of the old is left, and others' changes are seen.
        for content in (b"sh", b"so", b"longer than that"):
            seen = str(shell.row("stat", "careful", "kept")["content_index"])
            shell.raw("put", "careful", "kept", "--base-index", seen, stdin=content)
            assert shell.raw("cat", "careful", "kept") == content
        shell.raw("ln", "careful", "kept", "link", "-s")
        assert b"a symlink to kept" in shell.raw("cat", "careful", "link", code=1)

    await asyncio.to_thread(work)


@pytest.mark.req("D-8", "WS-61", "WS-29")
async def test_the_exit_code_says_whether_a_part_was_done(cluster: Cluster, tmp_path: Path) -> None:
    shell = Desk(cluster)
    nobody = tmp_path / "client.toml"
    nobody.write_text(
        re.sub(r"nodes = \[.*?\]", 'nodes = ["127.0.0.1:9"]', cluster.client_file.read_text(), flags=re.S).replace(
            '= "', f'= "{cluster.client_file.parent}/'
        )
    )

    def work() -> None:
        shell.raw("create", "small")
        shell.raw("set", "small", "--quota-bytes", str(3 << 19))
        content = random.Random(1).randbytes(3 << 20)
        told = shell.raw("put", "small", "new", stdin=content, code=3)
        assert b"EDQUOT" in told and b"(a part of the content was written)" in told
        assert shell.row("stat", "small", "new")["size"] == 1 << 20
        shell.raw("put", "small", "new", "--base-index", "1", stdin=content, code=1)
        shell.raw("set", "small", "--quota-bytes", "0")
        done = shell.row("stat", "small", "new")["content_index"]
        told = shell.raw("put", "small", "new", "--base-index", str(done), "--json", stdin=content)
        assert json.loads(told)["log_index"] == shell.row("stat", "small", "new")["content_index"]

        # What an earlier run sent may be applied, whatever this one is told: never "refused".
        token = f"{bytes(16).hex()}:1:1"
        hub = ("hub", "set", "key", "1", "--config", str(nobody), "--timeout", "0.3")
        assert b"Nothing was written" in shell.run(*hub, code=1)
        again = shell.run("workspace", "mkdir", "small", "d", *hub[4:], "--intent", token, code=3)
        assert b"still not known" in again and f"with --intent {token}".encode() in again

    await asyncio.to_thread(work)


@pytest.mark.req("WS-61")
async def test_an_import_replaces_what_stands_in_the_way_and_names_what_it_must_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    shell = Desk(cluster)
    first, second = tmp_path / "first", tmp_path / "second"
    for top in (first, second):
        top.mkdir()
    (first / "becomes-directory").write_bytes(b"a file")
    (first / "becomes-link").write_bytes(b"a file")
    (first / "becomes-file").symlink_to("elsewhere")
    (first / "empty").mkdir()
    (first / "full").mkdir()
    (first / "full" / "kept").write_bytes(b"kept")
    (first / "one").write_bytes(b"shared")
    (first / "two").hardlink_to(first / "one")
    (second / "becomes-directory").mkdir()
    (second / "becomes-directory" / "inner").write_bytes(b"inner")
    (second / "becomes-link").symlink_to("one")
    (second / "becomes-file").write_bytes(b"a file now")
    (second / "empty").write_bytes(b"a file now")
    (second / "full").write_bytes(b"can not be there")
    (second / "one").write_bytes(b"first of its own")
    (second / "two").write_bytes(b"second of its own")

    def work() -> None:
        shell.raw("import", "ways", str(first))
        told = shell.raw("import", "ways", str(second), "--strict", code=1)
        assert b"skipped full: a directory that is not empty stands there" in told
        for name, content in (("becomes-file", b"a file now"), ("empty", b"a file now"), ("full/kept", b"kept")):
            assert shell.raw("cat", "ways", name) == content
        assert shell.raw("cat", "ways", "becomes-directory/inner") == b"inner"
        assert shell.row("stat", "ways", "becomes-link")["target"] == "one"
        assert shell.raw("cat", "ways", "one") == b"first of its own"
        assert shell.raw("cat", "ways", "two") == b"second of its own"

    await asyncio.to_thread(work)
