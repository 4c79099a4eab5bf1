"""The rows of the suite: what is broken, when, and which moments must have been hit."""

from __future__ import annotations

from rows import big, brokers, clocks, eleventh, endpoints, kafka, load, mixed, network, points, processes, redis, settings, transactions
from rows.row import Row

__all__ = ["ROWS", "Row"]

_MODULES = (processes, points, redis, kafka, brokers, network, endpoints, eleventh, settings, clocks, transactions, big, mixed, load)
ROWS: list[Row] = [row for module in _MODULES for row in module.ROWS]
