"""Range reconciliation, negentropy protocol v1 (NEG-1 to NEG-3, NEG-6): see DESIGN.md of history_sync."""

from hypercluster.history_sync.negentropy.items import SealedItems
from hypercluster.history_sync.negentropy.reconcile import Initiator, Responder, Turn

__all__ = ["Initiator", "Responder", "SealedItems", "Turn"]
