"""A real store that remembers what it was asked for, and modules made from source."""

import importlib.util
import sys
import textwrap

import pytest

from agentref.storage import InMemoryCAS


class WatchedCAS(InMemoryCAS):
    """An in-memory store that notes each batch: ("load", 2) is one call for two values."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def load_many(self, refs):
        refs = list(refs)
        self.calls.append(("load", len(refs)))
        return super().load_many(refs)

    def dump_many(self, values, *, ttl=None):
        values = list(values)
        self.calls.append(("dump", len(values)))
        return super().dump_many(values, ttl=ttl)

    async def aload_many(self, refs):
        refs = list(refs)
        self.calls.append(("aload", len(refs)))
        return await super().aload_many(refs)

    async def adump_many(self, values, *, ttl=None):
        values = list(values)
        self.calls.append(("adump", len(values)))
        return await super().adump_many(values, ttl=ttl)


@pytest.fixture
def store():
    with WatchedCAS() as cas:
        yield cas


@pytest.fixture
def module(tmp_path):
    """Import a piece of source as a module of its own, with its own `__future__`."""
    made = []

    def load(source):
        path = tmp_path / f"state_module_{len(made)}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = loaded
        made.append(path.stem)
        spec.loader.exec_module(loaded)
        return loaded

    yield load
    for name in made:
        del sys.modules[name]
