"""The SQL of users, taken apart just far enough: into statements, placeholders and names. Pure.

`?` and `:name` are placeholders as in SQLite, so that a workflow's transactions need not be written anew for
PostgreSQL; `$1` is PostgreSQL's own, and where it is used, `?` is the operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OWN_PREFIX = "rotor_"

_TOKEN = re.compile(
    r"""
    (?P<string> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | \$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?(tag)(?P=tag))\$ )
  | (?P<comment> --[^\n]* | /\*.*?\*/ )
  | (?P<quoted> "(?:[^"]|"")*" )
  | (?P<cast> ::|:= )
  | (?P<name> :[A-Za-z_]\w* )
  | (?P<number> \$\d+ )
  | (?P<mark> \? )
  | (?P<end> ; )
  | (?P<word> [^\W\d][\w$]* )
  | (?P<other> \d[\w.]* | \s+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_TRANSACTION = "{}: not yours here: the transaction is the step's, and an error undoes all of it"
_SESSION = "{}: not possible here: it would change the runtime's own connection"
_NEVER = {
    **dict.fromkeys(
        ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"), _TRANSACTION
    ),
    **dict.fromkeys(("SET", "RESET", "DISCARD", "DEALLOCATE", "LISTEN", "UNLISTEN", "LOAD", "COPY"), _SESSION),
}  # fmt: skip
_TEMPORARY = "temporary tables are not possible here: the connection is the runtime's own"


class UserStatement:
    """One statement of several.

    Attributes:
        refusal: why it may not be executed; empty if it may.
    """

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self.refusal = self._refused()
        kinds = [kind for kind, _ in tokens]
        self.marks = 0 if "number" in kinds else kinds.count("mark")

    def _refused(self) -> str:
        words = [text.upper() for kind, text in self._tokens if kind == "word"]
        if words and words[0] in _NEVER:
            return _NEVER[words[0]].format(words[0])
        if words[:1] == ["CREATE"] and {"TEMP", "TEMPORARY"} & set(words[1:3]):
            return _TEMPORARY
        for kind, text in self._tokens:
            name = text.lower() if kind == "word" else text.strip('"').lower() if kind == "quoted" else ""
            if name.startswith(OWN_PREFIX):
                return (
                    f"table {name!r} is the runtime's own, as are all that begin with {OWN_PREFIX!r}; give yours "
                    f"another name"
                )
        return ""

    def bound(self, bindings: Sequence[Any] | Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The statement as PostgreSQL has it, and its arguments."""
        if isinstance(bindings, Mapping):
            return self._by_name(bindings)
        texts: list[str] = []
        place = 0
        for kind, text in self._tokens:
            if kind == "mark" and self.marks:
                place += 1
                text = f"${place}"
            texts.append(text)
        return "".join(texts), list(bindings)

    def _by_name(self, bindings: Mapping[str, Any]) -> tuple[str, list[Any]]:
        places: dict[str, int] = {}
        texts: list[str] = []
        for kind, text in self._tokens:
            if kind == "name":
                name = text[1:]
                if name not in bindings:
                    raise ValueError(f"the statement names {text!r}, and the bindings are {sorted(bindings)}")
                text = f"${places.setdefault(name, len(places) + 1)}"
            texts.append(text)
        return "".join(texts), [bindings[name] for name in places]


def statements(sql: str) -> Iterator[UserStatement]:
    """Those of the text that say anything."""
    tokens: list[tuple[str, str]] = []
    for found in _TOKEN.finditer(sql):
        kind = found.lastgroup or "other"
        if kind == "end":
            yield from _statement(tokens)
            tokens = []
        else:
            tokens.append((("string" if kind == "tag" else kind), found.group()))
    yield from _statement(tokens)


def _statement(tokens: list[tuple[str, str]]) -> Iterator[UserStatement]:
    if any(kind != "comment" and text.strip() for kind, text in tokens):
        yield UserStatement(tokens)


def allotted(sql: str, bindings: Sequence[Any] | Mapping[str, Any]) -> Iterator[tuple[UserStatement, str, list[Any]]]:
    """Each statement with its own arguments: those of `?` are handed out in order."""
    parts = list(statements(sql))
    if isinstance(bindings, Mapping) or len(parts) == 1:
        for part in parts:
            yield (part, *part.bound(bindings))
        return
    left = list(bindings)
    for part in parts:
        mine, left = left[: part.marks], left[part.marks :]
        yield (part, *part.bound(mine))
    if left:
        raise ValueError(f"{len(left)} more bindings than the statements have placeholders")
