"""Run an S3 server on the loopback interface, for tests: moto's, in its own process."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage.location import Location
from tests.processes import Child

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    # moto would store the checksums that newer clients send behind the data as if they were data.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}
"""What a client needs; Ray needs it when it starts."""


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Yields the query of URIs on the server: s3://BUCKET/PATH?QUERY, with one bucket called `lab`."""
    pytest.importorskip("moto", reason="needs moto, an S3 server for tests")
    pytest.importorskip("flask_cors", reason="needs moto's server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        with Child(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while True:
                assert process.poll() is None, "moto's server does not start"
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.05)
            query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
            from pyarrow import fs

            filesystem, _ = fs.FileSystem.from_uri(f"s3://lab/?{query}")
            filesystem.create_dir("lab")
            yield query
    finally:
        os.environ.clear()
        os.environ.update(before)


def upload(folder: Path, place: Location) -> Location:
    """Copies a folder to a place, and returns this."""
    for name in Location.of(folder).files():
        with (place / name).writing() as file:
            file.write((folder / name).read_bytes())
    return place


class Relay:
    """A connection to the server that counts requests and can be cut: then nobody listens on its port."""

    def __init__(self, query: str) -> None:
        parts = dict(part.split("=", 1) for part in query.split("&"))
        self._server = int(parts["endpoint_override"].split(":")[1])
        self._port = 0
        self.requests: list[str] = []
        """method and path of each"""
        self.up()
        self.query = query.replace(parts["endpoint_override"], f"127.0.0.1:{self._port}")

    def up(self) -> None:
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, server]
                for ends in ((client, server, self.requests), (server, client, None)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, requests: list[str] | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if requests is not None and (found := re.match(rb"([A-Z]+ /\S*) HTTP/", data)):
                    requests.append(found[1].decode())
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
