"""`make audit` finds advisories, and fails when it could not find out; the list of licences is right."""

import json
import runpy
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AUDIT = runpy.run_path(str(ROOT / "scripts" / "audit.py"))
LICENCES = runpy.run_path(str(ROOT / "scripts" / "licences_doc.py"))
main: Callable[[Sequence[str]], int] = AUDIT["main"]


@contextmanager
def service(answer: Any, asked: list[Any], status: int = 200) -> Iterator[str]:
    """A service on this machine that answers every query with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def requirements(tmp_path: Path) -> str:
    path = tmp_path / "requirements.txt"
    path.write_text("one==1.0 \\\n    --hash=sha256:0\nother==2.0 ; sys_platform == 'win32' \\\n")
    return str(path)


@pytest.mark.parametrize(
    ("answer", "http", "status"),
    [
        ({"results": [{}, {}]}, 200, 0),
        ({"results": [{}, {"vulns": [{"id": "GHSA-1"}, {"id": "PYSEC-2"}]}]}, 200, 1),
        ({"results": [{}]}, 200, 2),
        ({"results": []}, 200, 2),
        ({"results": None}, 200, 2),
        ({"results": [{}, {"next_page_token": "more"}]}, 200, 2),
        ({"results": [{}, {"vulns": [{}]}]}, 200, 2),
        ({"results": [None, None]}, 200, 2),
        ({"results": [{}, {"vulns": None}]}, 200, 2),
        (b"[" * 100_000, 200, 2),
        ({}, 200, 2),
        ([], 200, 2),
        (b"<html>", 200, 2),
        (b"", 200, 2),
        ({"results": [{}, {}]}, 500, 2),
        ({"results": [{}, {}]}, 403, 2),
    ],
)
def test_the_exit_status_says_whether_there_are_advisories_or_whether_it_is_not_known(
    answer: Any, http: int, status: int, requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    with service(answer, asked, http) as url:
        assert main(["--url", url, requirements]) == status
    assert [(one["package"]["name"], one["version"]) for one in asked[0]["queries"]] == [
        ("one", "1.0"),
        ("other", "2.0"),
    ]
    printed = capsys.readouterr()
    assert ("other 2.0: GHSA-1 PYSEC-2" in printed.out) == (status == 1)
    assert ("not audited" in printed.err) == (status == 2)


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b""]
)
def test_what_is_no_answer_of_a_web_server_is_no_audit(
    raw: bytes, requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash would exit with 1, as if there were advisories."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(raw)

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["--url", f"http://127.0.0.1:{listener.getsockname()[1]}/", requirements]) == 2
        thread.join()
    assert capsys.readouterr().err.startswith("not audited: http://127.0.0.1:")


def test_nobody_there_and_nothing_to_ask_about_are_failures(
    requirements: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with service({}, []) as url:
        pass
    assert main(["--url", url, requirements]) == 2
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert main(["--url", url, str(empty)]) == 2
    assert capsys.readouterr().err.count("not audited") == 2


def test_every_pinned_requirement_is_asked_about() -> None:
    names = {name for name, _ in AUDIT["pins"](ROOT.glob("requirements*.txt"))}
    assert {"aiokafka", "websockets", "msgspec", "pytest", "confluent-kafka"} <= names


def test_the_list_of_licences_is_up_to_date() -> None:
    document = LICENCES["document"]()
    assert document == LICENCES["TARGET"].read_text()
    assert "not stated" not in document
