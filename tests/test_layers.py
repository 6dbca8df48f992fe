"""Imports point down only, `supervisors` knows nothing of workflows, and no module keeps state of its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _read_layers(package: str) -> dict[str, tuple[str, ...]]:
    """The modules of each layer, as `layers.txt` lists them."""
    layers: dict[str, list[str]] = {}
    names: list[str] = []
    for line in (ROOT / "tests" / "layers.txt").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+): ([\w ]+)\]", line):
            names = layers.setdefault(heading[2], []) if heading[1] == package else []
        elif line and not line.startswith("#"):
            names.append("" if line == "(the package itself)" else line)
    return {layer: tuple(found) for layer, found in layers.items()}


SUPERVISORS = _read_layers("supervisors")
ROTOR_ACTORS = _read_layers("rotor_actors")


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    is_for_types: bool

    def __str__(self) -> str:
        return f"{_file_of(self.importer)}:{self.line} imports {self.imported}"


def _layered(package: str, layers: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Each module with its layer, from the bottom to the top."""
    return {f"{package}.{name}".rstrip("."): layer for layer, names in layers.items() for name in names}


LAYER_OF = _layered("supervisors", SUPERVISORS) | _layered("rotor_actors", ROTOR_ACTORS)
HEIGHT = {module: height for height, module in enumerate(LAYER_OF)}


def _file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def _modules() -> Iterator[str]:
    for package in ("supervisors", "rotor_actors"):
        for path in (ROOT / package).rglob("*.py"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / _file_of(module)).read_text(encoding="utf-8"))


def _imports(module: str) -> list[Import]:
    """All imports of our own modules, wherever they stand: at the top, in a function, under `if TYPE_CHECKING`."""
    tree = _tree(module)
    for_types = {id(node) for block in ast.walk(tree) if _is_for_types(block) for node in ast.walk(block)}
    return [
        Import(module, imported, node.lineno, id(node) in for_types)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for imported in _imported(module, node)
    ]


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _imported(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert node.level == 0, f"{_file_of(module)}:{node.lineno}: write the whole name of what is imported"
        # `from a import b`: b may be a module, or something in a.
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        known = next((each for each in (name, name.rpartition(".")[0]) if each in LAYER_OF), None)
        if known is not None and known != module:
            yield known


@pytest.mark.parametrize(
    ("package", "layers"), [("supervisors", SUPERVISORS), ("rotor_actors", ROTOR_ACTORS)], ids=lambda value: str(value)[:12]
)  # fmt: skip
def test_each_module_has_its_place_in_the_layer_list(package: str, layers: dict[str, tuple[str, ...]]) -> None:
    found = {module for module in _modules() if module.split(".")[0] == package}
    assert set(_layered(package, layers)) == found, "add a new module where it belongs, drop one that is gone"
    assert len({name for names in layers.values() for name in names}) == len(found), "a module stands in two layers"


def test_the_design_page_describes_each_layer_in_the_same_order() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = page[page.index("| layer of `rotor_actors`") :]
    described = re.findall(r"^\| ([\w ]+) \|", table[: table.index("\n\n")], re.MULTILINE)
    assert described == list(ROTOR_ACTORS)
    for layer in SUPERVISORS:
        assert f"{layer} (" in " ".join(page.split()) or layer == "face", layer


def _up(*, for_types: bool) -> list[str]:
    return [
        f"{each}: {LAYER_OF[each.imported]!r} stands above {LAYER_OF[each.importer]!r}, or later in the same layer"
        for module in _modules()
        for each in _imports(module)
        if HEIGHT[each.imported] > HEIGHT[each.importer] and each.is_for_types is for_types
    ]


def test_imports_point_down_only() -> None:
    wrong = _up(for_types=False)
    assert not wrong, "\n".join(["", *wrong])


def test_imports_for_type_checkers_point_down_only() -> None:
    """A circle of types is a hint that one of them lives in the wrong file."""
    wrong = _up(for_types=True)
    assert not wrong, "\n".join(["", *wrong, "let the lower file accept a narrow Protocol instead"])


def test_supervisors_know_nothing_of_rotor_actors() -> None:
    wrong = [str(each) for module in _modules() if module.startswith("supervisors") for each in _imports(module)
             if each.imported.startswith("rotor_actors")]  # fmt: skip
    assert not wrong, wrong


# State


MUTABLE = {"dict", "list", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict", "ContextVar", "local",
           "WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "count", "Lock", "Event"}  # fmt: skip
CACHES = {"cache", "lru_cache", "cached"}
CHANGING = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
            "reverse", "setdefault", "sort", "update"}  # fmt: skip


def _name(node: ast.expr) -> str:
    """The last name of `a.b.C(…)`, `a.b.C`, `C[int]`."""
    match node:
        case ast.Call():
            return _name(node.func)
        case ast.Subscript():
            return _name(node.value)
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
        case _:
            return ""


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and _name(value) in MUTABLE


def _module_level(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None, int]]:
    for node in tree.body:
        match node:
            case ast.Assign():
                yield from ((_name(target), node.value, node.lineno) for target in node.targets)
            case ast.AnnAssign():
                yield _name(node.target), node.value, node.lineno
            case _:
                pass


def _state(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a module keeps between calls. A table with a constant's name is none, as long as nobody changes it."""
    tables: set[str] = set()
    for name, value, line in _module_level(tree):
        if _is_mutable(value) and name != "__all__":
            if name.isupper():
                tables.add(name)
            else:
                yield line, f"{name} is a module's own {ast.unparse(value) if value else ''}"
    for node in ast.walk(tree):
        match node:
            case ast.Global():
                yield node.lineno, f"global {', '.join(node.names)}"
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found = [_name(each) for each in node.decorator_list if _name(each) in CACHES]
                yield from ((node.lineno, f"{node.name} is cached for the whole process") for _ in found)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if name in tables:
                yield node.lineno, f"{name} is changed"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if (
                name in tables and attr in CHANGING
            ):
                yield node.lineno, f"{name} is changed"
            case _:
                pass


def test_no_module_keeps_state_so_that_two_runtimes_in_one_process_do_not_meet() -> None:
    wrong = [f"{_file_of(module)}:{line}: {what}" for module in _modules() for line, what in _state(_tree(module))]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "is_state"),
    [
        ("registry = {}", True),
        ("registry: dict[str, int] = dict()", True),
        ("_seen = defaultdict(list)", True),
        ("TABLE = {1: 2}", False),
        ("TABLE = {1: 2}\ndef f(): TABLE[3] = 4", True),
        ("TABLE = []\ndef f(): TABLE.append(4)", True),
        ("def f():\n    global x\n    x = 1", True),
        ("@functools.lru_cache(maxsize=8)\ndef f(): ...", True),
        ("NAMES = frozenset({'a'})\n_PATTERN = re.compile('a')\nlog = logging.getLogger('a')", False),
        ("__all__ = ['a']", False),
    ],
)
def test_what_counts_as_state(source: str, is_state: bool) -> None:
    assert bool(list(_state(ast.parse(source)))) is is_state
