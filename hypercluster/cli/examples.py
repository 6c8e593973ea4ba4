"""A call or two of each command, as its `--help` shows them (OPS-2).

Owns: the examples, and how they get into a command's help.
Never: explains; the command's own words do.
Invariant: every command of the list has one, and each of them can be typed (tests/unit/cli/test_examples.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import click

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "dev": ("dev", "dev --nodes 1 --data ./small --port-base 9001"),
    "status": ("status", "status --json --config prod/client.toml"),
    "workspace cat": ("workspace cat demo src/main.c",),
    "workspace create": ("workspace create demo --local-defaults",),
    "workspace export": ("workspace export demo ./copy",),
    "workspace hazards": ("workspace hazards demo --follow",),
    "workspace history": ("workspace history demo notes.txt",),
    "workspace import": ("workspace import demo ./src", "workspace import demo ./src --strict --json"),
    "workspace intent": ("workspace intent 0f2e8c5d1b7a49638f0e1d2c3b4a5968:3:412",),
    "workspace list": ("workspace list",),
    "workspace ln": ("workspace ln demo notes.txt same-file.txt", "workspace ln -s demo ../notes.txt docs/link"),
    "workspace lock list": ("workspace lock list demo",),
    "workspace lock run": (
        "workspace lock run demo notes.txt -- ./rewrite.sh notes.txt",
        "workspace lock run --wait 60 demo name:deploy -- make deploy",
    ),
    "workspace lock why": ("workspace lock why demo notes.txt", "workspace lock why demo name:deploy"),
    "workspace log": ("workspace log demo -n 50", "workspace log demo -f --json"),
    "workspace ls": ("workspace ls demo", "workspace ls -l demo src"),
    "workspace mkdir": ("workspace mkdir demo docs",),
    "workspace mv": ("workspace mv demo draft.txt notes.txt --no-replace",),
    "workspace proof": ("workspace proof demo notes.txt --out notes.proof",),
    "workspace put": (
        "workspace put demo notes.txt < notes.txt",
        "workspace put demo notes.txt --base-index 41 < notes.txt",
    ),
    "workspace reservations": ("workspace reservations demo",),
    "workspace reserve": ("workspace reserve demo 'src/parser/**' --for 1800",),
    "workspace rm": ("workspace rm demo notes.txt", "workspace rm -r demo build"),
    "workspace set": ("workspace set demo --quota-bytes 1000000000", "workspace set demo --local-defaults"),
    "workspace snapshot list": ("workspace snapshot list demo",),
    "workspace snapshot take": ("workspace snapshot take demo",),
    "workspace snapshot verify": ("workspace snapshot verify demo",),
    "workspace stat": ("workspace stat demo notes.txt --json",),
    "workspace status": ("workspace status demo",),
    "workspace unreserve": ("workspace unreserve demo 1795180695371020452",),
    "workspace verify": ("workspace verify demo",),
    "workspace verify-proof": ("workspace verify-proof notes.proof --content notes.txt",),
    "workspace workers": ("workspace workers demo",),
    "workspace xattr get": ("workspace xattr get demo notes.txt user.kind",),
    "workspace xattr list": ("workspace xattr list demo notes.txt",),
    "workspace xattr rm": ("workspace xattr rm demo notes.txt user.kind",),
    "workspace xattr set": ("workspace xattr set demo notes.txt user.kind text",),
    "hub del": ("hub del greeting",),
    "hub get": ("hub get greeting", "hub get greeting --level stale --json"),
    "hub list": ("hub list", "hub list build/ --json"),
    "hub set": ("hub set greeting '\"hello\"'", "hub set -n settings model '\"opus\"' --expected-version 0"),
    "worker run": ("worker run ./mirror -w demo --name laptop",),
    "worker status": ("worker status ./mirror",),
    "worker verify": ("worker verify ./mirror -w demo",),
    "mount": ("mount demo ./work", "mount demo ./work --foreground"),
    "unmount": ("unmount ./work", "unmount ./work --force"),
    "cluster init": ("cluster init --node n1=10.0.0.1 --node n2=10.0.0.2 --node n3=10.0.0.3 --out ./cluster",),
    "cluster transfer-leader": ("cluster transfer-leader --to n2",),
    "member add": ("member add n4 --incarnation 0123456789abcdef0123456789abcdef --address 10.0.0.4:7802 --promote",),
    "member list": ("member list",),
    "member promote": ("member promote n4",),
    "member remove": ("member remove n2",),
    "node archive cat": ("node archive cat ./data 7678 --from 1000 --to 1100",),
    "node archive list": ("node archive list ./data",),
    "node archive verify": ("node archive verify ./data",),
    "node rejoin": ("node rejoin --config node.toml --client client.toml",),
    "wal inspect": ("wal inspect ./data",),
    "wal quarantine": ("wal quarantine ./data", "wal quarantine ./data 18402113 7"),
    "bench workspace": ("bench workspace --parts tree,files --seconds 2",),
    "serve": ("serve --config node.toml",),
}


def with_examples(command: click.Command, path: str) -> click.Command:
    """The same command; what is below it as well."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            with_examples(below, f"{path} {name}")
    found = EXAMPLES.get(path, ())
    if found and not command.epilog:
        command.epilog = "\b\nFor example:\n" + "\n".join(f"  hypercluster {words}" for words in found)
    return command
