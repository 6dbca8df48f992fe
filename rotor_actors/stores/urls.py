"""Texts that say where a store is: told without what is secret in them. Pure."""

from __future__ import annotations

import re

from rotor_actors.errors import StoreError

_BEFORE_OPTIONS = re.compile(r"[^?@]*(@[^?@]*)?\?[A-Za-z_]+=")
_NO_USER = re.compile(r"[:/?#]")
_ALMOST_POSTGRES = ("postgresql:", "postgres:")


def without_password(text: str) -> str:
    """For messages: without password and options, also where it is no proper URL, and what stands before the last @ is
    cut too early by a / ? or # in the password."""
    scheme, colon, rest = text.partition(":")
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    rest = rest[len(slashes) :]
    if _BEFORE_OPTIONS.match(rest):
        rest = rest.partition("?")[0]
    user, at, place = rest.rpartition("@")
    return f"{scheme}{colon}{slashes}{_NO_USER.split(user)[0]}{at}{place.partition('?')[0]}"


def is_other_url(text: str) -> bool:
    """Is it a URL, or meant to be one, of something that is no file?"""
    is_url = "://" in text and not text.startswith("sqlite:///")
    return is_url or text.strip().lower().startswith(_ALMOST_POSTGRES)


def refuse_other_urls(text: str) -> None:
    """What is no file must not be taken for one. Raises StoreError."""
    if is_other_url(text):
        raise StoreError(
            f"store {without_password(text)!r}: expected a file, 'sqlite:///file', 'postgresql://…', ':memory:' or a Store"
        )
