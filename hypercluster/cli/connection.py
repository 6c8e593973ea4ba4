"""How a command finds its cluster: options every client command shares.

Owns: `--config`, `--nodes`, `--ca`, `--cert`, `--key`, and where client.toml is looked for.
Never: opens a connection.
Order: --nodes with its files; --config; $HYPERCLUSTER_CLIENT; ./.hypercluster/client.toml (made by `hypercluster
dev`); ~/.config/hypercluster/client.toml.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.credentials.tls import TlsFiles
from hypercluster.errors import MalformedError

ENVIRONMENT = "HYPERCLUSTER_CLIENT"
DEV_FILE = Path(".hypercluster") / "client.toml"
HOME_FILE = Path("~/.config/hypercluster/client.toml")

F = TypeVar("F", bound=Callable[..., Any])


def connection_options(command: F) -> F:
    """Adds the options; the command gets `settings: ClientSettings`."""
    import functools

    @functools.wraps(command)
    def with_settings(
        *args: Any,
        config: str | None,
        nodes: str | None,
        ca: str | None,
        cert: str | None,
        key: str | None,
        **rest: Any,
    ) -> Any:
        return command(*args, settings=find_settings(config, nodes, ca, cert, key), **rest)

    options = (
        click.option(
            "--config", metavar="FILE", help="client.toml, as `hypercluster dev` and `cluster init` write it."
        ),
        click.option("--nodes", metavar="HOST:PORT,…", help="Client addresses of some nodes, instead of --config."),
        click.option("--ca", metavar="FILE", help="With --nodes: the cluster's CA certificate."),
        click.option("--cert", metavar="FILE", help="With --nodes: this client's certificate."),
        click.option("--key", metavar="FILE", help="With --nodes: this client's private key."),
    )
    for option in reversed(options):
        with_settings = option(with_settings)
    return with_settings  # type: ignore[return-value]


def find_settings(
    config: str | None, nodes: str | None, ca: str | None, cert: str | None, key: str | None
) -> ClientSettings:
    """Raises click.UsageError saying what to give."""
    try:
        if nodes:
            if not (ca and cert and key):
                raise click.UsageError("--nodes needs --ca, --cert and --key (or use --config client.toml)")
            return ClientSettings(tuple(nodes.split(",")), TlsFiles(Path(ca), Path(cert), Path(key)))
        path = _find_file(config)
        if path is None:
            raise click.UsageError(
                f"no cluster is named: give --config client.toml, set ${ENVIRONMENT}, or run it where "
                f"`hypercluster dev` made {DEV_FILE}"
            )
        return read_settings(path)
    except MalformedError as error:
        raise click.UsageError(str(error)) from error


def _find_file(config: str | None) -> Path | None:
    named = config or os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    return next((p for p in (DEV_FILE, HOME_FILE.expanduser()) if p.is_file()), None)
