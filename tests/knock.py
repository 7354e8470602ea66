"""Send gRPC requests to ports with bare sockets, as a stranger on the network could.

    python tests/knock.py <<< '[["10.0.0.1", 6379, "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", null]]'

Prints a JSON list of the answers: the gRPC status as a number (0 success, 12 unknown method, 16 not authenticated), a
text such as "http 401", or the name of an error.
"""

import json
import re
import socket
import struct
import sys

UNAUTHENTICATED, UNIMPLEMENTED = 16, 12


def knock(host: str, port: int, path: str, token: str | None) -> int | str:
    """The answer to one request with an empty message, which every method accepts as its defaults."""
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.settimeout(3)
            connection.sendall(_grpc(path, token))
            answer = _read(connection)
            if not answer.startswith(b"HTTP/"):
                status = re.search(rb"grpc-status.(\d+)", answer, re.DOTALL)
                return int(status[1]) if status else "no answer"
        # The server speaks HTTP/1 only.
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.settimeout(3)
            header = f"Authorization: Bearer {token}\r\n" if token else ""
            connection.sendall(f"POST {path} HTTP/1.0\r\nHost: x\r\n{header}Content-Length: 0\r\n\r\n".encode())
            return "http " + _read(connection).split()[1].decode()
    except OSError as error:
        return type(error).__name__


def _read(connection: socket.socket) -> bytes:
    answer = b""
    try:
        # The status comes last; after its number there may be a message.
        while not re.search(rb"grpc-status.\d\d?(?s:.*)$", answer) and (some := connection.recv(1 << 16)):
            answer += some
    except TimeoutError:
        pass
    return answer


def _grpc(path: str, token: str | None) -> bytes:
    """A request in HTTP/2: preface, settings, headers as literals, an empty message."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(kind=4, flags=0, stream=0, payload=b"")
        + _frame(kind=1, flags=4, stream=1, payload=block)
        + _frame(kind=0, flags=1, stream=1, payload=bytes(5))
    )


def _text(text: str) -> bytes:
    assert len(text) < 127 + 128
    return (bytes([len(text)]) if len(text) < 127 else bytes([127, len(text) - 127])) + text.encode()


def _frame(*, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


if __name__ == "__main__":
    json.dump([knock(*request) for request in json.load(sys.stdin)], sys.stdout)
