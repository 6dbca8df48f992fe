"""From the text of a `where` or `match` to a tree, by a parser of our own; never `eval`.

event.data.status == 'paid' and event.data.amount >= own.data.amount
data.country in ['de', 'fr'] and not data.test
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from rotor_actors.errors import ExpressionError
from rotor_actors.events.expression import Both, Compare, Either, ListOf, Literal, Node, Not, Path, PathKey

LONGEST = 2_000
DEEPEST = 50

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>-?(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)(?![\w.]))
  | (?P<name>[^\W\d]\w*)
  | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | (?P<sign>==|!=|<=|>=|<|>|[()\[\].,])
  )""",
    re.VERBOSE,
)
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_WORDS = frozenset({"and", "or", "not", "in", *_CONSTANTS})
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"})
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_HINTS = {
    "&": "write 'and' instead of '&&'",
    "|": "write 'or' instead of '||'",
    "!": "write 'not' instead of '!'",
    "=": "write '==' to compare",
    "'": "a text that begins here has no end",
    '"': "a text that begins here has no end",
}
_FIELDS = ("name", "id", "data")


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str, what: str = "where") -> Node:
    """The expression as a tree.

    Raises:
        ExpressionError: it is no expression; the message shows the place.
    """
    return _Parser(text, what).whole()


def parse_match(text: str) -> Node:
    """`match="data.user.id"`: this place in the incoming event equals the same place in the run's own.

    Raises:
        ExpressionError: it is not a path.
    """
    keys = _Parser(text, "match").whole_path()
    return Compare("==", Path(False, keys), Path(True, keys))


def condition(match: str | None, where: str | None) -> Node | None:
    """What `match` and `where` ask for together; None where everything will do.

    Raises:
        ExpressionError: one of them cannot work.
    """
    parts = [parse_match(match)] if match is not None else []
    if where is not None:
        parts.append(parse(where))
    return Both(tuple(parts)) if len(parts) > 1 else parts[0] if parts else None


