"""The messages and watches of the shared store in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rotor_actors.records import MailKind
from rotor_actors.stores.shared import Mail


class PostOffice:
    """Letters by number, by address and by name, and who watches which run."""

    def __init__(self) -> None:
        self.letters: dict[int, Mail] = {}
        self.watches: dict[int, set[int]] = {}
        self._watched_by: dict[int, set[int]] = {}
        self._of_address: dict[int, dict[int, None]] = {}
        self._of_name: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self._last = 0

    def post(self, to: int, kind: MailKind, body: bytes | None, once: str | None = None) -> None:
        self._last += 1
        self.letters[self._last] = Mail(self._last, to, kind, body)
        self._of_address.setdefault(to, {})[self._last] = None
        if once is not None:
            self._of_name[once] = self._last
            self._name_of[self._last] = once

    def take(self, number: int) -> None:
        """Take a letter away; it need not be there."""
        letter = self.letters.pop(number, None)
        if letter is None:
            return
        others = self._of_address[letter.to]
        del others[number]
        if not others:
            del self._of_address[letter.to]
        name = self._name_of.pop(number, None)
        if name is not None:
            del self._of_name[name]

    def close_address(self, to: int) -> None:
        """Nobody is there any more: nothing can reach it, and nothing that it watched will be told."""
        for number in tuple(self._of_address.get(to, ())):
            self.take(number)
        for n in self._watched_by.pop(to, ()):
            watchers = self.watches[n]
            watchers.discard(to)
            if not watchers:
                del self.watches[n]

    def addresses(self) -> set[int]:
        """Where letters lie, and who watches."""
        return {*self._of_address, *self._watched_by}

    def has_mail(self, to: int) -> bool:
        return to in self._of_address

    def has_name(self, once: str) -> bool:
        return once in self._of_name

    def behind(self, after: int) -> Iterator[Mail]:
        """The letters by number."""
        return (letter for letter in self.letters.values() if letter.id > after)

    def watch(self, n: int, to: int) -> None:
        self.watches.setdefault(n, set()).add(to)
        self._watched_by.setdefault(to, set()).add(n)

    def end_watch(self, n: int) -> Iterable[int]:
        """Whoever watched this run."""
        watchers = sorted(self.watches.pop(n, ()))
        for to in watchers:
            watched = self._watched_by[to]
            watched.discard(n)
            if not watched:
                del self._watched_by[to]
        return watchers
