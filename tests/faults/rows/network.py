"""The network to Kafka and Redis is cut, reset, slow."""

from __future__ import annotations

import time

from rows.row import IN_FLIGHT, SMALL_LANES, Row, note_load, pause
from system import SESSION_S, Plan, System


def network(system: System) -> None:
    """The network to Kafka and to Redis is cut, reset or slow."""
    pause(system, 4, 6)
    proxies = {"Kafka": system.rig.kafka_proxy, "Redis": system.rig.redis_proxy}
    troubles = system.each_in_turn([(name, kind) for name in proxies for kind in ("cut", "reset", "slow")])
    while system.loading:
        note_load(system)
        name, kind = next(troubles)
        proxy = proxies[name]
        since, broken = time.time(), proxy.broken
        if kind == "cut":
            proxy.cut()
            pause(system, 1, 10)
            proxy.mend()
        elif kind == "reset":
            proxy.reset()
            system.pass_time(0.5)
        else:
            proxy.slow(system.random.uniform(0.01, 0.2))
            pause(system, 3, 8)
            proxy.slow(0)
        if kind == "slow" or proxy.broken > broken:
            system.hit(f"{name}: {kind}")
        system.fault(f"{name}: {kind}", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT if name == "Kafka" else 0)
        pause(system, 4, 10)


ROWS = [
    Row("network", "network to Kafka and Redis cut, reset, slow", network, ("Kafka: cut", "Redis: cut"),
        # Six troubles, each of which takes some time to come to its end.
        lambda seconds: Plan(seconds=max(seconds, 110), far=True, settings=dict(SMALL_LANES))),
]
