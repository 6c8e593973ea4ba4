"""The one configuration file of a node: settings, rules, and reading it with every mistake at once (OPS-1)."""

from hypercluster.config.load import ConfigError, Mistake, load
from hypercluster.config.rules import VOTERS_ALLOWED, is_loopback, split_address, why_not_voters
from hypercluster.config.settings import Config

__all__ = [
    "VOTERS_ALLOWED",
    "Config",
    "ConfigError",
    "Mistake",
    "is_loopback",
    "load",
    "split_address",
    "why_not_voters",
]
