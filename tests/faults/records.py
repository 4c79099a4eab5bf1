"""What the product wrote of its own to Kafka, held against what a receiver saw."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from receiver import Received

Record = dict[str, Any]


def check_positions(bundles: Iterable[Record], counts: Counter[str]) -> Iterator[str]:
    """Problems of `bundles`: what stands at one position of a stream must be the same whenever it was written."""
    found: dict[tuple[str, ...], str] = {}
    for record in bundles:
        headers = record["headers"]
        place = (str(record["partition"]), *(headers.get(name, "") for name in ("source-topic-id", "stream", "position")))
        content = headers.get("bundle-id", "") + hashlib.sha256(record["value"].encode("utf-8", "surrogateescape")).hexdigest()
        counts["bundles"] += 1
        if place not in found:
            found[place] = content
            continue
        counts[f"bundles of `{headers.get('stream')}` written again"] += 1
        if found[place] != content:
            yield f"two contents at the position {place}, the second at offset {record['offset']}"


def check_attempts(attempts: Iterable[Record], received: Iterable[Received], outcomes: Counter[str], late: Counter[str]) -> Iterator[str]:
    """Problems of `delivery-attempts`: all that was delivered is recorded, and nothing else.

    Counts the attempts by outcome, and by bundle those that timed out: the answer may have come nonetheless, but too late.
    """
    succeeded = Counter(request.bundle_id for request in received if request.status == 200)
    recorded: Counter[str] = Counter()
    for record in attempts:
        attempt = json.loads(record["value"])
        outcomes[attempt["outcome"]] += 1
        late[attempt["bundle"]["bundle_id"]] += attempt["outcome"] == "timeout"
        if attempt["outcome"] == "delivered":
            recorded[attempt["bundle"]["bundle_id"]] += 1
    if unrecorded := succeeded.keys() - recorded.keys():
        yield f"{len(unrecorded)} deliveries are not recorded, such as {min(unrecorded)}"
    if unseen := {bundle: count for bundle, count in recorded.items() if count > succeeded[bundle]}:
        yield f"{len(unseen)} deliveries are recorded more often than they were received, such as {min(unseen)}"
