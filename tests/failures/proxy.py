"""A TCP proxy between a replica and its database, which can stop forwarding, or cut between statement and reply."""

from __future__ import annotations

import socket
import threading
from enum import Enum


class Mode(Enum):
    PASS = "pass"
    """Forward everything."""
    HOLD = "hold"
    """A partition: take nothing, give nothing, close nothing."""
    NO_REPLY = "no-reply"
    """Statements arrive, and are carried out; no reply comes back."""
    CUT = "cut"
    """Statements arrive; instead of their reply, the connection ends."""


class Proxy:
    """Forwards to a port of this machine.

    Args:
        host: the address at which it listens.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = port
        self._changed = threading.Condition()
        self._mode = Mode.PASS
        self._last_words: bytes | None = None
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode) -> None:
        with self._changed:
            self._mode = mode
            self._changed.notify_all()

    def hold_the_reply_to(self, text: bytes) -> None:
        """From the first statement with this text on: it arrives, and no reply comes back, nor to any later one."""
        self._last_words = text

    @property
    def mode(self) -> Mode:
        return self._mode

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """End all connections at once."""
        for each in tuple(self._connections):
            _end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._wait_until_not(Mode.HOLD)
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._connections |= {client, server}
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_reply: bool = False) -> None:
        try:
            while data := source.recv(65_536):
                self._wait_until_not(Mode.HOLD)
                if not is_reply and self._last_words is not None and self._last_words in data:
                    self.set(Mode.NO_REPLY)
                if is_reply and self._mode is Mode.NO_REPLY:
                    self._wait_until_not(Mode.NO_REPLY)
                if is_reply and self._mode is Mode.CUT:
                    break
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            self._connections.discard(each)
            _end(each)

    def _wait_until_not(self, mode: Mode) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._mode is not mode)


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
