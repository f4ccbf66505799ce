"""What importing the adapter needs, and what it leaves alone. Each case in a process of its own."""

import subprocess
import sys

import pytest

ABSENT = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import agentref
from agentref.errors import MissingExtraError
"""
CHANGED = """
import importlib.metadata as metadata
stock = metadata.version
metadata.version = lambda name: {versions!r}.get(name) or stock(name)
import agentref
from agentref.errors import ConfigurationError
"""


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_workflows_it_is_a_missing_extra() -> None:
    assert "agentref-checkpoint[llamaindex]" in said(
        ABSENT.format(absent=["workflows"]) + "try:\n    import agentref.adapters.llamaindex\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )


def test_without_core_only_its_stores_are_missing() -> None:
    assert (
        said(
            ABSENT.format(absent=["llama_index", "llama_index.core"])
            + "import agentref.adapters.llamaindex as room\n"
            "for name in ('AgentRefKVStore', 'AgentRefChatStore', 'AgentRefAsyncDBChatStore'):\n"
            "    try:\n        getattr(room, name)\n    except MissingExtraError as error:\n"
            "        print('llama-index-core' in str(error))\n"
        ).split()
        == ["True"] * 3
    )


def test_without_the_server_only_its_store_is_missing() -> None:
    assert "agentref-checkpoint[llamaindex-server]" in said(
        ABSENT.format(absent=["llama_agents.server"]) + "import agentref.adapters.llamaindex as room\n"
        "room.AgentRefSerializer, room.AgentRefStateStorage\n"
        "try:\n    room.AgentRefWorkflowStore\nexcept MissingExtraError as error:\n    print(error)\n"
    )


def test_importing_it_imports_neither_core_nor_the_server() -> None:
    assert (
        said(
            "import sys, agentref.adapters.llamaindex\n"
            "heavy = ('llama_index.core', 'llama_agents', 'sqlalchemy')\n"
            "print([name for name in heavy if name in sys.modules])"
        ).strip()
        == "[]"
    )


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("llama-index-workflows", "2.23.3"),
        ("llama-index-workflows", "3.0.0"),
        ("llama-index-core", "0.14.24"),
        ("llama-index-core", "0.15.0"),
    ],
)
def test_another_release_is_refused_when_the_adapter_is_imported(package: str, version: str) -> None:
    message = said(
        CHANGED.format(versions={package: version}) + "try:\n    import agentref.adapters.llamaindex\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    assert f"{package} {version} is installed" in message
    assert "agentref-checkpoint[llamaindex]" in message


def test_another_release_of_the_server_is_refused_when_its_store_is_asked_for() -> None:
    assert "0.9.1 is installed" in said(
        CHANGED.format(versions={"llama-agents-server": "0.9.1"})
        + "import agentref.adapters.llamaindex as room\n"
        "try:\n    room.AgentRefWorkflowStore\nexcept ConfigurationError as error:\n    print(error)\n"
    )


def test_a_pydantic_that_cannot_dump_a_simple_chat_store_is_refused_where_that_is_wrapped() -> None:
    assert said(
        CHANGED.format(versions={"pydantic": "2.14.3"})
        + "from agentref.adapters.llamaindex import AgentRefAsyncDBChatStore, AgentRefChatStore\n"
        "from agentref.storage import InMemoryCAS\n"
        "from llama_index.core.storage.chat_store import SimpleChatStore\n"
        "from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore\n"
        "AgentRefAsyncDBChatStore(SQLAlchemyChatStore('messages'), backend=InMemoryCAS())\n"
        "try:\n    AgentRefChatStore(SimpleChatStore(), backend=InMemoryCAS())\n"
        "except ConfigurationError as error:\n    print(error)\n"
    ).startswith("pydantic 2.14.3 is installed")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import agentref.adapters.llamaindex as room

    with pytest.raises(AttributeError, match="Missing"):
        _ = room.Missing
