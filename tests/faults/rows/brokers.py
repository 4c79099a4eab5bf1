"""Three brokers: some die, a follower lags, a disk is full."""

from __future__ import annotations

import time

from cluster import LAG_MS, SESSION_MS, Cluster
from rows.row import IN_FLIGHT, SMALL_LANES, Row, note_load, pause
from system import SESSION_S, Plan, System


def brokers(system: System) -> None:
    """One of three brokers dies, or two; a follower stands still until it is out of sync."""
    cluster = system.rig
    assert isinstance(cluster, Cluster)
    events = f"{system.prefix}message-events"
    pause(system, 5, 8)
    kinds = system.each_in_turn(["one down", "two down", "a follower lags"])
    while system.loading:
        note_load(system)
        kind = next(kinds)
        leaders = cluster.leaders(events)
        since = time.time()
        nodes = system.random.sample(cluster.nodes, 2 if kind == "two down" else 1)
        for node in nodes:
            cluster.freeze(node) if kind == "a follower lags" else cluster.kill(node)
        # So long that those who are left notice it.
        noticed_s = (LAG_MS if kind == "a follower lags" else SESSION_MS) / 1000
        pause(system, noticed_s + 2, noticed_s + 6)
        if kind == "two down":
            # There is no majority, and nobody can say who leads.
            system.hit(kind)
        elif cluster.out_of_sync():
            system.hit(kind)
        if kind == "one down" and cluster.leaders(events) != leaders:
            system.hit("leaders changed")
        for node in nodes:
            cluster.thaw(node) if kind == "a follower lags" else cluster.start(node)
        cluster.wait_in_sync(system.pass_time)
        system.fault(f"brokers: {kind}", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT)
        pause(system, 3, 8)


def disk_full(system: System) -> None:
    """The disk of one of three brokers is full, and the broker dies of it; later there is room again."""
    cluster = system.rig
    assert isinstance(cluster, Cluster)
    pause(system, 5, 8)
    while system.loading:
        note_load(system)
        since = time.time()
        cluster.fill_disk()
        system.hit("a broker died of its full disk")
        pause(system, 3, 10)
        cluster.free_disk()
        cluster.start(cluster.nodes[0])
        cluster.wait_in_sync(system.pass_time)
        system.hit("it came back")
        system.fault("disk full", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT)
        pause(system, 5, 10)


ROWS = [
    Row("brokers", "one of three brokers dies, or two; a follower lags", brokers, ("one down", "two down", "a follower lags", "leaders changed"),
        lambda seconds: Plan(seconds=max(seconds, 240), rate=75, brokers=3, settings=dict(SMALL_LANES))),
    Row("disk-full", "the disk of one of three brokers is full", disk_full, ("a broker died of its full disk", "it came back"),
        lambda seconds: Plan(seconds=max(seconds, 75), rate=50, brokers=3, small_disk_mib=192, settings=dict(SMALL_LANES))),
]
