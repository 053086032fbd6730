"""A schema registry in this process, with as much of Confluent's API as the bridge and deserializers use.

It serves the registry of confluent-kafka that is in memory, which gives ids and GUIDs. It compares nothing:
it refuses the subjects that a test names.
"""

import base64
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from confluent_kafka.schema_registry import (
    RegisteredSchema,
    Schema,
    SchemaRegistryClient,
    SchemaRegistryError,
)

REFUSAL = "Schema being registered is incompatible with an earlier schema"


class SchemaRegistry:
    """Serves inside of its context, on `port` or a free one.

    `memory` is the registry that it serves. `login` is the user name and password that it asks for. `refused`
    are subjects whose schemas it refuses; `levels` the compatibility by subject; `guids` whether it gives
    GUIDs; `broken` answers everything with that status; `instead` has other answers by the first part of the
    path, a status and a body each.
    """

    def __init__(self, port: int = 0, login: tuple[str, str] | None = None, *, guids: bool = True) -> None:
        self.login = login
        self.guids = guids
        self.refused: set[str] = set()
        self.levels: dict[str, str] = {}
        self.schemas: dict[str, str] = {}  # by subject
        self.broken: int | None = None
        self.instead: dict[str, tuple[int, bytes]] = {}
        self.may_set_levels = True
        self.requests: list[str] = []  # methods and paths
        self.memory = SchemaRegistryClient.new_client({"url": "mock://tests"})
        self._lock = threading.Lock()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            do_PUT = do_POST = do_GET  # noqa: N815 - the library calls them so

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        status: int
        answer: Any
        text: bytes | None = None
        with self._lock:
            path = urlsplit(request.path).path
            parts = [unquote(part) for part in path.split("/")[1:]]
            self.requests.append(f"{request.command} {path}")
            if parts[0] in self.instead:
                status, text = self.instead[parts[0]]
            elif self.broken is not None:
                status, answer = self.broken, {"message": "broken"}
            elif not self._is_allowed(request.headers.get("Authorization")):
                given = base64.b64decode((request.headers.get("Authorization") or "Basic ")[6:]).decode()
                status, answer = 401, {"error_code": 401, "message": f"Unauthorized: {given}"}
            else:
                status, answer = self._answer(request.command, parts, json.loads(body or b"{}"))
        if text is None:
            text = json.dumps(answer).encode()
        request.send_response(HTTPStatus(status))
        request.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def _is_allowed(self, header: str | None) -> bool:
        if self.login is None:
            return True
        return header == "Basic " + base64.b64encode(":".join(self.login).encode()).decode()

    def _answer(  # noqa: PLR0911 - one for each request
        self, method: str, parts: list[str], body: dict[str, Any]
    ) -> tuple[int, Any]:
        match method, parts:
            case "GET", ["subjects"]:
                return 200, sorted(self.schemas)
            case "GET", ["config", subject] if subject in self.levels:
                return 200, {"compatibilityLevel": self.levels[subject]}
            case "PUT", ["config", _] if not self.may_set_levels:
                return 403, {"error_code": 40301, "message": "Forbidden"}
            case "PUT", ["config", subject]:
                self.levels[subject] = body["compatibility"]
                return 200, body
            case "POST", ["subjects", subject, "versions"] if subject in self.refused:
                return 409, {"error_code": 409, "message": REFUSAL}
            case "POST", ["subjects", subject, "versions"]:
                self.schemas[subject] = body["schema"]
                schema = Schema(body["schema"], body["schemaType"])
                registered = self.memory.register_schema_full_response(subject, schema)
                return 200, self._named(registered)
            case "POST", ["subjects", subject]:
                return self._lookup(subject, Schema(body["schema"], body["schemaType"]))
            case "POST", ["compatibility", "subjects", subject, *_]:
                return 200, {"is_compatible": subject not in self.refused}
            case "GET", ["schemas", "ids", number]:
                return self._found(self.memory.get_schema, int(number))
            case "GET", ["schemas", "guids", guid]:
                return self._found(self.memory.get_schema_by_guid, guid)
        return 404, {"error_code": 40401, "message": f"{'/'.join(parts)} not found"}

    def _lookup(self, subject: str, schema: Schema) -> tuple[int, Any]:
        try:
            found = self.memory.lookup_schema(subject, schema)
        except SchemaRegistryError as error:
            return 404, {"error_code": error.error_code, "message": error.error_message}
        return 200, self._named(found)

    def _named(self, found: RegisteredSchema) -> dict[str, object]:
        guid = {"guid": found.guid} if self.guids else {}
        return {"schemaType": "JSON", "id": found.schema_id, **guid}

    def _found(self, find: Callable[[Any], Schema], name: object) -> tuple[int, Any]:
        try:
            return 200, find(name).to_dict()
        except SchemaRegistryError as error:
            return 404, {"error_code": error.error_code, "message": error.error_message}
