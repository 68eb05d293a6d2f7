"""What the operator keeps: pods and their fate, decisions, observations, nodes, and the times when it did not look."""

from nodewise_operator.store.errors import Fenced, StoreUnavailable, Unstorable
from nodewise_operator.store.rows import Batch, Downtime, Fate, NodeRow, PodRow
from nodewise_operator.store.store import Store

__all__ = ["Batch", "Downtime", "Fate", "Fenced", "NodeRow", "PodRow", "Store", "StoreUnavailable", "Unstorable"]
