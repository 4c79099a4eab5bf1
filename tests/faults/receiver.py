"""A receiver whose behaviour can be changed while it runs, and which records every request."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Received:
    """A request; times by the clock of the host, in seconds. `ended_at` is None where the connection broke first."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    received_at: float
    ended_at: float | None = None

    def entry(self) -> dict[str, Any]:
        """As `bundlehook receive` writes it."""
        return {"method": "POST", "path": self.path, "headers": self.headers, "body": self.body.decode(), "status": self.status}


Behaviour = Callable[[str], tuple[int, float]]
"""Status and delay in seconds, by the path; status 0 closes the connection."""


def answering(status: int = 200, least: float = 0.0, most: float = 0.0, seed: int = 0) -> Behaviour:
    """Always this status, after some time between two limits."""
    chance = random.Random(seed)
    return lambda path: (status, chance.uniform(least, most))


class Receiver:
    """Listens on a free port of loopback, on a thread of its own."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = answering()
        self.received: list[Received] = []
        self.in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._serve, sock=self._socket, limit=1 << 20, backlog=512)
            ready.set()
            async with server:
                await server.serve_forever()

        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            self._loop.run_until_complete(serve())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        status, delay = self.behaviour(path)
        request = Received(path, headers, body, status, time.time())
        self.received.append(request)
        self.in_flight += 1
        try:
            await asyncio.sleep(delay)
            if status == 0:
                request.ended_at = time.time()
                return False
            writer.write(b"HTTP/1.1 %d -\r\ncontent-length: 0\r\n\r\n" % status)
            await writer.drain()
            request.ended_at = time.time()
            return True
        finally:
            self.in_flight -= 1
