"""The API of a `bundlehook serve` of a run's own, as an operator uses it."""

from __future__ import annotations

import hashlib
import json
import secrets
import urllib.error
import urllib.request
from typing import Any

from rig import spawn, wait
from system import System


class Console:
    """Gives commands; an answer is a status and what was said."""

    def __init__(self, system: System) -> None:
        self._token = secrets.token_hex(32)
        tokens = system.folder / "admin-tokens"
        tokens.write_text(f"suite:{hashlib.sha256(self._token.encode()).hexdigest()}\n")
        probes, self._port = system.hold_port(), system.hold_port()
        env = system.environment() | {
            "BUNDLEHOOK_HTTP_ADDR": f"127.0.0.1:{probes}", "BUNDLEHOOK_CONSOLE_ADDR": f"127.0.0.1:{self._port}",
            "BUNDLEHOOK_ADMIN_TOKENS": str(tokens),
        }
        system.beside.append(spawn([system.binary, "serve"], system.folder / "serve.log", env=env))
        wait("the console", 60, lambda: self.ask("GET", "/webhooks")[0] == 200)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and answer of a request below `/api/v1`; status 0 if there was none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/api/v1{path}", data, method=method)
        request.add_header("authorization", f"Bearer {self._token}")
        if data is not None:
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)

    def version(self, webhook_id: str) -> int | None:
        """The version of a webhook's settings; None if they can't be seen now."""
        status, webhook = self.ask("GET", f"/webhooks/{webhook_id}")
        return webhook["version"] if status == 200 else None
