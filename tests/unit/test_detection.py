"""Which framework is at work: explicit wins, then configured, then what is loaded."""

import json
import subprocess
import sys

import pytest

import agentref
from agentref import AgentRefState, Externalized, Framework, errors
from agentref.storage import InMemoryCAS


class State(AgentRefState):
    docs: Externalized[list[dict]]


@pytest.fixture(autouse=True)
def unsettled():
    yield
    agentref.configure(framework=None, backend=None)


def detected(*imports, configure=None, explicit=None):
    """What a process of its own finds that has imported these."""
    program = f"""
import importlib, json, agentref
for name in {list(imports)!r}:
    importlib.import_module(name)
if {configure!r}:
    agentref.configure(framework={configure!r})
try:
    print(json.dumps(["found", agentref.detect_active_framework({explicit!r})]))
except agentref.AgentRefError as error:
    print(json.dumps([error.code, error.message, getattr(error, "candidates", None)]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("imports", "framework"),
    [
        (["langgraph.graph"], "langgraph"),
        (["llama_index.core.workflow"], "llamaindex"),
        (["workflows"], "llamaindex"),
        (["autogen_agentchat"], "autogen"),
        (["autogen_core"], "autogen"),
        (["ag2"], "ag2"),
    ],
)
def test_what_is_loaded_is_found(imports, framework):
    assert detected(*imports) == ["found", framework]


def test_several_that_are_loaded_are_named_with_the_remedy():
    code, message, candidates = detected("langgraph.graph", "autogen_core")
    assert code == "ambiguous_framework" and candidates == ["langgraph", "autogen"]
    assert "explicit='langgraph'" in message and "configure(framework=" in message


def test_configured_goes_before_loaded_and_explicit_before_both():
    both = ("langgraph.graph", "autogen_core")
    assert detected(*both, configure="autogen") == ["found", "autogen"]
    assert detected(*both, configure="autogen", explicit="llamaindex") == ["found", "llamaindex"]


def test_nothing_is_loaded_and_importing_agentref_loads_no_framework():
    code, message, _ = detected()
    assert code == "no_framework_detected" and "Import" in message
    program = "import agentref, sys; print(sorted(name.split('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"langgraph", "workflows", "llama_index", "autogen_core", "ag2", "sqlite3"} & set(
        eval(loaded.stdout)
    )


@pytest.mark.parametrize(
    ("spelling", "framework"),
    [
        ("LangGraph", Framework.LANGGRAPH),
        ("deepagents", Framework.LANGGRAPH),
        ("llama-index", Framework.LLAMAINDEX),
        ("llama_index", Framework.LLAMAINDEX),
        ("pyautogen", Framework.AUTOGEN),
        (Framework.AG2, Framework.AG2),
    ],
)
def test_spellings(spelling, framework):
    assert agentref.detect_active_framework(spelling) is framework


@pytest.mark.parametrize("name", ["", "lang", 3, object()])
def test_a_name_of_none(name):
    for verb in (agentref.detect_active_framework, lambda name: agentref.configure(framework=name)):
        with pytest.raises(errors.InvalidInputError, match="no framework"):
            verb(name)


@pytest.mark.parametrize(
    ("framework", "module", "kind"),
    [
        ("langgraph", "agentref.adapters.langgraph", "LangGraphAdapter"),
        ("llamaindex", "agentref.adapters.llamaindex", "LlamaIndexAdapter"),
        ("autogen", "agentref.adapters.autogen", "AutoGenAdapter"),
    ],
)
def test_auto_adapt_makes_the_frameworks_adapter(framework, module, kind):
    cas = InMemoryCAS()
    adapter = agentref.auto_adapt(State, framework, backend=cas)
    assert type(adapter) is getattr(sys.modules[module], kind)
    assert adapter.backend is cas


def test_auto_adapt_takes_the_store_that_was_configured():
    cas = InMemoryCAS()
    agentref.configure(backend=cas, framework="langgraph")
    assert agentref.auto_adapt(State).backend is cas
    assert agentref.configured().backend is cas
    other = InMemoryCAS()
    assert agentref.auto_adapt(State, backend=other).backend is other


def test_auto_adapt_says_what_is_missing():
    with pytest.raises(errors.ConfigurationError, match="backend="):
        agentref.auto_adapt(State, "langgraph")
    with pytest.raises(errors.StateDefinitionError, match="AgentRefState"):
        agentref.auto_adapt(dict, "autogen", backend=InMemoryCAS())
    with pytest.raises(
        errors.InvalidInputError, match="takes no inline_threshold_bytes; its options are also"
    ):
        agentref.auto_adapt(State, "autogen", backend=InMemoryCAS(), inline_threshold_bytes=9)
    with pytest.raises(errors.ConfigurationError, match="history storage"):
        agentref.auto_adapt(State, "ag2", backend=InMemoryCAS())
    with pytest.raises(errors.InvalidInputError, match="FilesystemCAS"):
        agentref.configure(backend="./state_blobs")
