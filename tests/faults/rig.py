"""Apache Kafka and Redis of a run's own, on free ports of loopback, with proxies in front; programs as processes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from proxy import Proxy

Ends = dict[str, dict[int, int]]
"""Offsets by topic and partition."""
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
# A console consumer to which nothing comes for so long has read everything that there is. It hardly ever has to wait for
# that: what tells the end are offsets, unless the last ones hold no records.
CONSOLE_SECONDS = 60


class Broken(Exception):
    """The run can't go on; says why."""


def _load_services() -> Any:
    loader = importlib.machinery.SourceFileLoader("services", str(ROOT / "deploy/local/services"))
    spec = importlib.util.spec_from_loader("services", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def spawn(command: list[Any], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process that the kernel kills when this program ends; output is appended to the log."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options
        )


def wait(what: str, seconds: float, condition: Callable[[], bool], pause: float = 0.1) -> None:
    """Waits for a condition. Raises Broken if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


def end(process: subprocess.Popen[bytes] | None) -> None:
    """Kills a process, if it still runs, and waits until it is gone."""
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


class Rig:
    """Both services. What they hold is gone afterwards; their logs stay in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._services = _load_services()
        self._services.FOLDER, self._services.DATA = folder, folder / "data"
        self._services.spawn = spawn
        (folder / "data").mkdir(parents=True)
        held = [self._services.held_port() for _ in range(4)]
        self._kafka_port, controller, self._far_port, self._redis_port = (port for port, _ in held)
        self._holds = [hold for _, hold in held]
        self._kafka: subprocess.Popen[bytes] | None = None
        self._redis: subprocess.Popen[bytes] | None = None
        self._replica: subprocess.Popen[bytes] | None = None
        self._replica_port: int | None = None
        self.redis_proxy, self.kafka_proxy = Proxy(self._redis_port), Proxy(self._far_port)
        self._services.kafka_settings = self._kafka_settings
        try:
            self._start_kafka(controller)
            self.wait_kafka()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends both."""
        end(self._redis)
        end(self._replica)
        end(self._kafka)
        self.redis_proxy.close()
        self.kafka_proxy.close()
        for hold in self._holds:
            hold.close()

    # -- Kafka --

    def _start_kafka(self, controller: int) -> None:
        self._kafka = self._services.start_kafka(self._kafka_port, controller)

    def _kafka_settings(self, port: int, controller_port: int, log_dir: Path) -> str:
        """Two listeners for clients: a direct one, and one that is reached through the proxy only. A broker that was killed may
        come back once its session has ended: that has the length that Kafka gives it, where the common settings have a longer one.
        """
        direct, far, controller = (f"127.0.0.1:{number}" for number in (port, self._far_port, controller_port))
        return f"""
node.id=1
listeners=PLAINTEXT://{direct},FAR://{far},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{direct},FAR://127.0.0.1:{self.kafka_proxy.port},CONTROLLER://{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=1@{controller}
log.dirs={log_dir}
broker.session.timeout.ms=9000
"""

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self._kafka_port}"

    @property
    def far_brokers(self) -> str:
        """Through the proxy."""
        return f"127.0.0.1:{self.kafka_proxy.port}"

    def wait_kafka(self) -> None:
        wait("Apache Kafka", START_SECONDS, lambda: bool(self._services.kafka_answers(self._kafka_port)))

    def kill_kafka(self) -> None:
        end(self._kafka)

    def restart_kafka(self) -> None:
        """Starts the killed broker on what is on the disk, and waits until it answers."""
        self._kafka = self._services.run_kafka(self.folder / "data/kafka/kafka.properties")
        self.wait_kafka()

    def pause_kafka(self) -> None:
        assert self._kafka is not None
        self._kafka.send_signal(signal.SIGSTOP)

    def resume_kafka(self) -> None:
        assert self._kafka is not None
        self._kafka.send_signal(signal.SIGCONT)

    def admin(self, program: str, *arguments: str) -> str:
        """Output of one of Kafka's own tools. Raises Broken if it fails."""
        command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", self.kafka_classpath, program, "--bootstrap-server", self.brokers]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Broken(f"{program} failed: {done.stdout[-1000:]} {done.stderr[-1000:]}")
        return done.stdout

    @property
    def kafka_classpath(self) -> str:
        """Where Java finds Kafka's classes."""
        return str(self._services.kafka_classpath())

    def _console(self, *arguments: str) -> list[str]:
        return [
            "java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", self.kafka_classpath,
            f"-Dlog4j2.configurationFile={ROOT / 'deploy/local/log4j2.properties'}",
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", self.brokers, "--from-beginning",
            "--isolation-level", "read_committed", "--timeout-ms", f"{1000 * CONSOLE_SECONDS}", *arguments,
        ]

    def ends(self) -> Ends:
        """Where each partition of each topic ends now: the offset of the next record."""
        found: Ends = defaultdict(dict)
        for line in self.admin("org.apache.kafka.tools.GetOffsetShell").splitlines():
            if match := re.fullmatch(r"(\S+):(\d+):(\d+)", line):
                found[match[1]][int(match[2])] = int(match[3])
        return found

    def records(self, topic: str, ends: Ends | None = None, *formatting: str) -> Iterator[dict[str, Any]]:
        """The records of a topic up to its ends, by default those of now: partition, offset, timestamp, headers, key, value (text; None for a tombstone)."""
        properties = [f"print.{what}=true" for what in ("timestamp", "partition", "offset", "headers", "key", "value")]
        properties += ["null.literal=\x01", "headers.separator=\x02", *formatting]
        options = [word for setting in properties for word in ("--formatter-property", setting)]
        ends = self.ends() if ends is None else ends
        remaining = {partition: end for partition, end in ends[topic].items() if end > 0}
        if not remaining:
            return
        unseen = set(remaining)
        with tempfile.TemporaryFile() as errors, subprocess.Popen(self._console("--topic", topic, *options), stdout=subprocess.PIPE, stderr=errors) as reading:
            try:
                for line in reading.stdout or ():
                    # Kafka's log goes to standard output, too.
                    if not line.startswith((b"LogAppendTime:", b"CreateTime:")):
                        continue
                    record = _record(line)
                    partition = record["partition"]
                    unseen.discard(partition)
                    if record["offset"] < ends[topic][partition]:
                        yield record
                    if record["offset"] + 1 >= remaining.get(partition, math.inf):
                        del remaining[partition]
                        if not remaining:
                            return
            finally:
                reading.kill()
            # Where the last offsets hold no records, what ends the reading is silence.
            errors.seek(0)
            said = errors.read()
            if b"Processed a total of" not in said:
                raise Broken(f"the console consumer: {said.decode(errors='replace')[-2000:]}")
            if unseen:
                raise Broken(f"partitions {sorted(unseen)} of {topic} could not be read in time")

    def commits(self, group: str, ends: Ends) -> Iterator[tuple[int, str]]:
        """Partition and metadata of all offsets that a group committed."""
        raw = "org.apache.kafka.common.serialization.BytesDeserializer"
        for record in self.records("__consumer_offsets", ends, f"key.deserializer={raw}", f"value.deserializer={raw}"):
            if record["key"] is None or record["value"] is None:
                continue
            key, value = Fields(_raw(record["key"])), Fields(_raw(record["value"]))
            # 0 and 1 are commits, above are members.
            if key.int16() <= 1 and key.text() == group:
                key.text()
                version = value.int16()
                value.skip(8 + (4 if version >= 3 else 0))
                yield key.int32(), value.compact_text() if version >= 4 else value.text()

    # -- Redis --

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._redis_port}/"

    @property
    def far_redis_url(self) -> str:
        """Through the proxy."""
        return f"redis://127.0.0.1:{self.redis_proxy.port}/"

    def start_redis(self, aof: bool = False, fresh: bool = True) -> None:
        """Starts Redis, with or without the data of the last one."""
        end(self._redis)
        folder = self.folder / "data/redis"
        folder.mkdir(exist_ok=True)
        if fresh:
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
        durable = ["--appendonly", "yes", "--appendfsync", "everysec"] if aof else ["--appendonly", "no"]
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self._redis_port, "--dir", folder, "--save", "", *durable]
        self._redis = spawn(command, self.folder / "redis.log")
        wait("Redis", START_SECONDS, lambda: bool(self._services.redis_answers(self._redis_port)))

    def kill_redis(self) -> None:
        end(self._redis)

    def follow_redis(self) -> None:
        """Starts a replica, and waits until it has everything."""
        if self._replica_port is None:
            self._replica_port, hold = self._services.held_port()
            self._holds.append(hold)
        end(self._replica)
        folder = self.folder / f"data/redis-{self._replica_port}"
        folder.mkdir(exist_ok=True)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self._replica_port, "--dir", folder, "--save", "", "--appendonly", "no",
                   "--replicaof", "127.0.0.1", self._redis_port]
        self._replica = spawn(command, self.folder / "redis.log")
        up = b"master_link_status:up"
        wait("the replica to follow", 30, lambda: up in (self._ask_redis(self._replica_port, "INFO", "replication") or b""))

    def cut_replication(self) -> None:
        """The replica hears nothing more of the master's writes."""
        if self._ask_redis(self._replica_port, "REPLICAOF", "NO", "ONE") != b"+OK\r\n":
            raise Broken("the replica does not answer")

    def fail_over(self) -> None:
        """The master dies, and clients that go through the proxy come to the replica."""
        assert self._replica_port is not None
        end(self._redis)
        self._redis, self._replica = self._replica, None
        self._redis_port, self._replica_port = self._replica_port, self._redis_port
        self.redis_proxy.lead_to(self._redis_port)

    def redis_value(self, *words: str) -> str | None:
        """A text that Redis answers with; None if there is none."""
        answer = self._ask_redis(self._redis_port, *words) or b"$-1"
        return None if answer.startswith(b"$-1") else answer.split(b"\r\n", 1)[1].removesuffix(b"\r\n").decode()

    def _ask_redis(self, port: int | None, *words: str) -> bytes | None:
        whole = lambda answer: answer.endswith(b"\r\n") and (
            not answer.startswith(b"$") or answer.startswith(b"$-1") or len(answer.split(b"\r\n", 1)[1]) == int(answer[1:].split(b"\r\n")[0]) + 2
        )
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        answer: bytes | None = self._services.ask(port, request, whole)
        return answer

    def redis(self, *words: str) -> str:
        """The first line of Redis's answer to a command."""
        with socket.create_connection(("127.0.0.1", self._redis_port), timeout=10) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words))
            return connection.makefile("rb").readline().decode().strip()


