from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mosaic_secure.protocol.codec import DTYPES, ProtocolError, content_bytes, decode, encode, field_bytes
from mosaic_secure.protocol.fields import (
    Arrays,
    Message,
    ciphertext,
    control,
    dp_release,
    field_specs,
    message,
    public,
    signed,
)
from mosaic_secure.protocol.messages import MESSAGES, LocalTrainingReply, LocalTrainingRequest


@message("query.everything", sender="server", receiver="client")
class Everything(Message):
    text: str = control()
    number: int = control()
    real: float = control()
    flag: bool = control()
    blob: bytes = ciphertext()
    words: list[str] = control(default_factory=list)
    numbers: list[int] = control(default_factory=list)
    reals: list[float] = control(default_factory=list)
    blobs: list[bytes] = ciphertext(default_factory=list)
    arrays: Arrays = public(default_factory=dict)


def over_the_wire(records: RecordDict) -> RecordDict:
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


ARRAY = hnp.arrays(
    dtype=st.sampled_from([np.dtype(name) for name in DTYPES]), shape=hnp.array_shapes(min_dims=0, min_side=0)
)


@settings(max_examples=60, deadline=None)
@given(
    item=st.builds(
        Everything,
        text=st.text(),
        number=st.integers(-(2**63), 2**63 - 1),
        real=st.floats(),
        flag=st.booleans(),
        blob=st.binary(),
        words=st.lists(st.text(), max_size=4),
        numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        reals=st.lists(st.floats(), max_size=4),
        blobs=st.lists(st.binary(), max_size=4),
        arrays=st.dictionaries(st.text(max_size=5), ARRAY, max_size=3),
    )
)
def test_every_message_comes_back_as_it_was_sent(item):
    back = decode(Everything, over_the_wire(encode(item)))
    for spec in field_specs(Everything):
        before, after = getattr(item, spec.name), getattr(back, spec.name)
        assert field_bytes(before) == field_bytes(after)
        assert type(before) is type(after)
    for name, array in item.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].shape == array.shape
        assert back.arrays[name].flags.writeable


def everything(**changes) -> Everything:
    return Everything(**{"text": "a", "number": 1, "real": 1.0, "flag": True, "blob": b"x", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"text": 1},
        {"number": True},
        {"number": 2**63},
        {"number": np.int64(3)},
        {"real": 1},
        {"flag": 1},
        {"blob": "x"},
        {"words": ("a",)},
        {"numbers": [1, True]},
        {"blobs": ["x"]},
        {"arrays": {"a": [1.0]}},
        {"arrays": {"a": np.array([object()])}},
        {"arrays": {"a": np.array(["text"])}},
        {"arrays": {1: np.zeros(2)}},
        {"arrays": None},
    ],
)
def test_a_value_of_another_type_is_not_sent(changes):
    with pytest.raises(ProtocolError, match=f"Everything.{next(iter(changes))}"):
        encode(everything(**changes))


def tampered(name=None, value=None, *, drop=None) -> RecordDict:
    records = encode(everything(arrays={"a": np.arange(3.0)}))
    if drop is not None:
        del records["message"][drop]
    if name is not None:
        records["message"][name] = value
    return records


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (tampered(drop="text"), "field missing: text"),
        (tampered("surprise", 1), "unknown field"),
        (tampered("text", 5), "Everything.text"),
        (tampered("flag", 1), "Everything.flag"),
        (tampered("schema", "Everything/2"), "schema version"),
        (tampered("schema", "EnrolRequest/1"), "another message"),
        (RecordDict(), "not a message"),
        (RecordDict({"message": ArrayRecord()}), "not a message"),
        (RecordDict({"message": ConfigRecord({"schema": "Everything/1"})}), "field missing"),
    ],
)
def test_a_malformed_message_is_refused_by_name(records, says):
    with pytest.raises(ProtocolError, match=says):
        decode(Everything, records)


@pytest.mark.parametrize(
    "array",
    [
        Array(np.arange(3.0)),
        Array("float64", (4,), "mosaic.raw", b"\0" * 24),
        Array("float64", (-3,), "mosaic.raw", b"\0" * 24),
        Array("float64", (1,) * 9, "mosaic.raw", b"\0" * 8),
        Array("object", (3,), "mosaic.raw", b"\0" * 24),
        Array("bool", (2,), "mosaic.raw", b"\0\7"),
        Array("float64", (0, 2**40, 2**40), "mosaic.raw", b""),
    ],
)
def test_a_malformed_array_is_refused(array):
    records = encode(everything())
    records["arrays.arrays"]["a"] = array
    with pytest.raises(ProtocolError, match="Everything.arrays"):
        decode(Everything, records)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*DTYPES, "object", "S8", ""]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]), max_size=9),
    st.sampled_from(["mosaic.raw", "numpy.ndarray"]),
    st.binary(max_size=64),
)
def test_any_array_is_read_or_refused_and_nothing_else(dtype, shape, style, data):
    records = encode(everything())
    records["arrays.arrays"]["a"] = Array(dtype, tuple(shape), style, data)
    try:
        found = decode(Everything, records).arrays["a"]
    except ProtocolError:
        return
    assert found.shape == tuple(shape) and found.nbytes == len(data)


@given(st.text(), st.binary(), st.lists(st.binary()))
def test_the_bytes_of_records_count_all_that_is_in_them(text: str, blob: bytes, blobs: list[bytes]):
    bare = content_bytes(encode(everything()))
    filled = everything(text=text, blob=blob, blobs=blobs, arrays={"a": np.zeros((3, 2)), "bc": np.zeros(5)})
    added = len(text) + len(blob) + sum(map(len, blobs)) - len(everything().text) - len(everything().blob)
    arrays = 8 * 11 + len("abc") + 2 * len("float64" + "mosaic.raw") + 8 * 3
    assert content_bytes(encode(filled)) == bare + added + arrays


def test_an_unexpected_group_of_arrays_is_refused():
    records = encode(everything())
    records["arrays.more"] = ArrayRecord()
    with pytest.raises(ProtocolError, match="unknown field"):
        decode(Everything, records)


def test_arrays_in_any_memory_layout_arrive_equal():
    array = np.arange(12, dtype=">f8").reshape(3, 4).T
    back = decode(Everything, over_the_wire(encode(everything(arrays={"a": array})))).arrays["a"]
    np.testing.assert_array_equal(back, array)


def test_the_representation_shows_no_content():
    item = LocalTrainingReply(code="secretive", classifier={"hidden": np.full(2, 0.123)})
    assert "0.123" not in repr(item) and "hidden" not in repr(item) and "secretive" not in repr(item)


def test_every_declared_message_is_well_formed_and_frozen():
    for cls in MESSAGES.values():
        assert field_specs(cls)
    item = LocalTrainingRequest(run_id="r", round=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.run_id = "other"


def test_a_field_without_class_or_with_a_strange_type_is_a_mistake():
    @message("query.odd", sender="server", receiver="client")
    class NoClass(Message):
        plain: str = "x"

    @message("query.odd", sender="server", receiver="client")
    class Strange(Message):
        what: set = signed(default_factory=set)

    @message("query.odd", sender="server", receiver="client")
    class Fine(Message):
        weights: Arrays = dp_release()

    with pytest.raises(TypeError, match="NoClass.plain"):
        field_specs(NoClass)
    with pytest.raises(TypeError, match="Strange.what"):
        field_specs(Strange)
    assert field_specs(Fine)[0].field_class == "dp_release"
