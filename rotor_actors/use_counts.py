"""How often each step id was used in an attempt: exact, and small also for a body that uses a million ids once each."""

from __future__ import annotations

from bisect import bisect_right

# A run with fewer ids than this pays nothing but its dictionary.
MOST_COUNTED = 4_096
# Shorter stretches of numbers stay where they are: they would take as much room as their ids do.
_SHORTEST = 8
# Ids end in numbers that fit into 64 bits; longer ones are just texts.
_MOST_DIGITS = 18

Stretches = tuple[list[int], list[int]]
"""Where each begins, and where it ends: the number behind its last."""


class UsedOnce:
    """Ids that were used once, put away as stretches of numbers where they end in one, as "page 17" does.

    A million of them, numbered through, take a few bytes so. Ids that are made of other data take room each.

    >>> once = UsedOnce()
    >>> once.put_away({f"page {number}": 1 for number in range(1000)} | {"again": 2, "page 2000": 1})
    {'again': 2, 'page 2000': 1}
    >>> once.uses("page 999"), once.uses("page 1000")
    (1, 0)
    """

    __slots__ = ("_stretches", "next_at")

    def __init__(self) -> None:
        self._stretches: dict[str, Stretches] = {}
        """By what stands before the number."""
        self.next_at = MOST_COUNTED
        """So many counts there must be before putting away is worth the work."""

    def uses(self, id: str) -> int:
        """How often it had been used when it was put away: once, or never, for it is not here."""
        prefix, number = _split(id)
        stretches = self._stretches.get(prefix)
        return 1 if stretches is not None and number is not None and _is_within(stretches, number) else 0

    def put_away(self, counts: dict[str, int]) -> dict[str, int]:
        """Take what can be taken of these counts, and give the rest. Ids that are here already and were used again since
        are among them with all their uses."""
        for prefix, found in _numbers_used_once(counts).items():
            stretches = _joined(self._stretches.get(prefix, ([], [])), sorted(found))
            if stretches[0]:
                self._stretches[prefix] = stretches
                for number in found:
                    if _is_within(stretches, number):
                        del counts[f"{prefix}{number}"]
        # In proportion to what cannot be put away, and to what is looked through each time.
        self.next_at = MOST_COUNTED + 2 * len(counts) + sum(len(begins) for begins, _ in self._stretches.values())
        return dict(counts)  # anew, for a dictionary does not shrink


def _numbers_used_once(counts: dict[str, int]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for id, count in counts.items():
        if count == 1:
            prefix, number = _split(id)
            if number is not None:
                numbers.setdefault(prefix, []).append(number)
    return numbers


def _split(id: str) -> tuple[str, int | None]:
    """What stands before the number at the end, and the number: put together they are the id again. Zeros before the
    number are no part of it."""
    text = id.rstrip("0123456789")
    digits = id[len(text) :]
    if not digits or len(digits) > _MOST_DIGITS:
        return id, None
    number = int(digits)
    return id[: len(id) - len(str(number))], number


def _is_within(stretches: Stretches, number: int) -> bool:
    begins, ends = stretches
    place = bisect_right(begins, number) - 1
    return place >= 0 and number < ends[place]


def _joined(stretches: Stretches, numbers: list[int]) -> Stretches:
    """Those stretches, and those that the numbers (in order, none of them in a stretch) make with them."""
    singles = [(number, number + 1) for number in numbers]
    begins: list[int] = []
    ends: list[int] = []
    for begin, end in sorted([*zip(*stretches, strict=True), *singles]):
        if ends and ends[-1] == begin:
            ends[-1] = end
        else:
            begins.append(begin)
            ends.append(end)
    long = [(begin, end) for begin, end in zip(begins, ends, strict=True) if end - begin >= _SHORTEST]
    return [begin for begin, _ in long], [end for _, end in long]
