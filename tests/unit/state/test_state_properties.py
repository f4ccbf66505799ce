"""Whatever is done to a state, it is a dict of its fields, and a checkpoint of it is the same state."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentref.refs import ContentRef
from agentref.state import AgentRefState, Externalized, Inline, Placement, Schema
from agentref.storage import InMemoryCAS

FIELDS = ["step", "note", "docs", "html"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


class Any4(AgentRefState):
    step: Inline[object]
    note: Inline[object]
    docs: Externalized[object]
    html: Externalized[object]


class StateIsADict(RuleBasedStateMachine):
    """The model is a plain dict. A state may be checkpointed and restored at any moment."""

    def __init__(self):
        super().__init__()
        self.store = InMemoryCAS()
        self.state = Any4()
        self.model = {}

    def teardown(self):
        self.store.close()

    @rule(name=st.sampled_from(FIELDS), value=values)
    def assign(self, name, value):
        self.state[name] = value
        self.model[name] = value

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def read(self, data):
        name = data.draw(st.sampled_from(sorted(self.model)))
        assert getattr(self.state, name) == self.model[name]

    @rule(value=values)
    def change_in_place(self, value):
        for name, kept in self.model.items():
            if isinstance(kept, list):
                mine = self.state[name]
                mine.append(value)
                if mine is not kept:
                    kept.append(value)

    @rule()
    def restore(self):
        data = self.state.to_checkpoint_dict(self.store)
        assert data.keys() == self.model.keys()
        for name in data.keys() & Any4.schema().external:
            ContentRef.from_dict(data[name])
        self.model = {name: self.store.load(self.store.dump(value)) for name, value in self.model.items()}
        self.state = Any4.from_checkpoint_dict(data, self.store)

    @rule(names=st.lists(st.sampled_from(FIELDS)))
    def load(self, names):
        self.state.load(*names)

    @invariant()
    def the_same_fields_are_set(self):
        assert list(self.state) == [name for name in FIELDS if name in self.model]

    @invariant()
    def every_external_field_is_touched_or_has_a_ref_or_is_unset(self):
        external = self.model.keys() & Any4.schema().external
        assert self.state.touched() | self.state.refs().keys() == external
        assert not self.state.touched() & self.state.refs().keys()


TestStateIsADict = StateIsADict.TestCase


@given(st.dictionaries(st.sampled_from(FIELDS), values))
def test_a_checkpoint_of_a_state_is_the_same_state(given_values):
    with InMemoryCAS() as store:
        state = Any4(**given_values)
        again = Any4.from_checkpoint_dict(state.to_checkpoint_dict(store), store)
        assert again == state
        assert again.to_checkpoint_dict(store) == state.to_checkpoint_dict(store)
        assert dict(again) == given_values


@given(st.dictionaries(st.sampled_from([*FIELDS, "other", ""]), values))
def test_a_split_loses_and_invents_nothing(updates):
    schema = Schema.of(Any4)
    split = schema.split(updates)
    assert split.inline | split.external | split.unknown == updates
    assert len(split.inline) + len(split.external) + len(split.unknown) == len(updates)
    assert split.external.keys() == updates.keys() & schema.external
    assert all(schema.fields[name].placement is Placement.INLINE for name in split.inline)
