"""A real SMTP server for the tests: aiosmtpd, which notes each message and answers as a file says.

Usage: server.py PORT FOLDER [CERTIFICATE KEY [implicit]]

Each message that came whole is a line of JSON in FOLDER/mails. FOLDER/mode says what is answered then: `ok` (or no file),
`refuse` and `put-off` at the recipient, `hang` and `hang-up` once the text is there. With a certificate, TLS and the login
`ann` with the password that FOLDER/password holds are required: by STARTTLS, or with `implicit` from the first byte on.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult


class Handler:
    """Answers as the mode says."""

    def __init__(self, folder):
        self.folder = folder

    def mode(self):
        try:
            return (self.folder / "mode").read_text().strip()
        except FileNotFoundError:
            return "ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        match self.mode():
            case "refuse":
                return "550 5.1.1 nobody lives here"
            case "put-off":
                return "451 4.7.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode(),
            "tls": server.transport.get_extra_info("sslcontext") is not None,
            "login": getattr(session.auth_data, "login", b"").decode() if session.auth_data else None,
        }
        with (self.folder / "mails").open("a") as mails:
            mails.write(json.dumps(mail) + "\n")
        match self.mode():
            case "hang":
                await asyncio.sleep(3600)
            case "hang-up":
                server.transport.abort()
        return "250 OK: taken"


def log_in(folder):
    """Takes the one login there is, with its password of now."""

    def check(server, session, envelope, mechanism, data):
        password = (Path(folder) / "password").read_bytes()
        success = (data.login, data.password) == (b"ann", password)
        # The server answers what is refused.
        return AuthResult(success=success, handled=success, auth_data=data)

    return check


async def main():
    """Serves until it is killed."""
    port, folder, *certificate = sys.argv[1:]
    options, implicit = {}, None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate[:2])
        options = {"auth_required": True, "authenticator": log_in(folder)}
        if certificate[2:] == ["implicit"]:
            implicit, options["auth_require_tls"] = context, False
        else:
            options |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Handler(Path(folder)), hostname="localhost", enable_SMTPUTF8=True, loop=loop, **options),
        "127.0.0.1",
        int(port),
        reuse_address=True,
        ssl=implicit,
    )
    await server.serve_forever()


asyncio.run(main())
