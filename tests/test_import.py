"""Importing the library brings in what it needs and nothing else. What an import costs is for `benchmarks/`."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rotor_actors

ROOT = Path(__file__).resolve().parent.parent
# What an application may well have installed, and a library has no business to load for it.
UNWANTED = frozenset({
    "aiohttp", "asyncpg", "attr", "attrs", "dbos", "django", "fastapi", "httpx", "hypothesis", "multiprocessing",
    "numpy", "opentelemetry", "prometheus_client", "psycopg", "pydantic", "pytest", "ray", "requests", "rich",
    "sqlalchemy", "sqlite3", "starlette", "structlog", "trio", "uvicorn", "uvloop",
})  # fmt: skip


def _loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after this statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import rotor_actors", "from rotor_actors import *", "import rotor_actors.errors", "from supervisors import *"],
)
def test_import_loads_nothing_that_is_not_needed(statement: str) -> None:
    packages = {name.partition(".")[0] for name in _loaded_by(statement)}
    assert statement.split()[1].partition(".")[0] in packages
    assert not packages & UNWANTED


def test_the_package_loads_what_is_asked_for_and_no_more() -> None:
    assert not {"rotor_actors.errors", "msgspec", "asyncio"} & _loaded_by("import rotor_actors")
    assert not {"rotor_actors.engine", "apsw"} & _loaded_by("from rotor_actors import RetryPolicy, RunStatus")
    assert not {"rotor_actors.engine", "apsw"} & _loaded_by("import rotor_actors; rotor_actors.errors.StoreError")


@pytest.mark.one_owner("it is about the names, one of which a stand-in has taken")
def test_type_checkers_and_programs_find_each_public_name_in_the_same_place() -> None:
    """Static imports, which type checkers read, and the table that `__getattr__` reads at run time."""
    tree = ast.parse((ROOT / "rotor_actors" / "__init__.py").read_text("utf-8"))
    seen = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: f"{node.module}" for node in seen for alias in node.names}
    assert homes.pop("import_module") == "importlib"
    assert homes.pop("TYPE_CHECKING") == "typing"
    assert sorted(homes) == sorted(rotor_actors.__all__)
    for name, module in homes.items():
        assert getattr(rotor_actors, name) is getattr(importlib.import_module(module), name)


def test_the_package_lists_its_names_and_refuses_others() -> None:
    assert set(rotor_actors.__all__) <= set(dir(rotor_actors))
    with pytest.raises(AttributeError, match="'rotor_actors' has no attribute 'Runtme'"):
        getattr(rotor_actors, "Runtme")  # noqa: B009
    with pytest.raises(ImportError, match="Runtme"):
        exec("from rotor_actors import Runtme")


def test_supervisors_can_be_imported_without_the_runtime() -> None:
    loaded = {name.partition(".")[0] for name in _loaded_by("import supervisors")}
    assert not loaded & {"rotor_actors", "anyio", "msgspec", "apsw", "aiorwlock"}


def test_import_leaves_out_what_only_some_programs_use_and_what_opening_loads_anyway() -> None:
    loaded = _loaded_by("from rotor_actors import *")
    assert not loaded & {"anyio._backends._asyncio", "anyio.streams.tls", "cronsim", "zoneinfo"}


def test_import_changes_nothing_in_asyncio() -> None:
    """The order of sets inside run loops is installed when a runtime is opened, not before."""
    code = "import asyncio.tasks; from rotor_actors import *; print(hasattr(asyncio.tasks, 'set'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "package", ["rotor_actors", "rotor_actors.simulation", "rotor_actors.telemetry", "supervisors"]
)
def test_no_module_stands_in_the_way_of_a_public_name(package: str) -> None:
    """Importing `package.name` as a module sets the package's attribute `name`, which then hides what is public."""
    folder = ROOT.joinpath(*package.split("."))
    modules = {path.stem for path in folder.iterdir()}
    assert not modules & set(importlib.import_module(package).__all__)
