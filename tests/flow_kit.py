"""What the tests of flow control share."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Watch:
    """Who runs now, who began in which order, and how many ran at once."""

    running: list[str] = field(default_factory=lambda: list[str]())
    began: list[str] = field(default_factory=lambda: list[str]())
    most: int = 0

    async def enter(self, name: str) -> None:
        self.began.append(name)
        if name not in self.running:  # a step is executed again when the process dies before it is recorded
            self.running.append(name)
        self.most = max(self.most, len(self.running))

    async def exit(self, name: str) -> None:
        if name in self.running:
            self.running.remove(name)
