"""Processes that are stopped, killed or frozen, or come and go."""

from __future__ import annotations

import time

from rows.row import IN_FLIGHT, Row, kill_now, note_load, pause, slow_receiver
from system import SESSION_S, System


def sigterm(system: System) -> None:
    """Stops and starts one process after the other, all the time."""
    pause(system, 4, 6)
    while system.loading:
        for process in system.random.sample(system.processes, len(system.processes)):
            note_load(system)
            system.terminate(process)
            system.hit("stopped by SIGTERM")
            pause(system, 0, 2)
            system.start(process)
            system.until(f"{process.name} to be ready", 60, process.is_ready)
            pause(system, 0, 3)


def kill(system: System) -> None:
    """Kills any process at any time; sometimes it comes back at once, sometimes after others took over."""
    pause(system, 3, 5)
    while system.loading:
        victims = system.random.sample(system.processes, system.random.choice([1, 1, 1, 2, 4]))
        for process in victims:
            kill_now(system, process)
        pause(system, 0, system.random.choice([0.5, 2 * SESSION_S]))
        for process in victims:
            system.start(process)
        pause(system, 0, 6)


def sigstop(system: System) -> None:
    """Freezes a process for longer than its group waits for it, then lets it go on."""
    pause(system, 4, 6)
    roles = system.each_in_turn(["aggregate", "deliver"])
    while system.loading:
        process = system.random.choice(system.of(next(roles)))
        note_load(system)
        since = time.time()
        system.freeze(process)
        pause(system, SESSION_S + 2, SESSION_S + 5)
        others = sum(other.sum(f'bundlehook_partitions_owned{{role="{process.role}"') for other in system.of(process.role) if other is not process)
        if others >= system.plan.partitions:
            system.hit(f"{process.role} frozen while another took over")
        system.thaw(process)
        if process.role == "deliver":
            system.fault("freeze of deliver", since, time.time() + 2, IN_FLIGHT)
        pause(system, 3, 8)


def rebalances(system: System) -> None:
    """A third process of each role comes and goes every two seconds."""
    pause(system, 3, 5)
    third = {role: system.add(role) for role in ("aggregate", "deliver")}
    while system.loading:
        system.pass_time(2)
        for process in third.values():
            note_load(system)
            if process.sum(f'bundlehook_partitions_owned{{role="{process.role}"'):
                system.hit(f"{process.role} left with partitions")
            system.terminate(process)
        system.pass_time(2)
        for process in third.values():
            system.start(process)


ROWS = [
    Row("sigterm", "SIGTERM under load, rolling restart of all processes", sigterm,
        ("stopped by SIGTERM", "with requests in flight", "with deliveries parked", "with windows open"), slow_receiver, orderly=True),
    Row("kill", "kill -9 at random times", kill,
        ("aggregate killed", "deliver killed", "deliver killed with requests in flight", "with windows open")),
    Row("kill-parked", "kill -9 at random times with deliveries parked", kill,
        ("aggregate killed", "deliver killed with requests in flight", "with deliveries parked"), slow_receiver),
    Row("sigstop", "SIGSTOP past the session timeout, then CONT", sigstop,
        ("aggregate frozen while another took over", "deliver frozen while another took over")),
    Row("rebalances", "a process of each role joins and leaves every 2 s", rebalances,
        ("aggregate left with partitions", "deliver left with partitions"), orderly=True),
]
