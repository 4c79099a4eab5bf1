"""The rows of the suite: what is broken, when, and which moments must have been hit."""

from __future__ import annotations

from rows import endpoints, kafka, load, mixed, network, processes, redis, settings
from rows.row import Row

__all__ = ["ROWS", "Row"]

ROWS: list[Row] = [row for module in (processes, redis, kafka, endpoints, settings, mixed, network, load) for row in module.ROWS]
