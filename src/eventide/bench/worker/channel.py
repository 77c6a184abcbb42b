"""Messages between the runner and a worker: one JSON object a packet, file descriptors beside it where needed."""

from __future__ import annotations

import array
import json
import socket
from typing import Any

MAX_BYTES = 160_000  # below the default buffer of a Unix socket, so that a packet is never refused


class Channel:
    """One end of a SOCK_SEQPACKET pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """(this process's end, the end to hand to a child)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Raises OSError when the other end is gone and ValueError when the message is too long."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_BYTES:
            raise ValueError(f"a message of {len(data)} bytes exceeds the channel's {MAX_BYTES}")
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], extra)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next message and its descriptors; raises EOFError when the other end closed or sent no object."""
        data, ancillary, _, _ = self.sock.recvmsg(MAX_BYTES + 1, socket.CMSG_SPACE(8 * 4))
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not data:
            raise EOFError("the other end of the channel closed")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise EOFError("the other end of the channel sent something that is no message")
        return message, list(fds)
