"""One parser for names of content, and refs that survive every road into a checkpoint."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError

import msgpack
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agentref.errors import AgentRefError, InvalidDigestError, InvalidInputError, InvalidRefError
from agentref.refs import DIGEST_SIZE, REF_KEY, ContentRef, Digest, parse_digest

HEX = "00112233445566778899aabbccddeeff" * 2
DIGEST = Digest(bytes.fromhex(HEX))

digests = st.binary(min_size=DIGEST_SIZE, max_size=DIGEST_SIZE).map(Digest)
codecs = st.from_regex(r"[a-z][a-z0-9.+-]{0,31}", fullmatch=True)
backends = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}", fullmatch=True)
refs = st.builds(ContentRef, digests, codecs, st.integers(0, 2**63 - 1), backends)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def wire(
    version: object = 1,
    digest: object = HEX,
    codec: object = "agr1",
    size: object = 5,
    backend: object = None,
) -> object:
    return {REF_KEY: [version, digest, codec, size, backend]}


@given(digests)
def test_a_digest_is_read_from_its_hex_and_from_its_bytes(digest: Digest) -> None:
    assert parse_digest(digest.hex()) == digest
    assert parse_digest(digest) == digest
    assert type(parse_digest(digest.hex())) is bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX[:-1],
        HEX + "0",
        HEX[:-1] + "g",
        HEX.upper(),
        HEX[:-1] + "A",
        HEX + "\n",
        HEX[:-1] + "\n",
        " " + HEX[1:],
        HEX[:-1] + " ",
        "\x00" + HEX[1:],
        "0x" + HEX[2:],
        "-" + HEX[1:],
        HEX[:32] + "_" + HEX[33:],
        "../" * 21 + "a",
        "..",
        "/etc/passwd",
        "../../" + HEX,
        HEX + "/../x",
        "/" + HEX[1:],
        "sha256:" + HEX,
        "\N{ARABIC-INDIC DIGIT ZERO}" * 64,  # int() would take it
        "\N{FULLWIDTH DIGIT ZERO}" * 64,
        "\N{FULLWIDTH LATIN SMALL LETTER A}" * 64,
        "\N{CYRILLIC SMALL LETTER A}" * 64,
        "\ud800" * 64,
        HEX.encode(),
        DIGEST[:-1],
        DIGEST + b"\0",
        b"",
        bytearray(DIGEST),
        memoryview(DIGEST),
        0,
        None,
        True,
        [HEX],
        {"digest": HEX},
    ],
)
def test_whatever_is_no_digest_is_refused(text: object) -> None:
    with pytest.raises(InvalidDigestError, match="64 lower-case hex digits"):
        parse_digest(text)


@given(st.text(max_size=80) | st.binary(max_size=40) | anything)
def test_only_the_canonical_spelling_of_a_digest_is_accepted(text: object) -> None:
    try:
        digest = parse_digest(text)
    except InvalidDigestError:
        return
    assert text in (digest, digest.hex())


def test_the_refusal_of_a_huge_text_is_short() -> None:
    with pytest.raises(InvalidDigestError) as caught:
        parse_digest("x" * 1_000_000)
    assert len(str(caught.value)) < 200


@given(refs)
def test_a_ref_survives_its_wire_form(ref: ContentRef) -> None:
    for back in (
        ContentRef.from_dict(ref.to_dict()),
        ContentRef.from_dict(json.loads(json.dumps(ref.to_dict()))),
        ContentRef.from_dict(msgpack.unpackb(msgpack.packb(ref.to_dict()))),
        pickle.loads(pickle.dumps(ref)),
        copy.deepcopy(ref),
    ):
        assert back == ref
        assert back.backend_id == ref.backend_id
        assert hash(back) == hash(ref)


def test_the_wire_form_is_pinned() -> None:
    assert ContentRef(DIGEST, "agr1", 5, "local").to_dict() == {
        "__agentref__": [1, HEX, "agr1", 5, "local"]
    }
    assert ContentRef(DIGEST, "agr1", 5).to_dict() == {"__agentref__": [1, HEX, "agr1", 5, None]}


@given(refs, backends)
def test_equal_content_has_equal_refs_wherever_it_is_kept(ref: ContentRef, backend: str | None) -> None:
    elsewhere = ContentRef(ref.digest, ref.codec, ref.size, backend)
    assert elsewhere == ref
    assert hash(elsewhere) == hash(ref)
    assert len({elsewhere, ref}) == 1


@given(refs, refs)
def test_refs_differ_when_digest_codec_or_size_does(one: ContentRef, other: ContentRef) -> None:
    named = (one.digest, one.codec, one.size), (other.digest, other.codec, other.size)
    assume(named[0] != named[1])
    assert one != other


@pytest.mark.parametrize(
    ("digest", "codec", "size", "other"),
    [(DIGEST[::-1], "agr1", 5, "digest"), (DIGEST, "raw", 5, "codec"), (DIGEST, "agr1", 6, "size")],
)
def test_each_part_of_a_name_counts(digest: bytes, codec: str, size: int, other: str) -> None:
    assert ContentRef(Digest(digest), codec, size) != ContentRef(DIGEST, "agr1", 5), other


@given(anything)
@example({REF_KEY: None})
@example({REF_KEY: []})
@example({REF_KEY: [1, HEX, "agr1", 5]})
@example({REF_KEY: {"version": 1}})
@example([1, HEX, "agr1", 5, None])
def test_a_look_alike_is_a_typed_error_and_never_a_ref(data: object) -> None:
    with pytest.raises(InvalidInputError):
        ContentRef.from_dict(data)


@given(st.tuples(anything, anything, anything, anything, anything))
def test_a_body_of_anything_is_a_ref_or_a_typed_error(body: tuple[object, ...]) -> None:
    try:
        ref = ContentRef.from_dict({REF_KEY: list(body)})
    except AgentRefError:
        return
    assert ContentRef.from_dict(ref.to_dict()) == ref


@pytest.mark.parametrize(
    "data",
    [
        wire(version=0),
        wire(version=2),
        wire(version="1"),
        wire(version=None),
        wire(codec=""),
        wire(codec="Agr1"),
        wire(codec="a" * 33),
        wire(codec="agr1\n"),
        wire(codec="../x"),
        wire(codec=b"agr1"),
        wire(codec=None),
        wire(size=-1),
        wire(size=2**63),
        wire(size=5.0),
        wire(size=True),
        wire(size="5"),
        wire(size=None),
        wire(backend=""),
        wire(backend="-x"),
        wire(backend="../x"),
        wire(backend="a b"),
        wire(backend="local\n"),
        wire(backend="a" * 129),
        wire(backend=7),
        {REF_KEY: [1, HEX, "agr1", 5, None], "extra": 1},
        {REF_KEY: [1, HEX, "agr1", 5, None, None]},
        {"__AGENTREF__": [1, HEX, "agr1", 5, None]},
    ],
)
def test_a_malformed_wire_form_is_refused(data: object) -> None:
    with pytest.raises(InvalidRefError):
        ContentRef.from_dict(data)


def test_a_digest_in_a_wire_form_goes_through_the_one_parser() -> None:
    for digest in (HEX.upper(), HEX + "\n", "../../" + HEX, None):
        with pytest.raises(InvalidDigestError):
            ContentRef.from_dict(wire(digest=digest))


def test_a_ref_is_immutable_and_slim() -> None:
    ref = ContentRef(DIGEST, "agr1", 5)
    with pytest.raises(FrozenInstanceError):
        ref.size = 6  # type: ignore[misc]
    assert not hasattr(ref, "__dict__")


def test_a_ref_shows_its_name_in_full() -> None:
    ref = ContentRef(DIGEST, "agr1", 12_345)
    assert ref.hash == HEX
    assert str(ref) == f"{HEX} (agr1, 12,345 bytes)"
