"""The counters of processes that ran through, held against the numbers of the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from account import Post
from system import System

GRANULARITIES = ("none", "1h", "6h", "12h", "24h")
OUTCOMES = ("delivered", "status", "redirect", "timeout", "dns", "connect", "tls", "forbidden_address", "protocol", "too_large")
SKIPS = ("attachments", "empty_text", "too_old", "unknown_workspace", "no_enabled_webhook")


def check(system: System, summary: dict[str, Any], posts: list[Post], outcomes: Counter[str], counts: Counter[str]) -> Iterator[str]:
    """Counters that differ from what they must be; `outcomes` are those of the attempts that were recorded."""
    for (role, series), must in _expected(summary, posts, outcomes).items():
        counts["counters compared"] += 1
        found = system.sum(role, f"bundlehook_{series}")
        if found != must:
            yield f"`{series}` of {role} is {found:.0f}, expected {must}"


def _expected(summary: dict[str, Any], posts: list[Post], outcomes: Counter[str]) -> dict[tuple[str, str], int]:
    """What each counter must be, by role and series; as docs/metrics.md says."""
    records, totals = Counter(summary["records"]), Counter(summary["totals"])
    published = Counter(post["granularity"] for post in posts)
    expected = {
        "events_read_total ": records.total(),
        # A repeat is also among those accepted.
        "events_accepted_total ": records["wanted"],
        'events_skipped_total{reason="duplicate"} ': totals["duplicates"],
        "dead_letters_total": records["dead_letter"],
        "parts_sealed_total ": totals["sealed parts"],
        "bundle_messages_count ": len(posts),
        "bundle_messages_sum ": sum(post["messages"] for post in posts),
        "messages_dropped_total": 0,
        "records_lost_total": 0,
        "redis_operation_failures_total": 0,
    }
    expected |= {f'events_skipped_total{{reason="{reason}"}} ': records[reason] for reason in SKIPS}
    expected |= {f'windows_closed_total{{granularity="{name}"}} ': totals[f"windows {name}"] for name in GRANULARITIES}
    expected |= {f'bundles_published_total{{granularity="{name}"}} ': published[name] for name in GRANULARITIES}
    of_deliver = {
        "bundles_read_total ": len(posts),
        "bundles_repeated_total ": 0,
        "bundles_settled_total": len(posts),
        'bundles_settled_total{result="delivered"} ': len(posts),
        "delivery_latency_seconds_count": len(posts),
        "deliveries_waiting ": 0,
        "deliveries_waiting_bytes ": 0,
        "deliveries_parked": 0,
        "requests_in_flight ": 0,
        "messages_dropped_total": 0,
        "attempts_unsent_total": 0,
    }
    for outcome in OUTCOMES:
        of_deliver[f'delivery_attempts_total{{outcome="{outcome}"}} '] = outcomes[outcome]
        of_deliver[f'delivery_attempt_duration_seconds_count{{outcome="{outcome}"}} '] = outcomes[outcome]
    return {("aggregate", series): must for series, must in expected.items()} | {
        ("deliver", series): must for series, must in of_deliver.items()
    }
