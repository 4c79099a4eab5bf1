"""A TCP proxy on loopback whose network can be cut, reset or slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading


class Proxy:
    """Forwards connections to a port of loopback, on a thread of its own."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._delay = 0.0
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._moving = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.broken = 0
        """Connections that were open when the network was cut or reset."""
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._moving.set()
            server = await asyncio.start_server(self._accept, sock=self._socket)
            ready.set()
            async with server:
                await server.serve_forever()

        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            self._loop.run_until_complete(serve())

    def close(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def slow(self, seconds: float) -> None:
        """Delays each piece that is forwarded; 0 ends that."""
        self._delay = seconds

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told; new connections hang."""
        self._loop.call_soon_threadsafe(self._do_cut)

    def mend(self) -> None:
        """Ends a cut. What was under way passes late."""
        self._loop.call_soon_threadsafe(self._moving.set)

    def reset(self) -> None:
        """Resets all connections."""
        self._loop.call_soon_threadsafe(self._do_reset)

    def lead_to(self, upstream: int) -> None:
        """From now on leads to another port; connections to the former one are reset."""
        self._upstream = upstream
        self.reset()

    def _do_cut(self) -> None:
        self.broken += len(self._open) // 2
        self._moving.clear()

    def _do_reset(self) -> None:
        self.broken += len(self._open) // 2
        for writer in list(self._open):
            own = writer.get_extra_info("socket")
            if own is not None:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._moving.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        self._open -= {writer, far_writer}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._moving.wait()
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
