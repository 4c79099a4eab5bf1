"""Three brokers of Apache Kafka, each of which can be killed, frozen, or run out of disk."""

from __future__ import annotations

import base64
import re
import signal
import struct
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import ROOT, START_SECONDS, Broken, Rig, end, spawn, wait

LAG_MS = 2_000
"""A follower that has not caught up for so long is no longer in sync."""
SESSION_MS = 6_000
"""A broker that gives no sign of life for so long is given up."""


class SmallDisk:
    """A disk in memory that only processes see which are started through it."""

    def __init__(self, folder: Path, mib: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        script = "mount -t tmpfs -o size=$1 tmpfs $0 && touch $0/mounted && exec sleep infinity"
        self._keeper = spawn(["unshare", "--map-root-user", "--mount", "sh", "-c", script, folder, f"{mib}m"], folder.with_suffix(".disk"))
        wait("a disk", START_SECONDS, lambda: self._run("test -e $0/mounted"))

    @property
    def through(self) -> list[str]:
        """What to put before a command that is to see it."""
        return ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", str(self._keeper.pid), "setpriv", "--pdeathsig", "KILL", "--"]

    def _run(self, script: str) -> bool:
        return subprocess.run([*self.through, "sh", "-c", script, self._folder], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def fill(self) -> None:
        """Takes all that is left."""
        self._run("cat /dev/zero > $0/ballast")

    def free(self) -> None:
        """Gives that back."""
        if not self._run("rm $0/ballast"):
            raise Broken("the disk can't be written")

    def close(self) -> None:
        """Ends it; what it held is gone."""
        end(self._keeper)


@dataclass
class Node:
    """A broker, which is a controller too."""

    number: int
    port: int
    controller: int
    folder: Path
    disk: SmallDisk | None
    process: subprocess.Popen[bytes] | None = None


class Cluster(Rig):
    """As `Rig`, with three brokers: each record has three replicas, two of which must be in sync."""

    def __init__(self, folder: Path, small_disk_mib: int = 0) -> None:
        self._small_disk_mib = small_disk_mib
        self.nodes: list[Node] = []
        super().__init__(folder)

    def _start_kafka(self, controller: int) -> None:
        for number in (1, 2, 3):
            (port, port_hold), (controller, controller_hold) = self._services.held_port(), self._services.held_port()
            self._holds += [port_hold, controller_hold]
            node_folder = self.folder / f"data/kafka-{number}"
            node_folder.mkdir(parents=True)
            disk = SmallDisk(node_folder / "log", self._small_disk_mib) if self._small_disk_mib and number == 1 else None
            self.nodes.append(Node(number, port, controller, node_folder, disk))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for node in self.nodes:
            self._settings(node).write_text((ROOT / "deploy/local/kafka.properties").read_text() + self._own_settings(node))
        formatting = [
            spawn(self._command(node, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "-c", self._settings(node)), self._log(node))
            for node in self.nodes
        ]
        if any(process.wait() for process in formatting):
            raise Broken(f"a folder of Apache Kafka could not be formatted; see {self.folder}")
        for node in self.nodes:
            self.start(node)

    def close(self) -> None:
        for node in self.nodes:
            end(node.process)
            if node.disk is not None:
                node.disk.close()
        super().close()

    @staticmethod
    def _settings(node: Node) -> Path:
        return node.folder / "kafka.properties"

    def _log(self, node: Node) -> Path:
        return self.folder / f"kafka-{node.number}.log"

    def _own_settings(self, node: Node) -> str:
        listeners = f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller}"
        voters = ",".join(f"{other.number}@127.0.0.1:{other.controller}" for other in self.nodes)
        return f"""
node.id={node.number}
listeners={listeners}
advertised.listeners={listeners}
controller.quorum.voters={voters}
log.dirs={node.folder / "log"}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
replica.lag.time.max.ms={LAG_MS}
broker.heartbeat.interval.ms=500
broker.session.timeout.ms={SESSION_MS}
"""

    def _command(self, node: Node, *arguments: Any) -> list[Any]:
        java = ["java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-cp", self.kafka_classpath,
                f"-Dlog4j2.configurationFile={ROOT / 'deploy/local/log4j2.properties'}"]
        return [*(node.disk.through if node.disk else []), *java, *arguments]

    @property
    def brokers(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    # -- breaking --

    def start(self, node: Node) -> None:
        """Starts a broker on what is on its disk."""
        node.process = spawn(self._command(node, "kafka.Kafka", self._settings(node)), self._log(node))

    def kill(self, node: Node) -> None:
        """Kills a broker without warning."""
        end(node.process)

    def freeze(self, node: Node) -> None:
        """Stops a broker where it stands."""
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)

    def thaw(self, node: Node) -> None:
        """Lets it go on."""
        assert node.process is not None
        node.process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Takes all room of the first broker, and waits until it has died of it."""
        node = self.nodes[0]
        assert node.disk is not None and node.process is not None
        node.disk.fill()
        wait("the broker to die of its full disk", START_SECONDS, lambda: node.process is not None and node.process.poll() is not None)

    def free_disk(self) -> None:
        """Gives it back."""
        assert self.nodes[0].disk is not None
        self.nodes[0].disk.free()

    # -- looking --

    def wait_kafka(self) -> None:
        """Waits until each broker knows all."""
        for node in self.nodes:
            wait("a broker", 2 * START_SECONDS, lambda: self._known_to(node) == 3)  # noqa: B023

    def _known_to(self, node: Node) -> int:
        """How many brokers a broker knows of; 0 if it does not answer."""
        # Metadata, version 4: header (api, version, correlation, client), no topics, none to be created.
        body = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">i?", 0, False)
        whole = lambda answer: len(answer) >= 4 and len(answer) >= 4 + struct.unpack(">i", answer[:4])[0]
        answer = self._services.ask(node.port, struct.pack(">i", len(body)) + body, whole)
        return int(struct.unpack(">iiii", answer[:16])[3]) if answer is not None and len(answer) >= 16 else 0

    def topics(self, *arguments: str) -> list[str]:
        """Lines of what Kafka's own tool says of partitions."""
        try:
            return [line for line in self.admin("org.apache.kafka.tools.TopicCommand", "--describe", *arguments).splitlines() if "Partition:" in line]
        except Broken:
            return ["nobody answers"]

    def out_of_sync(self) -> int:
        """How many partitions lack a replica."""
        return len(self.topics("--under-replicated-partitions"))

    def leaders(self, topic: str) -> list[str]:
        """The leader of each partition of a topic."""
        return re.findall(r"Leader: (\d+)", "\n".join(self.topics("--topic", topic)))

    def wait_in_sync(self, pass_time: Any, seconds: float = 120) -> None:
        """Waits until no partition lacks a replica."""
        deadline = time.monotonic() + seconds
        while self.out_of_sync():
            if time.monotonic() > deadline:
                raise Broken("some replicas do not catch up")
            pass_time(0.5)
