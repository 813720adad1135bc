"""A real PostgreSQL server for the tests that share a bank's changes, where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icgan_runtime.server.process import free_ports

PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/bin"))


def programs() -> Path | None:
    """The folder of its programs; None: apt-get install postgresql."""
    found = shutil.which("pg_ctl")
    places = (*PLACES, Path(found).parent) if found else PLACES
    return next((place for place in places if (place / "pg_ctl").exists()), None)


class Database:
    """A server with a database `icgan`, in a folder of its own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = free_ports().http
        self.address = f"postgresql://icgan@127.0.0.1:{self.port}/icgan"
        self._programs, self._data = programs, folder / "data"
        # PostgreSQL refuses to run as root
        self._as: dict[str, str] = {"user": "nobody"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, "nobody")
        self._run("initdb", "-D", self._data, "-U", "icgan", "--auth=trust", "--no-sync", "--locale=C")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "icgan", "icgan")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._data} -h 127.0.0.1"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._data / "log", "-o", options, "start")

    def kill(self) -> None:
        """As a power cut, but for the caches of the machine."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def files_with(self, needle: bytes) -> list[str]:
        """The names of its files that hold these bytes."""
        return [str(path) for path in self._data.rglob("*") if path.is_file() and needle in path.read_bytes()]

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        log = self._data.parent / "output"
        with log.open("w") as output:
            done = subprocess.run(command, cwd="/", stdout=output, stderr=output, **self._as)  # type: ignore[call-overload]
        assert done.returncode == 0, log.read_text()


@contextmanager
def running() -> Iterator[Database]:
    """A server while the block runs. RuntimeError where none is installed."""
    found = programs()
    if found is None:
        raise RuntimeError("no PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        database = Database(found, Path(folder))
        try:
            yield database
        finally:
            database.kill()