class _Parser:
    """One pass over the text, one method for each level of binding, from the loosest."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ExpressionError(f"{what}={text!r}: expected a text, e.g. {_example(what)}")
        if len(text) > LONGEST:
            self._fail(0, f"it has {len(text)} characters, the limit is {LONGEST}")
        self._tokens = list(self._read())
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._either()
        if self._peek.kind != "end":
            self._fail(self._peek.at, f"expected the end, or 'and', 'or'; found {self._peek.text!r}")
        return node

    def whole_path(self) -> tuple[PathKey, ...]:
        token = self._peek
        node = self._operand() if token.kind == "name" else None
        if not isinstance(node, Path) or node.is_own or self._peek.kind != "end":
            self._fail(token.at, f"expected a path in the event, e.g. {_example('match')}")
        return node.keys

    def _read(self) -> Iterator[_Token]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                sign = self._text[at]
                self._fail(at, _HINTS.get(sign, f"{sign!r} has no meaning here"))
            assert found.lastgroup is not None
            yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
            at = found.end()
        yield _Token("end", "", end)

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """The next token, if it is one of these words or signs."""
        token = self._peek
        if token.kind not in ("name", "sign") or token.text not in texts:
            return None
        self._next += 1
        return token

    def _need(self, text: str) -> None:
        if self._take(text) is None:
            self._fail(
                self._peek.at,
                f"expected {text!r}, found {self._peek.text!r}" if self._peek.text else f"expected {text!r}",
            )

    def _fail(self, at: int, why: str) -> NoReturn:
        shown = f"\n    {self._text}\n    {' ' * at}^" if len(self._text) <= LONGEST else ""
        raise ExpressionError(
            f"{self._what}={self._text[:200]!r}: at position {at}: {why}{shown}", expression=self._text, position=at
        )

    # Levels of binding

    def _either(self) -> Node:
        return self._joined("or", self._both, Either)

    def _both(self) -> Node:
        return self._joined("and", self._not, Both)

    def _joined(self, word: str, inner: Callable[[], Node], kind: Callable[[tuple[Node, ...]], Node]) -> Node:
        parts = [inner()]
        while self._take(word):
            parts.append(inner())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _not(self) -> Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        with_depth = self._deeper(token.at)
        node = Not(self._not())
        self._depth = with_depth
        return node

    def _comparison(self) -> Node:
        left = self._operand()
        op = self._operator()
        if op is None:
            return left
        right = self._operand()
        another = self._peek.at
        if self._operator() is not None:
            self._fail(another, "one comparison at a time: join two with 'and'")
        return Compare(op, left, right)

    def _operator(self) -> str | None:
        token = self._take(*_COMPARISONS)
        if token is not None:
            return token.text
        following = self._tokens[self._next + 1] if self._peek.text == "not" else None
        if following is None or following.text != "in":
            return None
        self._next += 2
        return "not in"

    def _operand(self) -> Node:
        token = self._peek
        self._next += 1
        match token.kind:
            case "number":
                is_whole = token.text.lstrip("-").isdigit()
                return Literal(int(token.text) if is_whole else float(token.text))
            case "text":
                return Literal(self._unescaped(token))
            case "name" if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            case "name" if token.text not in _WORDS:
                return self._path(token)
            case "sign" if token.text in "([":
                outer = self._deeper(token.at)
                node = self._list() if token.text == "[" else self._grouped()
                self._depth = outer
                return node
            case _:
                found = f"found {token.text!r}" if token.text else "found the end"
                self._fail(token.at, f"expected a value (a path, a text, a number, true, null, a list); {found}")

    def _deeper(self, at: int) -> int:
        outer = self._depth
        self._depth += 1
        if self._depth > DEEPEST:
            self._fail(at, f"it is nested more than {DEEPEST} deep")
        return outer

    def _grouped(self) -> Node:
        node = self._either()
        self._need(")")
        return node

    def _list(self) -> Node:
        items: list[Node] = []
        while not self._take("]"):
            items.append(self._operand())
            if not self._take(","):
                self._need("]")
                break
        return ListOf(tuple(items))

    def _path(self, root: _Token) -> Path:
        if root.text not in ("event", "data", "own"):
            self._fail(
                root.at, f"{root.text!r} is unknown; a path begins with 'event', 'data' (of that event) or 'own' (the run's own "
                f"event), a text stands in quotes",
            )  # fmt: skip
        keys: list[PathKey] = ["data"] if root.text == "data" else []
        while sign := self._take(".", "["):
            keys.append(self._name_after(sign) if sign.text == "." else self._index())
        if not keys or keys[0] not in _FIELDS:
            self._fail(root.at, f"an event has {root.text}.name, {root.text}.id and {root.text}.data")
        return Path(root.text == "own", tuple(keys))

    def _name_after(self, dot: _Token) -> str:
        token = self._peek
        if token.kind != "name":
            self._fail(token.at, "expected a name after the dot; another key is written ['…'] or [0]")
        self._next += 1
        return token.text

    def _index(self) -> PathKey:
        token = self._peek
        self._next += 1
        if token.kind == "text":
            key: PathKey = self._unescaped(token)
        elif token.kind == "number" and token.text.isdigit():
            key = int(token.text)
        else:
            self._fail(token.at, "expected a text or a number from 0 between the brackets")
        self._need("]")
        return key

    def _unescaped(self, token: _Token) -> str:
        def one(found: re.Match[str]) -> str:
            known = _ESCAPES.get(found[1])
            if known is None:
                self._fail(token.at + found.start() + 1, f"the escape \\{found[1]} is unknown")
            return known

        return re.sub(r"\\(.)", one, token.text[1:-1], flags=re.DOTALL)


def _example(what: str) -> str:
    return "match='data.user_id'" if what == "match" else "where=\"event.data.status == 'paid'\""
