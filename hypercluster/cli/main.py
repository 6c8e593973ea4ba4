"""`hypercluster`: the command line (OPS-2).

Owns: the list of commands, and what an error becomes: words on stderr and an exit code.
Never: does a command's work; each lives in a module of its own, loaded when it is called.
Exit codes: 0 ok; 1 refused, nothing changed; 2 usage; 3 unknown outcome, safe to run again with the same intent;
4 the node had to stop.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import click

from hypercluster.cli.examples import with_examples
from hypercluster.config import ConfigError
from hypercluster.errors import FatalError, HyperClusterError, Outcome

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNKNOWN = 3
EXIT_FATAL = 4
EXIT_INTERRUPTED = 130

# Name -> (module, attribute, one line of help). A module is imported only when its command runs.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "dev": ("hypercluster.cli.dev", "dev", "Run a whole cluster on this machine, with one command."),
    "status": ("hypercluster.cli.status", "status", "Show how the cluster and each of its nodes is."),
    "workspace": ("hypercluster.cli.workspace", "workspace", "Work with replicated file trees."),
    "hub": ("hypercluster.cli.hub", "hub", "Read and write small shared state."),
    "worker": ("hypercluster.cli.worker", "worker", "Mirror a workspace into a directory."),
    "mount": ("hypercluster.cli.mount", "mount", "Mount a workspace on a directory of this host."),
    "unmount": ("hypercluster.cli.mount", "unmount", "Take such a mount away."),
    "cluster": ("hypercluster.cli.cluster", "cluster", "Found a new cluster; hand leadership over."),
    "member": ("hypercluster.cli.member", "member", "Show and change who is in the cluster."),
    "node": ("hypercluster.cli.node", "node", "Bring a lost or damaged node back; its archive."),
    "wal": ("hypercluster.cli.wal", "wal", "Look at a stopped node's log; take a command out of it."),
    "serve": ("hypercluster.cli.serve", "serve", "Run one node."),
    "bench": ("hypercluster.cli.bench.command", "bench", "Measure a cluster, beside etcd where it is installed."),
}


class LazyGroup(click.Group):
    """Commands are known by name and loaded when used, so that `--help` and `status` start quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, attribute, _ = found
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return with_examples(command, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hypercluster", prog_name="hypercluster")
def cli() -> None:
    """HyperCluster gives a fleet of coding agents one ordered history of everything they share.

    Start here: `hypercluster dev` runs three nodes on this machine. In another terminal, `hypercluster status` shows
    them and `hypercluster workspace import demo ./src` puts a tree into the cluster.

    Exit codes: 0 ok, 1 refused, 2 usage, 3 unknown outcome (safe to run again with --intent), 4 a node stopped.
    """


def exit_code(error: BaseException) -> int:
    match error:
        case FatalError():
            return EXIT_FATAL
        case HyperClusterError():
            return EXIT_REFUSED if error.outcome is Outcome.DEFINITELY_NOT else EXIT_UNKNOWN
        case _:
            return EXIT_UNKNOWN


def main(arguments: list[str] | None = None) -> None:
    """The console script. Always ends the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold any bytes; stderr is so by itself
    try:
        result: Any = cli.main(args=arguments, prog_name="hypercluster", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.UsageError as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_REFUSED)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)
    except (HyperClusterError, FatalError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(exit_code(error))
    except UnicodeEncodeError as error:
        click.echo(f"error: {error.object!r} is not UTF-8, as this name must be", err=True)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
        click.echo(f"error: {words}", err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
