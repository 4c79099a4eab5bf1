"""Settings change under load."""

from __future__ import annotations

from rows.row import Row, pause
from system import System


def settings(system: System) -> None:
    """Granularities change, webhooks are added, URLs edited, all during the load."""
    pause(system, 2, 4)
    kinds = system.each_in_turn(["granularity", "granularity", "same again", "new"])
    while system.loading:
        webhooks = system.webhooks()
        webhook = dict(system.random.choice(webhooks))
        kind = next(kinds)
        if kind == "granularity":
            webhook["granularity"] = system.random.choice(["none", "1h", "6h", "24h"])
        elif kind == "new":
            webhook["webhook_id"] += f"-{len(webhooks)}"
            webhook["url"] += f"-{len(webhooks)}"
        system.publish_settings([webhook])
        system.hit(f"settings: {kind}")
        pause(system, 0, 3)


ROWS = [
    Row("settings", "settings edited during the load", settings, ("settings: granularity", "settings: new"), orderly=True),
]
