"""Whether a state is one for this agent or team: AutoGen takes many another for one without messages."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from autogen_agentchat.agents import SocietyOfMindAgent
from autogen_agentchat.teams import BaseGroupChat
from autogen_core import SingleThreadedAgentRuntime

from agentref.errors import InvalidInputError

__all__ = ["CONTEXT_STATE", "check_kind", "paths_of_users"]

CONTEXT_STATE: Final = "AgentRefChatCompletionContextState"
"""The `type` of the state of our model context, whose messages are still refs for AutoGen."""

_CONTAINER_STATE: Final = "ChatAgentContainerState"
_LISTS: Final = ("messages", "message_thread", "message_buffer")
_DICTS: Final = ("agent_states", "agent_state", "inner_team_state", "llm_context")


def check_kind(obj: object, own: Any, state: Mapping[str, Any]) -> None:
    """Compare a state with what `obj` saves now: the same types, of its agents too, with the lists and
    dicts that AutoGen always writes.

    What loads by a `load_state` of a user's own may load whatever it likes. Raises `InvalidInputError`.
    """
    if not isinstance(obj, SingleThreadedAgentRuntime):
        _check(obj, own, state, "state")
        return
    for key in own.keys() & state.keys():
        if isinstance(own[key], Mapping) and own[key].get("type") == _CONTAINER_STATE:
            _check(None, own[key], state[key], f"state[{key!r:.120}]", member=obj)


def paths_of_users(obj: object, path: str = "") -> Iterator[str]:
    """Where in a state of `obj` stands what is loaded by a `load_state` of a user's own."""
    if isinstance(obj, SingleThreadedAgentRuntime):
        return
    if not _is_of_autogen(obj):
        yield path
    elif isinstance(obj, SocietyOfMindAgent):
        yield from paths_of_users(_team(obj), f"{path}['inner_team_state']")
    elif isinstance(obj, BaseGroupChat):
        for name, member in _members(obj).items():
            yield from paths_of_users(member, f"{path}['agent_states'][{name!r:.60}]['agent_state']")


def _check(loader: object, own: Any, state: Any, path: str, *, member: object = None) -> None:
    """Args: the agent or team that loads it, None for a part of AutoGen's machinery; and for a container,
    the agent in it."""
    if not isinstance(own, Mapping) or not _is_of_autogen(loader):
        return
    _compare(own, state, path)
    if "agent_state" in own:
        _check(member, own["agent_state"], state["agent_state"], f"{path}['agent_state']")
    if "inner_team_state" in own:
        _check(
            _team(loader), own["inner_team_state"], state["inner_team_state"], f"{path}['inner_team_state']"
        )
    if "llm_context" in own and "messages" in own["llm_context"]:
        _check_context(state["llm_context"], f"{path}['llm_context']")
    if "agent_states" in own:
        members = _members(loader)
        for name, part in own["agent_states"].items():
            if name not in state["agent_states"]:
                raise _refusal(f"{path}['agent_states']", f"the state of {name!r:.60} was not found")
            here = f"{path}['agent_states'][{name!r:.60}]"
            _check(None, part, state["agent_states"][name], here, member=members.get(name))


def _compare(own: Mapping[str, Any], state: Any, path: str) -> None:
    if not isinstance(state, Mapping):
        raise _refusal(path, f"a state is a dict, not {type(state).__qualname__}")
    if state.get("type") != own.get("type"):
        raise _refusal(
            path,
            f"this one is of type {state.get('type')!r:.60}, and what is loaded here is of "
            f"{own.get('type')!r:.60}",
        )
    for key in _missing(own, state):
        raise _refusal(path, f"there is no {key!r} in it")


def _check_context(state: Mapping[str, Any], path: str) -> None:
    """That of one of AutoGen's contexts, which ours takes as well; ours names itself."""
    if state.get("type") != CONTEXT_STATE:
        for key in _missing({"messages": []}, state):
            raise _refusal(path, f"there is no {key!r} in it")


def _missing(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    """The lists and dicts that are not there, or are something else."""
    for keys, kind in ((_LISTS, list), (_DICTS, Mapping)):
        yield from (key for key in keys if key in own and not isinstance(state.get(key), kind))


def _team(agent: object) -> Any:
    return getattr(agent, "_team", None)


def _members(team: object) -> dict[str, Any]:
    members = getattr(team, "_participants", ()) if isinstance(team, BaseGroupChat) else ()
    return {member.name: member for member in members}


def _is_of_autogen(loader: object) -> bool:
    module = getattr(getattr(type(loader), "load_state", None), "__module__", "")
    return loader is None or module.startswith("autogen_agentchat.")


def _refusal(path: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: {what}. It was saved by something else, or is damaged. AutoGen could take it "
        f"for one without messages."
    )