class Fields:
    """Reads the fields of a record of Kafka's own, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def skip(self, length: int) -> bytes:
        """The next bytes."""
        self._at += length
        return self._data[self._at - length : self._at]

    def int16(self) -> int:
        """The next two bytes as a number."""
        return int.from_bytes(self.skip(2), "big", signed=True)

    def int32(self) -> int:
        """The next four bytes as a number."""
        return int.from_bytes(self.skip(4), "big", signed=True)

    def text(self) -> str:
        """A text with its length before it."""
        return self.skip(max(self.int16(), 0)).decode()

    def compact_text(self) -> str:
        """A text with its length plus one before it, seven bits a byte."""
        length = shift = 0
        while True:
            byte = self.skip(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return self.skip(max(length - 1, 0)).decode()


def _raw(text: str) -> bytes:
    """The bytes that Kafka shows with those escaped that are not printable."""
    return re.sub(rb"\\x([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())


def _record(line: bytes) -> dict[str, Any]:
    stamp, partition, offset, headers, key, value = line.decode("utf-8", "surrogateescape").removesuffix("\n").split("\t", 5)
    return {
        "partition": int(partition.partition(":")[2]), "offset": int(offset.partition(":")[2]),
        "timestamp": int(stamp.partition(":")[2]), "headers": _headers(headers),
        "key": None if key == "\x01" else key, "value": None if value == "\x01" else value,
    }


def _headers(text: str) -> dict[str, str]:
    if text == "NO_HEADERS":
        return {}
    text = text.removeprefix("Headers:")
    return dict(pair.partition(":")[::2] for pair in text.split("\x02"))


def environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment with these settings of Bundlehook, and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("BUNDLEHOOK_") and name != "RUST_LOG"}
    return own | {f"BUNDLEHOOK_{name}": value for name, value in settings.items()}
