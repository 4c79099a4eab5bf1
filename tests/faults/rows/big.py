"""What is larger than anything that comes in a usual load, and what nobody can read."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

from ledger import Ledger
from rows.row import SMALL_LANES, Row, pause
from system import ORACLE, Plan, System
from upstream import Upstream

sys.path.insert(0, str(ORACLE))
import generate  # noqa: E402

MESSAGES = 100_000
"""So many come to one chat in one window."""
LONG_EVERY = 5
"""Each fifth of them is so long that its part is full before it has 1,000."""
AMPERSANDS = 900 * 1_024
ROUNDS = 3
"""So often each kind of poison comes."""


def big(system: System) -> None:
    """100,000 messages in one window of one chat, a message of 900 KiB, and poison of each kind."""
    generator = generate.Generator(generate.parse_arguments(["--seed", str(system.seed + 1), "--chats", "20"]))
    model = _plain(generator)
    poison = Upstream(system)
    lines = [_message(model, "big", f"big-{index:06}", "long " * 400 if index % LONG_EVERY == 0 else "ok") for index in range(MESSAGES)]
    pause(system, 1, 3)
    # All of them shall arrive in one window.
    hour = system.plan.hour
    system.pass_time(hour - (time.time() - 1) % hour)
    system.publish_events(lines)
    system.publish_events([_message(model, "ampersands", "ampersands", "&" * AMPERSANDS)])
    system.hit("message of 900 KiB")
    for round_ in range(ROUNDS):
        for number, kind in enumerate(generate.POISON):
            poison.send("poison", generator.poison(round_ * 1_000 + number, kind))
            system.hit("records that are poison")
            pause(system, 0, 0.1)
    poison.flush()
    poison.close()
    system.hits["kinds of poison"] = len(generate.POISON)


def _plain(generator: generate.Generator) -> dict[str, Any]:
    """An event of ws-1 that counts, with details that hold no surprise."""
    event = next(event for event in map(generator._fresh, range(1_000)) if event["workspace_id"] == "ws-1")
    event["message"] = {name: value for name, value in event["message"].items() if name != "attachments"}
    return event


def _message(model: dict[str, Any], chat: str, message_id: str, text: str) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    message = model["message"] | {"message_id": message_id, "text": text, "timestamp": now}
    return json.dumps(model | {"chat": model["chat"] | {"chat_id": chat}, "message": message}).encode()


def check(system: System, ledger: Ledger) -> list[str]:
    """Parts are as many as that takes; each poison, and nothing else, is a dead letter."""
    windows = Counter(post["window_start"] for post in ledger.posts if post["chat_id"] == "big" and post["granularity"] == "1h")
    messages = Counter[str | None]()
    for post in ledger.posts:
        if post["chat_id"] == "big":
            messages[post["window_start"]] += post["messages"]
    if messages and max(messages.values()) == MESSAGES:
        system.hits[f"{MESSAGES} messages in one window"] = 1
    system.hits["parts of that window"] = max(windows.values(), default=0)
    found = Counter(record["headers"].get("reason", "") for record in system.rig.records(f"{system.prefix}dead-letters"))
    wanted = ledger.summary["dead_letters"]
    system.hits["dead letters"] = found.total()
    return [] if found == wanted else [f"dead letters are {dict(found)}, expected {dict(wanted)}"]


ROWS = [
    Row("big", "100,000 messages in one window, a message of 900 KiB, poison of each kind", big,
        (f"{MESSAGES} messages in one window", "parts of that window", "message of 900 KiB", "kinds of poison", "dead letters"),
        lambda seconds: Plan(seconds=max(seconds, 60), rate=50, hour=60, granularities="1h", settings=dict(SMALL_LANES)), check=check),
]
