"""The public names of every room, pinned. After a wanted change: `python tests/test_public_api.py --write`.

A room is a package or module right below `agentref` or `agentref.adapters`; what it promises is its
`__all__`. Signatures are read from the source, so that every version of Python prints the same.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

GOLDEN = Path(__file__).parent / "golden" / "public_api.txt"
CONTAINERS = ("agentref", "agentref.adapters")
CALLED = ("__init__", "__new__", "__call__")
KINDS = {property: "@property", classmethod: "@classmethod", staticmethod: "@staticmethod"}


def rooms() -> Iterator[ModuleType]:
    yield importlib.import_module("agentref")
    for container in CONTAINERS:
        package = importlib.import_module(container)
        for found in pkgutil.iter_modules(package.__path__, f"{container}."):
            if not found.name.rpartition(".")[2].startswith("_"):
                yield importlib.import_module(found.name)


def exports() -> list[tuple[str, str, object]]:
    """(room, name, object) of everything that a room promises, in order."""
    return [
        (room.__name__, name, getattr(room, name))
        for room in sorted(rooms(), key=lambda room: room.__name__)
        for name in sorted(getattr(room, "__all__", ()))
    ]


def is_ours(item: object) -> bool:
    return str(getattr(item, "__module__", "")).startswith("agentref")


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """What `cls` defines, or inherits from a class of ours that is not itself public."""
    published = {id(item) for _, _, item in exports() if item is not cls}
    seen = set[str]()
    for owner in cls.__mro__:
        if is_ours(owner) and id(owner) not in published:
            for name, member in vars(owner).items():
                if (name in CALLED or not name.startswith("_")) and name not in seen:
                    seen.add(name)
                    yield name, member


def parsed(item: object) -> ast.stmt | None:
    """The definition of a class or function, or None for what was generated or is not Python."""
    try:
        if not str(inspect.getsourcefile(item)).endswith(".py"):  # type: ignore[arg-type]
            return None
        return ast.parse(textwrap.dedent(inspect.getsource(item))).body[0]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return None


def signature(name: str, function: object) -> str:
    node = parsed(inspect.unwrap(function))  # type: ignore[arg-type]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"def {name}{inspect.signature(function)}"  # type: ignore[arg-type]
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {name}({ast.unparse(node.args)}){result}"


def fields(cls: type) -> Iterator[str]:
    node = parsed(cls)
    for statement in node.body if isinstance(node, ast.ClassDef) else ():
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        if any(isinstance(target, ast.Name) and not target.id.startswith("_") for target in targets):
            yield ast.unparse(statement)


def class_lines(name: str, cls: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    # The order of fields is the order of arguments.
    yield from (f"    {field}" for field in fields(cls))
    for member_name, member in sorted(public_members(cls)):
        kind = KINDS.get(type(member), "")
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        generated = member_name in CALLED and parsed(function) is None
        if inspect.isroutine(function) and is_ours(function) and not generated:
            yield f"    {kind}{' ' if kind else ''}{signature(member_name, function)}"


def item_lines(name: str, item: object) -> Iterator[str]:
    if isinstance(item, type):
        yield from class_lines(name, item)
    elif inspect.isroutine(item):
        yield signature(name, item)
    elif isinstance(item, bool | int | float | str | bytes):
        yield f"{name} = {item!r}"
    else:
        yield name


def snapshot() -> str:
    lines, current = list[str](), None
    for room, name, item in exports():
        if room != current:
            lines += ["", f"# {room}"] if lines else [f"# {room}"]
            current = room
        lines += item_lines(name, item)
    return "\n".join(lines) + "\n"


def test_the_public_names_are_those_that_were_published() -> None:
    remedy = "If the change is wanted: python tests/test_public_api.py --write, and read the diff."
    assert snapshot().splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines(), remedy


def test_every_room_says_what_it_publishes() -> None:
    assert [
        room.__name__
        for room in rooms()
        if not hasattr(room, "__all__") and room.__name__ not in CONTAINERS
    ] == []


def undocumented() -> Iterator[str]:
    for room, name, item in exports():
        if not (isinstance(item, type) or inspect.isroutine(item)) or not is_ours(item):
            continue
        # A dataclass or a protocol without a docstring is given its signature as one.
        if not item.__doc__ or item.__doc__.startswith(f"{name}("):
            yield f"{room}.{name}"
        if isinstance(item, type):
            for member_name, member in public_members(item):
                is_code = inspect.isroutine(member) or isinstance(
                    member, property | classmethod | staticmethod
                )
                # The class says how it is made; an override inherits what its base promises; the name
                # of a clause of a contract is its promise.
                if member_name in CALLED or member_name.startswith("test_"):
                    continue
                if is_code and not inspect.getdoc(getattr(item, member_name)):
                    yield f"{room}.{name}.{member_name}"


def test_every_public_name_says_what_it_promises() -> None:
    assert list(undocumented()) == []


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_public_api.py --write")
    GOLDEN.write_text(snapshot(), encoding="utf-8")
    print(f"{GOLDEN}: {snapshot().count(chr(10))} lines")
