"""Which term this node leads, for what lives as long as that.

Owns: two numbers. Never: decides who leads.
"""

from __future__ import annotations

from hypercluster.node.standing import Standing
from hypercluster.values import Role


class Tenure:
    """`term` is the one this node leads, as it was last seen; 0: it leads none. What was logged before that ends at
    `last_index`: once it is applied, the state holds what others had begun."""

    __slots__ = ("_standing", "last_index", "term")

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self.term = 0
        self.last_index = 0

    def changed(self) -> bool:
        """Looks anew: a node may have lost leadership and won it back, and nothing of the term before holds."""
        status = self._standing.status_now()
        term = int(status.term) if status.role is Role.LEADER else 0
        if term == self.term:
            return False
        self.term, self.last_index = term, int(status.last_index)
        return True

    def has_applied(self) -> bool:
        return int(self._standing.status().applied_index) >= self.last_index
