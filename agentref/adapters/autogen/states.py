"""Checks before AutoGen's own, whose errors speak of old releases, and a way back if it refuses a state."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from agentref.adapters.autogen.kinds import CONTEXT_STATE, check_kind, paths_of_users
from agentref.adapters.autogen.owned import unowned
from agentref.errors import AgentRefError, InvalidInputError, InvalidRefError
from agentref.refs import REF_KEY
from agentref.trees import Stateful

__all__ = ["checked_state", "load_or_restore", "plain_state"]

_MESSAGES: Final = frozenset({"messages", "message_thread", "message_buffer"})
_STATES: Final = frozenset({"agent_state", "llm_context", "inner_team_state", "agent_states"})


async def plain_state(obj: object) -> Any:
    """What `obj` saves. Raises `InvalidInputError` if it has no state."""
    return await _result(_stateful(obj).save_state())


def checked_state(obj: object, state: Any) -> Any:
    """The state, if it can be one. Raises `InvalidInputError`."""
    _stateful(obj)
    if not isinstance(state, Mapping):
        raise InvalidInputError(
            f"A state is a dict, not {type(state).__qualname__}. If it is JSON: json.loads(text)."
        )
    return state if isinstance(state, dict) else dict(state)


def _stateful(obj: object) -> Stateful:
    if not isinstance(obj, Stateful):
        raise InvalidInputError(
            f"{type(obj).__qualname__} has not got both save_state() and load_state(). Give an agent, a "
            f"team or a runtime."
        )
    return obj


async def load_or_restore(obj: Stateful, state: Any) -> None:
    """Load a rehydrated state; if that fails midway, `obj` gets back what it had. Raises what `obj` does,
    and `InvalidInputError` or `InvalidRefError` where AutoGen would tell something else."""
    before = await _before(obj)
    left = list(_unresolved(state))
    users = tuple(paths_of_users(obj, state))  # in what is theirs, a ref may be for an adapter of theirs
    ours = [path for path, is_ours in left if is_ours]
    foreign = [path for path, is_ours in left if not is_ours and not path.startswith(users)]
    if foreign:
        raise InvalidRefError(
            f"state{foreign[0]} is still a ref: the state was externalized twice. A state that comes back "
            f"from "
            f"JSON is loaded, not externalized again."
        )
    if before is not None:
        check_kind(obj, before, state)
    try:
        await _result(obj.load_state(state))
    except BaseException as error:
        if before is not None:
            with suppress(Exception):
                await _result(obj.load_state(before))
        if ours and isinstance(error, ValueError) and not isinstance(error, AgentRefError):
            raise InvalidRefError(
                f"{type(obj).__qualname__} refused the state. state{ours[0]} was saved by an "
                f"AgentRefChatCompletionContext: the agent it is for must have one as well."
            ) from error
        raise


async def _before(obj: Stateful) -> Any:
    """What `obj` has to get back if it refuses a state; None if it cannot save yet, as an agent of a user's
    own that has not run."""
    try:
        with unowned():
            return await _result(obj.save_state())
    except AgentRefError:
        raise
    except Exception:  # noqa: BLE001  (of a user's code, and AutoGen would not have called it)
        return None


def _unresolved(part: Any, path: str = "", *, is_ours: bool = False) -> Iterator[tuple[str, bool]]:
    """Where AutoGen would look for a message or a state and find a ref; whether our context wrote it."""
    if not isinstance(part, Mapping):
        return
    is_ours = is_ours or part.get("type") == CONTEXT_STATE
    for key, value in part.items():
        here = f"{path}[{key!r:.60}]"
        if key in _MESSAGES and isinstance(value, list):
            yield from ((f"{here}[{index}]", is_ours) for index, item in enumerate(value) if _is_ref(item))
        elif isinstance(value, Mapping):
            if key in _STATES and _is_ref(value):
                yield here, is_ours
            else:
                yield from _unresolved(value, here, is_ours=is_ours)


def _is_ref(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) == 1 and REF_KEY in value


async def _result(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given
