"""What an exception says, as bounded text that can always be stored. Nothing here raises."""

from __future__ import annotations

import os
import traceback
from typing import Final

__all__ = ["bounded", "message_of", "traceback_of"]

_LONGEST_MESSAGE: Final = 16 * 1024
_LONGEST_TRACEBACK: Final = 8 * 1024
_OWN_FOLDER: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep


def bounded(text: str) -> str:
    """The text, at most 16 KiB characters of it, without lone surrogates."""
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}... ({len(text)} characters)"
    return _clean(text)


def message_of(error: BaseException) -> str:
    """`str(error)`, or a note that it raised."""
    try:
        return bounded(str(error))
    except Exception as second:
        return f"<str() of this {type(error).__name__} raised {type(second).__name__}>"


def traceback_of(error: BaseException) -> str:
    """The traceback with causes, members and notes, without this library's own frames; the last 8 KiB of it."""
    try:
        summary = traceback.TracebackException.from_exception(error)
        _cut_own_frames(summary)
        text = "".join(summary.format())
    except Exception as second:
        return f"<the traceback of this {type(error).__name__} could not be written: {type(second).__name__}>"
    if len(text) > _LONGEST_TRACEBACK:
        text = f"...\n{text[-_LONGEST_TRACEBACK:]}"
    return _clean(text)


def _cut_own_frames(summary: traceback.TracebackException) -> None:
    whole = summary.stack
    stack: list[traceback.TracebackException | None] = [summary]
    while stack:
        each = stack.pop()
        if each is None:
            continue
        kept = [frame for frame in each.stack if not frame.filename.startswith(_OWN_FOLDER)]
        each.stack = traceback.StackSummary.from_list(kept)
        stack += [each.__cause__, each.__context__, *(each.exceptions or ())]
    if not summary.stack:  # raised by the library itself, on its own: better its frames than none
        summary.stack = whole


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
