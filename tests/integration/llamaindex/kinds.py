"""A state class of what pydantic has something to say about, and values for its fields, right and wrong."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as of_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    SerializeAsAny,
    computed_field,
    conint,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict
from workflows.events import Event, SerializableEvent, SerializableEventType

from agentref import AgentRefState, Inline

T = TypeVar("T")


class Hue(Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(IntEnum):
    LOW = 1


class Modes(Flag):
    R = 1
    W = 2


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tail: bool = True


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Aliased(BaseModel):
    name: str = Field(alias="n")


class ByAlias(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    name: str = Field(alias="n")


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="n")


class Choosing(BaseModel):
    name: str = Field(validation_alias=AliasChoices("name", "n"))


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    @property
    def area(self) -> int:
        return self.width**2


class Lenient(BaseModel):
    width: int

    @computed_field
    @property
    def area(self) -> int:
        return self.width**2


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime


class Own(BaseModel):
    """Writes and reads itself in a form of its own."""

    pair: tuple[int, int]

    @field_serializer("pair")
    def _dumped(self, pair: tuple[int, int]) -> str:
        return "x".join(map(str, pair))

    @field_validator("pair", mode="before")
    @classmethod
    def _read(cls, pair: Any) -> Any:
        return pair.split("x") if isinstance(pair, str) else pair


class OneWay(BaseModel):
    """Writes itself in a form that it does not read."""

    pair: tuple[int, int]

    @field_serializer("pair")
    def _dumped(self, pair: tuple[int, int]) -> str:
        return "x".join(map(str, pair))


class Ordered(BaseModel):
    low: int
    high: int

    @model_validator(mode="after")
    def _check(self) -> "Ordered":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Tree(BaseModel):
    name: str
    below: "list[Tree]" = []


class Box(BaseModel, Generic[T]):
    inside: T


class Numbers(RootModel[list[int]]):
    pass


class Animal(BaseModel):
    name: str


class Parrot(Animal):
    words: list[str]


class Cage(BaseModel):
    animal: SerializeAsAny[Animal]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class ClosedParrot(Closed):
    words: list[str]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Hiding(BaseModel):
    secret: SecretStr
    hidden: str = Field(exclude=True)


class Sending(BaseModel):
    event: SerializableEvent


class Message(Event):
    text: str


@dataclass
class Point:
    x: int
    y: float = 0.0
    tags: list[str] = of_dataclass(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    when: datetime


@dataclass
class Derived:
    x: int
    twice: int = of_dataclass(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.x


class Row(TypedDict):
    id: str
    score: float


class Name(NamedTuple):
    first: str
    last: str


def _is_positive(value: int) -> int:
    if value <= 0:
        raise ValueError("not positive")
    return value


def _has_dot(value: str) -> str:
    assert "." in value, "has no dot"
    return value


def _split(text: str) -> list[str]:
    return text.split(",")


class Kinds(AgentRefState):
    anything: Inline[Any]
    nothing: Inline[None]
    open_or: Inline[str | list[dict[str, Any]]]
    positive: Inline[Annotated[int, AfterValidator(_is_positive)]]
    dotted: Inline[Annotated[list[Annotated[str, AfterValidator(_has_dot)]], Field(max_length=2)]]
    limited: Inline[Annotated[int, Field(ge=0, le=10)]]
    old: Inline[conint(gt=3)]
    split: Inline[Annotated[list[str], BeforeValidator(_split), PlainSerializer(",".join)]]
    only_split: Inline[Annotated[list[str], BeforeValidator(_split)]]
    hue: Inline[Hue]
    level: Inline[Level]
    modes: Inline[Modes]
    literal: Inline[Literal["a", 1]]
    pet: Inline[Pet]
    pets: Inline[list[Pet]]
    either: Inline[int | str | list[int]]
    optional: Inline[Point | None]
    union: Inline[Point | Row]
    aliased: Inline[Aliased]
    by_alias: Inline[ByAlias]
    by_name: Inline[ByName]
    choosing: Inline[Choosing]
    computed: Inline[Computed]
    lenient: Inline[Lenient]
    strict: Inline[Strict]
    own: Inline[Own]
    one_way: Inline[OneWay]
    floats: Inline[list[float]]
    by_name_of: Inline[dict[str, float]]
    ordered: Inline[Ordered]
    tree: Inline[Tree]
    box: Inline[Box[int]]
    numbers: Inline[Numbers]
    animal: Inline[Animal]
    cage: Inline[Cage]
    closed: Inline[Closed]
    open: Inline[Open]
    hiding: Inline[Hiding]
    sending: Inline[Sending]
    event: Inline[SerializableEvent]
    kinds: Inline[list[SerializableEventType]]
    message: Inline[Message]
    messages: Inline[list[Message]]
    point: Inline[Point]
    frozen: Inline[Frozen]
    derived: Inline[Derived]
    row: Inline[Row]
    rows: Inline[list[Row]]
    name: Inline[Name]
    set_of: Inline[set[int]]
    frozen_set: Inline[frozenset[str]]
    fixed: Inline[tuple[int, str]]
    queue: Inline[deque[int]]
    sequence: Inline[Sequence[int]]
    nested: Inline[dict[str, list[tuple[int, ...]]]]
    by_int: Inline[dict[int, str]]
    by_hue: Inline[dict[Hue, int]]
    by_pair: Inline[dict[tuple[int, int], str]]
    when: Inline[datetime]
    day: Inline[date]
    hour: Inline[time]
    span: Inline[timedelta]
    price: Inline[Decimal]
    path: Inline[Path]
    uuid: Inline[UUID]
    data: Inline[bytes]
    large: Inline[int]
    cls: Inline[type[Event]]
    call: Inline[Callable[[int], int]]
    later: Inline["Tree"]
    stream: Inline[Iterable[int]]
    iterator: Inline[Iterator[int]]


NOW = datetime(2026, 1, 1, tzinfo=UTC)
CASES = [
    ("anything", {"a": (1, {2}, NOW)}),
    ("anything", Message(text="a")),
    ("nothing", 5), ("nothing", None), ("open_or", [{1: {2}}]), ("open_or", [1]), ("open_or", "a"),
    ("positive", 5), ("positive", -5), ("positive", "5"), ("positive", True),
    ("dotted", ["a.b"]), ("dotted", ["ab"]), ("dotted", ["a."] * 3),
    ("limited", 3), ("limited", 11), ("old", 4), ("old", 3),
    ("split", ["a", "b"]), ("split", []), ("split", "ab"), ("only_split", ["a", "b"]),
    ("hue", Hue.RED), ("hue", "red"), ("hue", Hue.PAIR), ("hue", "blue"),
    ("level", Level.LOW), ("level", 1), ("level", 2), ("modes", Modes.R | Modes.W), ("modes", 3),
    ("literal", "a"), ("literal", 1), ("literal", True), ("literal", "b"),
    ("pet", Cat()), ("pet", {"kind": "dog"}), ("pet", {"kind": "fish"}), ("pet", Point(1)),
    ("pets", [Cat(), Dog()]), ("pets", (Cat(), Dog())), ("pets", [{"lives": 1}]),
    ("either", 1), ("either", "1"), ("either", [1]), ("either", 1.5), ("either", ["a"]),
    ("optional", Point(1)), ("optional", None), ("optional", Point("a")),
    ("union", Point(1)), ("union", {"id": "a", "score": 1}), ("union", {"id": "a"}),
    ("aliased", Aliased(n="a")), ("by_alias", ByAlias(n="a")), ("by_name", ByName(name="a")),
    ("choosing", Choosing(n="a")), ("aliased", {"n": "a"}),
    ("computed", Computed(width=2)), ("lenient", Lenient(width=2)),
    ("strict", Strict(when=NOW)), ("own", Own(pair=(1, 2))), ("one_way", OneWay(pair=(1, 2))),
    ("floats", [0.5, math.nan, math.inf]), ("floats", [None]), ("by_name_of", {"a": math.nan}),
    ("ordered", Ordered(low=1, high=2)), ("ordered", Ordered.model_construct(low=2, high=1)),
    ("tree", Tree(name="a", below=[Tree(name="b")])), ("tree", {"name": "a", "below": [{}]}),
    ("box", Box[int](inside=1)), ("box", Box(inside="a")), ("box", Box(inside=1)),
    ("numbers", Numbers([1])), ("numbers", [1]), ("numbers", ["a"]),
    ("animal", Parrot(name="a", words=["b"])), ("cage", Cage(animal=Parrot(name="a", words=["b"]))),
    ("closed", ClosedParrot(name="a", words=[])), ("open", Open(name="a", more=NOW)),
    ("animal", Cat()), ("hiding", Hiding(secret="a", hidden="b")),
    ("event", Message(text="a")), ("kinds", [Message]), ("kinds", [5]),
    ("sending", Sending(event=Message(text="a"))), ("message", Message(text="a", more=[1])),
    ("message", {"text": "a"}), ("messages", [Message(text="a")]), ("messages", [{"a": 1}]),
    ("point", Point(1, 2.0, ["a"])), ("point", {"x": 1}), ("point", {"y": 1}), ("point", Point("a")),
    ("frozen", Frozen(NOW)), ("derived", Derived(2)), ("row", {"id": "a", "score": 1.5}),
    ("row", {"id": 1}), ("rows", [{"id": "a", "score": 1}]), ("rows", [{"id": "a", "score": None}]),
    ("name", Name("a", "b")), ("name", ("a", "b")), ("name", ("a",)),
    ("set_of", {1, 2}), ("set_of", [1, 1]), ("set_of", {"a"}), ("frozen_set", frozenset("ab")),
    ("fixed", (1, "a")), ("fixed", [1, "a"]), ("fixed", (1,)), ("queue", deque([1], maxlen=3)),
    ("sequence", (1, 2)), ("sequence", [1]), ("sequence", range(3)), ("sequence", ["a"]),
    ("nested", {"a": [(1, 2), ()]}), ("nested", {"a": [("b",)]}), ("by_int", {1: "a"}),
    ("by_int", {"a": "b"}), ("by_hue", {Hue.RED: 1}), ("by_pair", {(1, 2): "a"}),
    ("when", NOW), ("when", NOW.date()), ("when", "soon"), ("day", NOW.date()), ("day", NOW),
    ("hour", time(1, 2)), ("span", timedelta(days=1)), ("span", 5), ("price", Decimal("1.50")),
    ("price", Decimal("NaN")), ("price", 1.5), ("path", Path("a/b")), ("path", PurePosixPath("a")),
    ("path", 5), ("uuid", UUID(int=5)), ("uuid", "a"), ("data", b"abc"), ("data", b"\xff"), ("data", "abc"),
    ("large", 10**30), ("large", "a"), ("cls", Message), ("call", _is_positive), ("call", 5),
    ("later", Tree(name="a")), ("later", {"x": "a"}),
    ("stream", [1, 2]), ("stream", (1, 2)), ("stream", 5), ("iterator", [1]),
]  # fmt: skip
