"""A state in memory: reading, setting, comparing, copying, and behaving as a mapping."""

import copy
import pickle

import pytest

from agentref.errors import StateError, UnknownFieldError, UnsetFieldError
from agentref.state import AgentRefState, Externalized, Inline, field


class RAGState(AgentRefState):
    question: Inline[str]
    docs: Externalized[list[str]]
    tries: Inline[int] = 0

    @property
    def first(self):
        return self.docs[0]

    @property
    def shout(self):
        return self.question.upper()

    @shout.setter
    def shout(self, value):
        self.question = value.lower()


def test_fields_are_read_and_set_as_attributes_and_as_items():
    state = RAGState(question="q", docs=["a"])
    assert (state.question, state["docs"], state.tries) == ("q", ["a"], 0)
    state.question = "r"
    state["docs"] = ["b"]
    assert (state["question"], state.docs) == ("r", ["b"])


def test_a_field_may_be_given_later():
    state = RAGState(question="q")
    with pytest.raises(UnsetFieldError, match=r"RAGState\.docs has no value yet"):
        _ = state.docs
    with pytest.raises(UnsetFieldError, match="docs"):
        state["docs"]
    state.docs = ["a"]
    assert state.docs == ["a"]


def test_an_unset_field_is_what_attribute_and_item_access_expect():
    state = RAGState()
    assert getattr(state, "docs", None) is None
    assert not hasattr(state, "docs")
    with pytest.raises(KeyError):
        state["docs"]


@pytest.mark.parametrize(
    "use",
    [
        lambda state: RAGState(dcos=["a"]),
        lambda state: state.dcos,
        lambda state: state["dcos"],
        lambda state: state.get("dcos"),
        lambda state: state.load("dcos"),
        lambda state: setattr(state, "dcos", 1),
        lambda state: state.__setitem__("dcos", 1),
        lambda state: delattr(state, "dcos"),
    ],
)
def test_a_name_that_is_not_declared_is_refused_with_the_closest_ones(use):
    state = RAGState(question="q", docs=["a"])
    with pytest.raises(UnknownFieldError, match=r"no field 'dcos'. Did you mean 'docs'\?"):
        use(state)
    assert state == RAGState(question="q", docs=["a"])


def test_an_item_that_is_no_name_is_refused():
    with pytest.raises(UnknownFieldError, match="no field 3"):
        RAGState()[3]
    assert 3 not in RAGState()


def test_a_field_cannot_be_deleted():
    state = RAGState(question="q")
    with pytest.raises(StateError, match="'question' cannot be deleted"):
        del state.question
    assert state.question == "q"


def test_a_property_works_and_its_error_is_its_own():
    state = RAGState(question="q", docs=["a"])
    state.shout = "LOUD"
    assert (state.question, state.shout, state.first) == ("loud", "LOUD", "a")
    with pytest.raises(UnsetFieldError, match="docs"):
        _ = RAGState().first


def test_a_state_is_a_mapping_of_the_fields_that_are_set():
    state = RAGState(docs=["a"])
    assert list(state) == state.keys() == ["docs", "tries"]
    assert ("docs" in state, "question" in state, "other" in state) == (True, False, False)
    assert len(state) == 2
    assert state.values() == [["a"], 0]
    assert state.items() == [("docs", ["a"]), ("tries", 0)]
    assert {**state} == dict(state) == {"docs": ["a"], "tries": 0}
    assert RAGState(**state) == state


def test_get_answers_for_declared_fields():
    state = RAGState(docs=["a"])
    assert state.get("docs") == ["a"]
    assert state.get("question") is None
    assert state.get("question", "none yet") == "none yet"


def test_none_is_a_value():
    state = RAGState(question=None)
    assert "question" in state
    assert state.question is None


def test_states_are_equal_by_class_and_values():
    class Other(RAGState):
        pass

    state = RAGState(question="q", docs=["a"])
    assert state == RAGState(docs=["a"], question="q")
    assert state != RAGState(question="q", docs=["b"])
    assert state != RAGState(question="q")
    assert state != Other(question="q", docs=["a"])
    assert state != {"question": "q", "docs": ["a"], "tries": 0}


def test_a_state_equals_itself_whatever_it_holds():
    nan = float("nan")
    assert RAGState(question=nan) == RAGState(question=nan)


def test_a_state_is_not_hashable():
    with pytest.raises(TypeError):
        hash(RAGState())


def test_the_repr_shows_what_is_set_and_stays_short():
    state = RAGState(question="q", docs=["x" * 100_000])
    assert repr(RAGState(question="q")) == "RAGState(question='q', tries=0)"
    assert len(repr(state)) < 200


def test_the_repr_of_a_state_that_holds_itself_ends():
    state = RAGState()
    state.docs = [state]
    assert repr(state) == "RAGState(docs=[...], tries=0)"


def test_a_copy_is_independent_and_shares_values():
    state = RAGState(question="q", docs=["a"])
    twin = copy.copy(state)
    twin.question = "r"
    twin.docs.append("b")
    assert type(twin) is RAGState
    assert (state.question, state.docs) == ("q", ["a", "b"])


def test_a_deep_copy_shares_nothing_and_keeps_cycles():
    state = RAGState(question="q", docs=["a"])
    state.docs.append(state)
    twin = copy.deepcopy(state)
    twin.docs[0] = "b"
    assert state.docs[0] == "a"
    assert twin.docs[1] is twin


def test_a_state_is_not_pickled_and_says_what_to_do():
    with pytest.raises(StateError, match="to_checkpoint_dict"):
        pickle.dumps(RAGState(question="q"))


def test_a_constructor_of_ones_own_may_take_what_it_likes():
    class S(AgentRefState):
        question: Inline[str]
        docs: Externalized[list[str]] = field(default_factory=list)

        def __init__(self, question, *docs):
            super().__init__(question=question)
            self.docs.extend(docs)

    state = S("q", "a", "b")
    assert (state.question, state.docs) == ("q", ["a", "b"])


def test_a_field_may_be_called_like_an_argument():
    names = ["self", "cls", "name", "value", "store", "data"]
    state_class = type("S", (AgentRefState,), {"__annotations__": dict.fromkeys(names, Inline[str])})
    state = state_class(**{name: name for name in names})
    assert dict(state) == {name: name for name in names}
