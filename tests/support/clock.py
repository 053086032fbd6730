"""Changes the wall clock of a process; its monotonic clock stays as it is."""

from pathlib import Path

_LIBRARY = "*-linux-gnu/faketime/libfaketimeMT.so.1"


class Clock:
    """The wall clock of a process that is started with `environment`; correct until the first jump."""

    def __init__(self, folder: Path) -> None:
        library = next(Path("/usr/lib").glob(_LIBRARY), None)
        if library is None:
            raise RuntimeError("libfaketime is not installed: run 'make setup'")
        self._offset = folder / "clock"
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, hours: float) -> None:
        """Set the clock `hours` ahead of the true time."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{hours * 3600:+.0f}\n")
        new.replace(self._offset)
