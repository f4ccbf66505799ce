"""What a field's metadata asks of LangGraph."""

import operator
from typing import Annotated, Any

import pytest
from langgraph.channels import Topic
from langgraph.managed import IsLastStep

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph.kinds import ChannelKind, kind_of


class Replace:
    def __call__(self, left: Any, right: Any) -> Any:
        return right


REDUCE = Replace()


class State(AgentRefState):
    plain: Inline[str]
    external: Externalized[str]
    added: Annotated[Inline[int], operator.add]
    external_added: Annotated[Externalized[list[str]], operator.add]
    by_object: Annotated[Externalized[str], "documented", REDUCE]
    described: Annotated[Externalized[str], "documented"]
    topic: Annotated[Inline[list[str]], Topic(str)]
    last: Annotated[Inline[bool], *IsLastStep.__metadata__]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", ChannelKind(None, is_foreign=False, is_checked=True)),
        ("external", ChannelKind(None, is_foreign=False, is_checked=False)),
        ("added", ChannelKind(operator.add, is_foreign=False, is_checked=True)),
        ("external_added", ChannelKind(operator.add, is_foreign=False, is_checked=False)),
        ("by_object", ChannelKind(REDUCE, is_foreign=False, is_checked=False)),
        ("described", ChannelKind(None, is_foreign=False, is_checked=False)),
        ("topic", ChannelKind(None, is_foreign=True, is_checked=False)),
        ("last", ChannelKind(None, is_foreign=True, is_checked=False)),
    ],
)
def test_metadata_is_read_as_langgraph_reads_it(name: str, expected: ChannelKind) -> None:
    assert kind_of(State.schema(), name) == expected
