"""The examples in docstrings work, and whatever is public has a docstring."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import pytest

import rotor_actors
import rotor_actors.errors
import supervisors
from rotor_actors import Context, RetryPolicy, RunHandle, Runtime, Step, Workflow
from supervisors import Supervisor

FACES = [rotor_actors, rotor_actors.errors, supervisors]
# The classes that users call methods of.
CALLED = [Context, RetryPolicy, RunHandle, Runtime, Step, Supervisor, Workflow]


def _modules() -> Iterator[str]:
    for package in (rotor_actors, supervisors):
        yield package.__name__
        yield from (found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))


@pytest.fixture(scope="module")
def described_values() -> set[str]:
    """Module-level names (type aliases, constants) with a text below their assignment."""
    found: set[str] = set()
    for name in _modules():
        body = ast.parse(inspect.getsource(importlib.import_module(name))).body
        for node, below in pairwise(body):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                match node:
                    case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
                        found.add(target)
                    case _:
                        pass
    return found


@pytest.mark.parametrize("name", list(_modules()))
def test_examples_in_docstrings_work(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, "see the report above"


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    with_examples = [
        test for name in _modules() for test in finder.find(importlib.import_module(name)) if test.examples
    ]
    assert len(with_examples) >= 8, [test.name for test in with_examples]


def _public(face: ModuleType) -> list[str]:
    names: list[str] = face.__all__
    return names


@pytest.mark.parametrize("face", FACES, ids=lambda face: str(face.__name__))
def test_every_public_name_exists_and_is_listed_once_in_order(face: ModuleType) -> None:
    names = _public(face)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(face, name)] == []


@pytest.mark.parametrize(("face", "name"), [(face, name) for face in FACES for name in _public(face)])
def test_every_public_name_has_a_docstring(face: ModuleType, name: str, described_values: set[str]) -> None:
    value = getattr(face, name)
    if name in described_values:
        return
    if isinstance(value, type) or inspect.isfunction(value):
        own = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
        assert own, f"{name} has no docstring"
        assert not own.startswith(f"{name}("), f"{name} has only the docstring that dataclass wrote"
    else:
        pytest.fail(f"write a docstring below the assignment of {name}")


@pytest.mark.parametrize("called", CALLED, ids=lambda called: str(called.__name__))
def test_every_public_method_has_a_docstring(called: type) -> None:
    missing = [
        name
        for name, value in vars(called).items()
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)) and not value.__doc__
    ]
    assert missing == []
