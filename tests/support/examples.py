"""The failing examples that fuzzing found, kept in the tree, one folder for each test.

The databases of hypothesis file examples under a digest of the test's source, so that any edit of the test
loses them, and delete them once they pass. Here they are filed under the test's id and stay until somebody
deletes them.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase

FOLDER = Path(__file__).parents[1] / "examples"

_SCRATCH = (b".secondary", b".pareto")  # the ends of the keys of what hypothesis tries on its way


class KeptExamples(ExampleDatabase):
    """Keeps the smallest failing examples of the test that is running in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._scratch = InMemoryExampleDatabase()  # all but the smallest ones; lost with the process

    def __repr__(self) -> str:
        return f"KeptExamples({self._folder})"

    def save(self, key: bytes, value: bytes) -> None:
        """Keep an example."""
        if key.endswith(_SCRATCH):
            self._scratch.save(key, value)
        else:
            path = self._path(value)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """Return the examples of the running test."""
        if key.endswith(_SCRATCH):
            yield from self._scratch.fetch(key)
        else:
            yield from [path.read_bytes() for path in sorted(_own(self._folder).glob("*"))]

    def delete(self, key: bytes, value: bytes) -> None:
        """Forget an example that is not kept; one that passes again stays, because it once failed."""
        if key.endswith(_SCRATCH):
            self._scratch.delete(key, value)

    def move(self, src: bytes, dest: bytes, value: bytes) -> None:
        """Forget an example for which a smaller one was found."""
        if src.endswith(_SCRATCH):
            self._scratch.delete(src, value)
        elif src != dest:
            self._path(value).unlink(missing_ok=True)
        self.save(dest, value)

    def _path(self, value: bytes) -> Path:
        return _own(self._folder) / hashlib.sha256(value).hexdigest()[:16]


def kept(folder: Path = FOLDER) -> list[str]:
    """Return the ids of all tests that have kept examples."""
    return sorted(unquote(path.name) for path in folder.glob("*") if path.is_dir())


def _own(folder: Path) -> Path:
    """Return the folder of the running test."""
    test_id, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")
    return folder / quote(test_id, safe="")
