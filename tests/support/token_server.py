"""A token endpoint for tests, in its own thread."""

import base64
import json
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus

CLIENT, SECRET = "bridge@example", "s3cr3t: with/every+thing&"

ISSUER, AUDIENCE = "https://issuer.example", "kafka"


class TokenServer:
    """Grants tokens to one client id inside its context, or answers as a test wants.

    With TLS if it gets a `keystore`; with a `signer`, the tokens are signed.
    """

    def __init__(self, *, signer: "Signer | None" = None, keystore: Path | None = None) -> None:
        self.lifetime: Any = 3600  # seconds, as it says it; a token lives as long if that is a number
        self.secret = SECRET
        self.answer: tuple[int, dict[str, str], bytes] | None = None  # in place of a token
        self.pause = threading.Event()  # an answer waits for it
        self.pause.set()
        self.asked: list[dict[str, list[str]]] = []  # the forms that it was sent
        self.granted: list[str] = []
        self._signer = signer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._scheme = "http"
        if keystore is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(keystore)
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/oauth/token"

    def _respond(self, authorization: str, form: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(parse_qs(form))
        self.pause.wait(60)
        if self.answer is not None:
            return self.answer
        client, _, secret = base64.b64decode(authorization.partition("Basic ")[2]).decode().partition(":")
        if (unquote_plus(client), unquote_plus(secret)) != (CLIENT, self.secret):
            error = {"error": "invalid_client", "error_description": f"no such secret: {secret}"}
            return 401, {}, json.dumps(error).encode()
        lifetime = self.lifetime if isinstance(self.lifetime, int | float) else 3600
        signer = self._signer
        self.granted.append(signer.token(lifetime) if signer else f"token-{len(self.granted)}.~+/-==")
        body = {"access_token": self.granted[-1], "token_type": "Bearer", "expires_in": self.lifetime}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        respond = self._respond

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, headers, body = respond(self.headers["Authorization"], form)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                with suppress(ConnectionError):  # the client may have seen enough
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


class Signer:
    """Signs tokens (JWTs) with a key of its own in `folder`, where `jwks` has the public one."""

    def __init__(self, folder: Path) -> None:
        self.jwks = folder / "jwks.json"
        self._key = folder / "token.key"
        _openssl("genrsa", "-out", str(self._key), "2048")
        shown = _openssl("rsa", "-in", str(self._key), "-modulus", "-noout").decode()
        modulus = _base64(bytes.fromhex(shown.strip().partition("=")[2]))
        key = {"kty": "RSA", "kid": "test", "use": "sig", "alg": "RS256", "n": modulus, "e": "AQAB"}
        self.jwks.write_text(json.dumps({"keys": [key]}))

    def token(self, lifetime: float) -> str:
        """Return a token that lives so many seconds."""
        now = time.time()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "bridge",
            "scope": "kafka",
            "iat": int(now),
            "exp": int(now + lifetime),
        }
        text = f"{_encoded({'alg': 'RS256', 'typ': 'JWT', 'kid': 'test'})}.{_encoded(claims)}"
        return f"{text}.{_base64(_openssl('dgst', '-sha256', '-sign', str(self._key), given=text.encode()))}"


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def _encoded(claims: dict[str, Any]) -> str:
    return _base64(json.dumps(claims).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
