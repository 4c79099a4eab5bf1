#!/usr/bin/env python3
"""Writes settings of webhooks, one JSON object a line, as `produce --settings` reads them.

    settings.py --base-url http://127.0.0.1:9000 --workspaces 2 --granularities none,1h,6h,24h --out settings.jsonl

Every workspace (ws-1 and on, as in generate.py) gets one webhook a granularity, `wh-{workspace}-{granularity}`, whose
URL ends in `/{workspace}/{granularity}`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from webhooks import GRANULARITY_HOURS


def webhook(workspace_id: str, granularity: str, base_url: str) -> dict[str, Any]:
    """Settings of one webhook."""
    return {
        "webhook_id": f"wh-{workspace_id}-{granularity}",
        "workspace_id": workspace_id,
        "label": f"{workspace_id}, {granularity}",
        "url": f"{base_url.rstrip('/')}/{workspace_id}/{granularity}",
        "enabled": True,
        "granularity": granularity,
        "owner": {"full_name": f"Owner of {workspace_id}", "email": f"owner@{workspace_id}.example"},
        "version": 1,
    }


def webhooks(workspaces: int, granularities: list[str], base_url: str) -> Iterator[dict[str, Any]]:
    """Settings of all webhooks."""
    for number in range(1, workspaces + 1):
        for granularity in granularities:
            yield webhook(f"ws-{number}", granularity, base_url)


def _granularities(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(GRANULARITY_HOURS):
        raise ValueError
    return names


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:9000", help="the receiver (default: http://127.0.0.1:9000)")
    parser.add_argument("--workspaces", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--granularities", type=_granularities, default="none,1h,6h,24h", help="default: none,1h,6h,24h")
    parser.add_argument("--out", metavar="FILE", help="where they go (default: standard output)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line."""
    options = _arguments(arguments)
    found = webhooks(options.workspaces, options.granularities, options.base_url)
    text = "".join(json.dumps(settings, separators=(",", ":")) + "\n" for settings in found)
    if options.out:
        with open(options.out, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
