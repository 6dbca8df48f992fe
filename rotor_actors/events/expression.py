"""The expressions of `where`: is this event one that is waited for? Parsed once, by a parser of our own; never `eval`.

    event.data.status == 'paid' and event.data.amount >= own.data.amount
    data.country in ['de', 'fr'] and not data.test

`event` is the event that comes in (`event.name`, `event.id`, `event.data…`), `data` is short for `event.data`, and
`own` is the event that started the run which waits. A path that is not there is `null`. Nothing is ever raised when
it is evaluated: values that cannot be compared are neither less nor greater.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

import msgspec

from rotor_actors.errors import ExpressionError

LONGEST = 2_000
DEEPEST = 50

PathKey: TypeAlias = str | int

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


class Literal(msgspec.Struct, frozen=True):
    value: Any


class ListOf(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]


class Path(msgspec.Struct, frozen=True):
    """A place in an event: `event.data.user.id` is `is_own=False, keys=("data", "user", "id")`."""

    is_own: bool
    keys: tuple[PathKey, ...]


class Compare(msgspec.Struct, frozen=True):
    op: str
    left: Node
    right: Node


class Not(msgspec.Struct, frozen=True):
    operand: Node


class Both(msgspec.Struct, frozen=True):
    parts: tuple[Node, ...]


class Either(msgspec.Struct, frozen=True):
    parts: tuple[Node, ...]


Node: TypeAlias = Literal | ListOf | Path | Compare | Not | Both | Either


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


# Evaluating


def look_up(event: Any, keys: Sequence[PathKey]) -> Any:
    """The value at a path in an event of plain data, or None where there is none."""
    for key in keys:
        if isinstance(event, dict):
            event = event.get(key)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif isinstance(event, list | tuple) and type(key) is int and key < len(event):  # pyright: ignore[reportUnknownArgumentType]
            event = event[key]  # pyright: ignore[reportUnknownVariableType]
        else:
            return None
    return event  # pyright: ignore[reportUnknownVariableType]


def own_paths(node: Node) -> list[Path]:
    """The paths into the run's own event, in the order in which `bind` takes their values."""
    match node:
        case Path():
            return [node] if node.is_own else []
        case Compare():
            return own_paths(node.left) + own_paths(node.right)
        case Not():
            return own_paths(node.operand)
        case Both() | Either():
            return [path for part in node.parts for path in own_paths(part)]
        case ListOf():
            return [path for item in node.items for path in own_paths(item)]
        case Literal():
            return []


def bind(node: Node, values: Iterator[Any]) -> Node:
    """The expression with values in place of the paths into the run's own event."""
    match node:
        case Path():
            return Literal(next(values)) if node.is_own else node
        case Compare():
            return Compare(node.op, bind(node.left, values), bind(node.right, values))
        case Not():
            return Not(bind(node.operand, values))
        case Both():
            return Both(tuple(bind(part, values) for part in node.parts))
        case Either():
            return Either(tuple(bind(part, values) for part in node.parts))
        case ListOf():
            return ListOf(tuple(bind(item, values) for item in node.items))
        case Literal():
            return node


def equality(node: Node | None) -> tuple[tuple[PathKey, ...], Any] | None:
    """A place in the event and the value it must have, if the (bound) expression demands one that can be looked up."""
    if isinstance(node, Both):
        return next((found for part in node.parts if (found := equality(part)) is not None), None)
    if not isinstance(node, Compare) or node.op != "==":
        return None
    for path, other in ((node.left, node.right), (node.right, node.left)):
        if isinstance(path, Path) and not path.is_own and isinstance(other, Literal) and is_indexable(other.value):
            return path.keys, other.value
    return None


def is_indexable(value: Any) -> bool:
    """It equals itself, and has a hash that says so."""
    return value is None or type(value) in (bool, int, str, bytes) or (type(value) is float and value == value)


def index_key(value: Any) -> Any:
    """As in the expressions, 1 equals 1.0, and not true."""
    return (value,) if type(value) is bool else value


def holds(node: Node | None, event: Any) -> bool:
    """Is the (bound) expression true of this event?"""
    return node is None or bool(_value(node, event))


def _value(node: Node, event: Any) -> Any:
    match node:
        case Literal():
            return node.value
        case Path():
            return look_up(event, node.keys)
        case Compare():
            return _compare(node.op, _value(node.left, event), _value(node.right, event))
        case Both():
            return all(_value(part, event) for part in node.parts)
        case Either():
            return any(_value(part, event) for part in node.parts)
        case Not():
            return not _value(node.operand, event)
        case ListOf():
            return [_value(item, event) for item in node.items]


def _compare(op: str, left: Any, right: Any) -> bool:
    match op:
        case "==":
            return _equal(left, right)
        case "!=":
            return not _equal(left, right)
        case "in":
            return _contains(left, right)
        case "not in":
            return not _contains(left, right)
        case _:
            return _in_order(op, left, right)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return bool(left == right)


def _contains(item: Any, container: Any) -> bool:
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, list | tuple | set | frozenset | dict):
        return any(_equal(item, each) for each in container)  # pyright: ignore[reportUnknownVariableType]
    return False


def _in_order(op: str, left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    try:
        match op:
            case "<":
                return bool(left < right)
            case "<=":
                return bool(left <= right)
            case ">":
                return bool(left > right)
            case _:
                return bool(left >= right)
    except TypeError:
        return False
