"""The expressions of `where` and `match`: what they say, what is refused and where, and that none can do any harm."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from rotor_actors.errors import ExpressionError
from rotor_actors.events.expression import Compare, bind, equality, holds, look_up, own_paths
from rotor_actors.events.parsing import DEEPEST, LONGEST, condition, parse, parse_match
from rotor_actors.events.waiters import Waiter, Waiters

DATA = {
    "status": "paid", "amount": 10.5, "n": 0, "yes": True, "no": False, "nothing": None, "tags": ["a", "b"],
    "user": {"id": 7, "a b": [{"x": 1}]}, "and": 3, "text": "it's",
}  # fmt: skip
EVENT = {"name": "order", "id": "e1", "data": DATA}


@pytest.mark.parametrize(
    "text",
    [
        "event.data.status == 'paid'",
        'data.status == "paid"',
        "  data.status=='paid'  ",
        "data.amount > 10 and data.amount >= 10.5 and data.amount < 1.1e1 and data.amount <= 10.5",
        "data.n == 0 and data.n == 0.0 and data.n != -1 and data.n > -1",
        "data.yes and not data.no and data.yes == true and data.no == False",
        "data.nothing == null and data.missing == null and data.user.id.deeper == None",
        "data.missing != 1 and not data.missing == 1",
        "data.status in ['free', 'paid'] and data.n not in [1, 2]",
        "'a' in data.tags and 'c' not in data.tags",
        "'ai' in data.status and not 'x' in data.status",
        "'id' in data.user",
        "data.user['a b'][0].x == 1",
        "data.tags[1] == 'b' and data.tags[2] == null",
        "data.and == 3",
        "data.text == 'it\\'s' and data.text == \"it's\"",
        "data.tags == ['a', 'b'] and data.tags != ['b', 'a']",
        "event.name == 'order' and event.id == 'e1'",
        "data.no or data.n or data.yes",
        "data.no or data.yes and data.yes",
        "not data.no and (data.no or data.yes)",
        "not not data.yes",
        "data.user.id == data.user.id",
        "1 < 2",
        "[] == []",
        "data.user.id in [5, data.user.id]",
    ],
)
def test_what_is_true(text: str) -> None:
    assert holds(parse(text), EVENT)
    assert not holds(parse(f"not ({text})"), EVENT)


@pytest.mark.parametrize(
    "text",
    [
        "data.yes == 1",
        "data.n == false",
        "data.status > 5",
        "data.status < 5",
        "data.nothing < 1",
        "data.yes > data.no",
        "data.missing > 0",
        "data.missing in data.missing",
        "5 in data.status",
        "data.n",
        "data.no and data.yes or data.no",
    ],
)
def test_what_is_false_and_never_an_error(text: str) -> None:
    assert not holds(parse(text), EVENT)
    assert not holds(parse("data.x.y[0] == 1 and data.y < 'a'"), {"name": "e", "id": "", "data": None})


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("data.a && data.b", 7, "write 'and'"),
        ("data.a || data.b", 7, "write 'or'"),
        ("!data.a", 0, "write 'not'"),
        ("data.a = 1", 7, "write '=='"),
        ("data.a === 1", 9, "write '=='"),
        ("status == 'paid'", 0, "'status' is unknown"),
        ("event.status == 1", 0, "an event has event.name, event.id and event.data"),
        ("event", 0, "an event has"),
        ("own.time == 1", 0, "an event has own.name"),
        ("data.a == ", 9, "found the end"),
        ("", 0, "found the end"),
        ("data.a == 'x", 10, "has no end"),
        ("data.a < 1 < 2", 11, "one comparison at a time"),
        ("data.a data.b", 7, "expected the end"),
        ("(data.a == 1", 12, r"expected '\)'"),
        ("data.a in [1 2]", 13, "expected ']'"),
        ("data. == 1", 6, "expected a name after the dot"),
        ("data[x] == 1", 5, "expected a text or a number"),
        ("data[-1] == 1", 5, "expected a text or a number"),
        ("data.a == 1x", 10, "no meaning"),
        ("data.a == 'a\\q'", 12, r"the escape \\q is unknown"),
        ("__import__('os')", 0, "'__import__' is unknown"),
        ("data.a.__class__()", 16, "expected the end"),
        ("lambda: 1", 6, "no meaning"),
        ("and", 0, "expected a value"),
        ("(" * (DEEPEST + 1), DEEPEST, "nested more than"),
        ("not " * (DEEPEST + 1) + "true", 4 * DEEPEST, "nested more than"),
        ("data.a == 1" + " " * LONGEST, 0, "the limit is"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text: str, position: int, why: str) -> None:
    with pytest.raises(ExpressionError, match=why) as raised:
        parse(text)
    assert raised.value.position == position
    assert raised.value.expression == text
    if 0 < len(text) < LONGEST:
        assert f"\n    {text}\n    {' ' * position}^" in str(raised.value)


@pytest.mark.parametrize("text", [5, None, ["data.a"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(ExpressionError, match="expected a text"):
        parse(text)


@pytest.mark.parametrize("text", ["", "data", "own.data.x", "'data.x'", "data.x == 1", "data.x, data.y", "user", "1"])
def test_what_is_no_path_is_no_match(text: str) -> None:
    if text == "data":
        assert isinstance(parse_match(text), Compare)
        return
    with pytest.raises(ExpressionError, match="match="):
        parse_match(text)


def test_the_own_event_is_bound_once_and_needs_no_second_look() -> None:
    node = condition("data.user.id", "data.amount >= own.data.least and own.id in [own.data.a, 'own-1']")
    assert node is not None
    own = {"id": "own-1", "name": "n", "data": {"user": {"id": 7}, "least": 10}}
    values = [look_up(own, path.keys) for path in own_paths(node)]
    assert values == [7, 10, "own-1", None]
    ready = bind(node, iter(values))
    assert not own_paths(ready)
    assert holds(ready, EVENT)
    assert equality(ready) == (("data", "user", "id"), 7)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data.a == 1", (("data", "a"), 1)),
        ("'x' == data.a", (("data", "a"), "x")),
        ("data.b > 1 and (data.c == null and data.d)", (("data", "c"), None)),
        ("data.a == 1 or data.a == 2", None),
        ("not data.a == 1", None),
        ("data.a == data.b", None),
        ("data.a == [1]", None),
        ("data.a != 1", None),
        ("data.a", None),
    ],
)
def test_an_equality_that_must_hold_is_found(text: str, found: object) -> None:
    assert equality(parse(text)) == found


# The index


def an_event(**data: Any) -> dict[str, Any]:
    return {"name": "e", "id": "", "data": data}


def test_a_hundred_thousand_waiters_on_one_name_are_not_looked_at_one_by_one() -> None:
    waiters: Waiters[int] = Waiters()
    node = parse_match("data.order")
    for n in range(100_000):
        waiters.add(Waiter(n, "e", bind(node, iter([n])), None))
    some = Waiter(-1, "e", parse("data.order > 99990"), None)
    waiters.add(some)
    assert [waiter.owner for waiter in waiters.matching(an_event(order=5), 0)] == [5]
    assert waiters.evaluations == 2
    assert [waiter.owner for waiter in waiters.matching(an_event(order=99_999), 0)] == [99_999, -1]
    assert waiters.evaluations == 4
    assert waiters.matching(an_event(), 0) == []
    assert waiters.matching({**an_event(order=5), "name": "f"}, 0) == []
    assert waiters.evaluations == 5


def test_waiters_come_in_their_order_until_their_time_and_are_gone_when_discarded() -> None:
    waiters: Waiters[str] = Waiters()
    given = [
        Waiter("any", "e", None, None),
        Waiter("equal", "e", parse("data.x == 1"), 10.0),
        Waiter("looked at", "e", parse("data.x < 5"), 20.0),
        Waiter("equal elsewhere", "e", parse("data.y == 1 and data.x == 1"), None),
    ]
    for waiter in given:
        waiters.add(waiter)
    event = an_event(x=1, y=1)
    assert waiters.matching(event, 9.9) == given
    assert waiters.matching(event, 10.0) == [given[0], *given[2:]]
    assert [waiter.owner for waiter in waiters.matching(event, 20.0)] == ["any", "equal elsewhere"]
    for waiter in given:
        waiters.discard(waiter)
        waiters.discard(waiter)
    assert len(waiters) == 0
    assert not waiters.are_for("e")


def test_the_index_finds_what_looking_at_all_finds() -> None:
    chance = random.Random(1)
    values = [0, 1, 1.0, True, False, None, "a", "1", [1], {"k": 1}, float("nan"), b"a"]
    names = ["a", "b"]
    literals = ["0", "1", "true", "'a'", "'1'", "null"]
    texts = [f"data.{name} == {literal}" for name in names for literal in literals]
    texts += [f"{one} {word} {two}" for one, two in itertools.permutations(texts[:5], 2) for word in ("and", "or")]
    texts += ["data.a == own.data.a", "data.b in [own.data.a, 1]"]
    waiters: Waiters[int] = Waiters()
    every: list[Waiter[int]] = []
    for n in range(300):
        node = parse(chance.choice(texts))
        every.append(Waiter(n, "e", bind(node, iter([chance.choice(values)] * 2)), None))
        waiters.add(every[-1])
    for _ in range(300):
        event = an_event(**{name: chance.choice(values) for name in names if chance.random() < 0.8})
        expected = [waiter.owner for waiter in every if holds(waiter.node, event)]
        assert [waiter.owner for waiter in waiters.matching(event, 0)] == expected
