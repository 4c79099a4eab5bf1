"""Several things break at once."""

from __future__ import annotations

import time

from rows.redis import ask
from rows.row import IN_FLIGHT, SMALL_LANES, Row, kill_now, pause
from system import SESSION_S, Plan, System


def mixed(system: System) -> None:
    """Processes die while Redis forgets, the broker restarts, endpoints fail."""
    healthy = system.receiver.behaviour
    pause(system, 4, 6)
    others = system.each_in_turn(["redis emptied", "redis killed", "kafka killed", "endpoints fail"])
    while system.loading:
        victims = system.random.sample(system.processes, system.random.choice([1, 2, 4]))
        other = next(others)
        since = time.time()
        for process in victims:
            kill_now(system, process)
        system.pass_time(system.random.uniform(0, 1))
        if other == "redis emptied":
            ask(system, "FLUSHALL")
        elif other == "redis killed":
            system.rig.kill_redis()
        elif other == "kafka killed":
            system.rig.kill_kafka()
        else:
            system.receiver.behaviour = lambda path: (503, 0.0)
        for process in victims:
            pause(system, 0, 2)
            system.start(process)
        if other == "redis killed":
            system.rig.start_redis(aof=False)
        elif other == "kafka killed":
            system.rig.restart_kafka()
        system.receiver.behaviour = healthy
        system.hit(f"killed and {other}")
        system.fault(f"killed and {other}", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT, forgets=other.startswith("redis"))
        pause(system, 3, 9)


ROWS = [
    Row("mixed", "kill -9 of processes while Redis, Kafka or endpoints fail", mixed,
        ("killed and redis emptied", "killed and redis killed", "killed and kafka killed", "killed and endpoints fail"),
        lambda seconds: Plan(seconds=max(seconds, 75), settings=dict(SMALL_LANES))),
]
