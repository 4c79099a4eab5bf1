"""Bodies of POSTs on the disk, each once, named by their digests: memory holds a short name for each."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path


class Store:
    """Takes bodies from any thread."""

    def __init__(self, file: Path) -> None:
        self._file = open(file, "w+b")  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def add(self, body: bytes) -> str:
        """Keeps a body; its name, which is the same for equal bodies alone."""
        name = hashlib.sha256(body).hexdigest()
        with self._lock:
            if name not in self._places:
                self._places[name] = (self._end, len(body))
                self._file.write(body)
                self._end += len(body)
        return name

    def text(self, name: str) -> str:
        """The body of a name, as text."""
        start, length = self._places[name]
        with self._lock:
            self._file.seek(start)
            body = self._file.read(length)
            self._file.seek(self._end)
        return body.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Nothing more can be kept or read."""
        self._file.close()
