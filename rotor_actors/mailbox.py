"""A run's mailbox: two lanes, control ahead of the rest. Nothing is read by awaiting, so nothing can be lost by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from rotor_actors.messages import AttemptDue, Interrupt, Message


class Mailbox:
    """Messages in the order of their posting. Unbounded: completions are never refused, admission is bounded at start.

    Both lanes are made when first used: a parked run keeps an empty mailbox, and there may be a million of them.
    """

    __slots__ = ("_messages", "control")

    def __init__(self) -> None:
        self.control: deque[Interrupt] | None = None
        self._messages: deque[Message | AttemptDue] | None = None

    def post(self, message: Message | AttemptDue) -> None:
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)

    def post_control(self, message: Interrupt) -> None:
        if self.control is None:
            self.control = deque()
        self.control.append(message)

    def take(self) -> Message | AttemptDue | Interrupt | None:
        """The next message: control first. None when there is none."""
        if self.control:
            return self.control.popleft()
        if self._messages:
            message = self._messages.popleft()
            if not self._messages:
                self._messages = None
            return message
        return None

    def __iter__(self) -> Iterator[Message | AttemptDue]:
        """What is there of the second lane, which stays."""
        return iter(tuple(self._messages or ()))

    def drop_upto(self, seq: int) -> None:
        """Drop what a history loaded up to entry `seq` holds already."""
        if self._messages:
            self._messages = deque(message for message in self._messages if message.seq > seq)

    def clear(self) -> None:
        self.control = self._messages = None

    def __bool__(self) -> bool:
        return bool(self.control or self._messages)
