"""What stands at the positions of a checkpoint, and what comes back from there."""

from typing import Any

import pytest
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agentref.adapters.langgraph.values import inner_value, place, placed_ref, unplaced
from agentref.refs import ContentRef, Digest

REF = ContentRef(Digest(bytes(32)), "agr1", 3, "store")


def test_a_ref_in_place_of_a_value_is_loaded() -> None:
    stored = place("a value", REF)
    assert placed_ref(stored) == REF
    assert unplaced(stored, ["loaded"]) == "loaded"


def test_a_ref_that_is_itself_the_value_comes_back_as_a_ref() -> None:
    assert inner_value(REF) is None, "there is nothing in it to store"
    stored = place(REF, None)
    assert placed_ref(stored) is None
    restored = unplaced(stored, [])
    assert restored == REF and restored.backend_id == "store"


@pytest.mark.parametrize(
    "user_data",
    [
        REF.to_dict(),
        place(REF, None),
        place(REF.to_dict(), None),
        {"__agentref__": {"ref": [1]}},
        {"__agentref__": 1},
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, _DeltaSnapshot], ids=["plain", "snapshot"])
def test_user_data_that_looks_like_either_is_neither(user_data: Any, wrap: Any) -> None:
    stored = place(wrap(user_data), None)
    assert placed_ref(stored) is None
    restored = unplaced(stored, [])
    assert (restored.value if isinstance(restored, _DeltaSnapshot) else restored) == user_data
