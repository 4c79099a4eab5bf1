"""Kafka dies or stands still."""

from __future__ import annotations

import time

from rows.row import IN_FLIGHT, Row, note_load, pause
from system import SESSION_S, System


def kafka_kill(system: System) -> None:
    """Kills the broker and starts it again on what is on its disk; freezes it in between."""
    pause(system, 5, 8)
    ways = system.each_in_turn(["kill", "freeze"])
    while system.loading:
        note_load(system)
        since = time.time()
        if next(ways) == "kill":
            system.rig.kill_kafka()
            pause(system, 0, 10)
            system.rig.restart_kafka()
            system.hit("Kafka killed")
        else:
            system.rig.pause_kafka()
            pause(system, 2, 8)
            system.rig.resume_kafka()
            system.hit("Kafka frozen")
        system.fault("Kafka gone", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT)
        pause(system, 8, 15)


ROWS = [
    Row("kafka", "kill -9 and freezes of Kafka", kafka_kill, ("Kafka killed", "Kafka frozen")),
]
