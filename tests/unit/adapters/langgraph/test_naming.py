"""Names of channels for a coordinator: data, of which no two mean one thing."""

import itertools

import pytest

from agentref.adapters.langgraph import channel_key, current_agent
from agentref.adapters.langgraph.naming import namespace_key, thread_key, thread_prefixes
from agentref.coherence.keys import encode_key
from agentref.errors import ConfigurationError

ODD = ["t", "", "a/b", "a|b:c", "langgraph", "langgraph#", "ü" * 150, "x" * 401, "y" * 5000, "\ud800", "\0"]


def test_a_channel_is_named_by_its_thread_its_namespace_and_itself() -> None:
    assert channel_key("t", "docs") == ("langgraph", "t", "", "docs")
    assert channel_key(7, "docs", "child:1|x") == ("langgraph", "7", "child:1|x", "docs")


def test_whatever_threads_and_namespaces_are_called_no_two_channels_have_one_key() -> None:
    places = list(itertools.product(ODD, ODD))
    keys = {encode_key(channel_key(thread, "docs", namespace)) for thread, namespace in places}
    assert len(keys) == len(places)
    assert len({encode_key(thread_key(thread)) for thread in ODD}) == len(ODD)


def test_no_thread_can_be_named_like_one_that_is_hashed() -> None:
    hashed = thread_key("x" * 401)[1]
    assert thread_key(hashed) != thread_key("x" * 401)
    assert channel_key(hashed, "docs") != channel_key("x" * 401, "docs")


@pytest.mark.parametrize("thread", ODD)
@pytest.mark.parametrize("namespace", ["", "child", "z" * 401])
def test_all_keys_of_a_thread_begin_with_one_of_its_prefixes(thread: str, namespace: str) -> None:
    key = namespace_key(thread, namespace)
    assert key[:2] in thread_prefixes(thread)


def test_outside_of_a_run_nobody_says_which_agent_this_is() -> None:
    with pytest.raises(ConfigurationError, match="Give it a name"):
        current_agent()
