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


def paths_of_users(obj: object, state: Mapping[str, Any]) -> Iterator[str]:
    """Where in a state for `obj` stands what is loaded by a `load_state` of a user's own, or may be."""
    if not isinstance(obj, SingleThreadedAgentRuntime):
        yield from _paths(obj, "")
        return
    agents = {str(key): agent for key, agent in _instances(obj).items()}
    for key in state:
        here = f"[{key!r:.60}]"
        if key not in agents or not _is_of_autogen(agents[key]):
            yield here
        elif (inside := getattr(agents[key], "_agent", None)) is not None:
            yield from _paths(inside, f"{here}['agent_state']")


def _paths(obj: object, path: str) -> Iterator[str]:
    if not _is_of_autogen(obj):
        yield path
    elif isinstance(obj, SocietyOfMindAgent):
        yield from _paths(_team(obj), f"{path}['inner_team_state']")
    elif isinstance(obj, BaseGroupChat):
        manager = _manager(obj)
        for name, member in _members(obj).items():
            inside = "" if member is manager else "['agent_state']"
            yield from _paths(member, f"{path}['agent_states'][{name!r:.60}]{inside}")
    elif not _is_stock_context(obj):
        yield f"{path}['llm_context']"


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
    if "llm_context" in own and "messages" in own["llm_context"] and _is_stock_context(loader):
        _check_context(state["llm_context"], f"{path}['llm_context']")
    if "agent_states" in own:
        members, manager = _members(loader), _manager(loader)
        for name, part in own["agent_states"].items():
            if name not in state["agent_states"]:
                raise _refusal(f"{path}['agent_states']", f"the state of {name!r:.60} was not found")
            here = f"{path}['agent_states'][{name!r:.60}]"
            member = members.get(name)
            machinery = member if member is manager else None
            _check(machinery, part, state["agent_states"][name], here, member=member)


def _compare(own: Mapping[str, Any], state: Any, path: str) -> None:
    if not isinstance(state, Mapping):
        raise _refusal(path, f"a state is a dict, not {type(state).__qualname__}")
    if "type" in state and state["type"] != own.get("type"):  # AutoGen's own have a default for it
        raise _refusal(
            path,
            f"this one is of type {state.get('type')!r:.60}, and what is loaded here is of "
            f"{own.get('type')!r:.60}",
        )
    for key in _missing(own, state):
        raise _refusal(path, f"there is no {key!r} in it, as in every {own.get('type')!r:.60}")


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
    """The participants by name, and the manager."""
    members = getattr(team, "_participants", ()) if isinstance(team, BaseGroupChat) else ()
    by_name = {member.name: member for member in members}
    if (manager := _manager(team)) is not None:
        by_name[getattr(team, "_group_chat_manager_name", "")] = manager
    return by_name


def _manager(team: object) -> Any:
    """None if it was not made yet, or is in another process."""
    topic, key = (getattr(team, name, None) for name in ("_group_chat_manager_topic_type", "_team_id"))
    for agent_id, agent in _instances(getattr(team, "_runtime", None)).items():
        if agent_id.type == topic and agent_id.key == key:
            return agent
    return None


def _instances(runtime: object) -> Mapping[Any, Any]:
    """The agents that were made in a runtime, by their ids."""
    return getattr(runtime, "_instantiated_agents", {})


def _is_of_autogen(loader: object) -> bool:
    """Whether AutoGen's own code writes and reads its state; None is for a part of the machinery."""
    return loader is None or all(
        _module(loader, verb).startswith("autogen_agentchat.") for verb in ("save_state", "load_state")
    )


def _is_stock_context(agent: object) -> bool:
    """Whether the model context of an agent, if it has one, takes what AutoGen's contexts save."""
    context = getattr(agent, "_model_context", None)
    if _module(context, "load_state").startswith("agentref.adapters.autogen."):
        context = getattr(context, "_inner", None)
    return context is None or all(
        _module(context, verb).startswith("autogen_core.") for verb in ("save_state", "load_state")
    )


def _module(owner: object, verb: str) -> str:
    return getattr(getattr(type(owner), verb, None), "__module__", "")


def _refusal(path: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: {what}. It was saved by something else, or is damaged. AutoGen could take it "
        f"for one without messages."
    )
