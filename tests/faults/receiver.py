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

from store import Store


@dataclass(slots=True)
class Received:
    """A request; times by the clock of the host, in seconds. `ended_at` is None where the connection broke first."""

    path: str
    head: bytes
    """The lines of its headers."""
    body: str
    """The name of its body in the store."""
    status: int
    received_at: float
    ended_at: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Names as they came."""
        return dict(line.split(": ", 1) for line in self.head.decode("latin-1").split("\r\n") if line)

    @property
    def bundle_id(self) -> str:
        """What stands as `webhook-id`."""
        return self.headers.get("webhook-id", "")

    def entry(self, body: str) -> dict[str, Any]:
        """As `bundlehook receive` writes it, with a body or its name."""
        return {"method": "POST", "path": self.path, "headers": self.headers, "body": body, "status": self.status}


Behaviour = Callable[[str], tuple[int, float]]
"""Status and delay in seconds, by the path; status 0 closes the connection."""


def answering(status: int = 200, least: float = 0.0, most: float = 0.0, seed: int = 0) -> Behaviour:
    """Always this status, after some time between two limits."""
    chance = random.Random(seed)
    return lambda path: (status, chance.uniform(least, most))


class Receiver:
    """Listens on a free port of loopback, on a thread of its own."""

    def __init__(self, store: Store) -> None:
        self.behaviour: Behaviour = answering()
        self.received: list[Received] = []
        self.in_flight = 0
        self.store = store
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
            server = await self._loop.create_server(lambda: _Connection(self, self._loop), sock=self._socket, backlog=512)
            ready.set()
            async with server:
                await server.serve_forever()

        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            self._loop.run_until_complete(serve())


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self._receiver, self._loop = receiver, loop
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        self._take()

    def _take(self) -> None:
        """Takes the next request, if it is there as a whole and the former one is answered."""
        head_end = self._bytes.find(b"\r\n\r\n")
        if self._answering or head_end < 0:
            return
        request_line, _, head = bytes(self._bytes[:head_end]).partition(b"\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        end = head_end + 4 + length
        if len(self._bytes) < end:
            return
        path = request_line.split(b" ")[1].decode("latin-1")
        body = self._receiver.store.add(bytes(self._bytes[head_end + 4 : end]))
        del self._bytes[:end]
        status, delay = self._receiver.behaviour(path)
        request = Received(path, head, body, status, time.time())
        self._receiver.received.append(request)
        self._receiver.in_flight += 1
        self._answering = True
        self._loop.call_later(delay, self._answer, request)

    def _answer(self, request: Received) -> None:
        self._receiver.in_flight -= 1
        self._answering = False
        if self._transport is None:
            return
        if request.status:
            self._transport.write(b"HTTP/1.1 %d -\r\ncontent-length: 0\r\n\r\n" % request.status)
        else:
            self._transport.close()
        request.ended_at = time.time()
        self._take()
