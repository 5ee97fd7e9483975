"""Frames between the engine and its workers over a socket pair: a JSON header and some byte strings."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

_COUNT = struct.Struct(">I")
_LENGTH = struct.Struct(">Q")


def send_frame(connection: socket.socket, header: Mapping[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Send one frame; blocks until it is written.

    Raises:
        OSError: if the other side is gone.
    """
    blobs = [json.dumps(header).encode(), *parts]
    lengths = b"".join(_LENGTH.pack(len(blob)) for blob in blobs)
    connection.sendall(_COUNT.pack(len(blobs)) + lengths)
    for blob in blobs:
        connection.sendall(blob)


def receive_frame(connection: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """Receive one frame; blocks until it is whole.

    Raises:
        EOFError: if the other side closed the connection.
        OSError: if the other side is gone.
    """
    (count,) = _COUNT.unpack(_exactly(connection, _COUNT.size))
    lengths = [_LENGTH.unpack(_exactly(connection, _LENGTH.size))[0] for _ in range(count)]
    header, *parts = (_exactly(connection, length) for length in lengths)
    return json.loads(header), parts


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        got = connection.recv_into(view[done:])
        if got == 0:
            raise EOFError("the other side closed the connection")
        done += got
    return bytes(data)
