import math

import pytest

from rl_scaling_callback.core import schema
from tests.builders import leaves


def test_every_key_is_present_if_nothing_is_known():
    blank = dict(leaves(schema.nest({})))
    assert blank.keys() == {key.name for key in schema.KEYS}
    texts = ("band", "baseline/source", "diagnosis", "workload")
    assert [blank.pop(text) for text in texts] == [""] * 4
    assert all(type(value) is float and math.isnan(value) for value in blank.values())


def test_slashes_become_nested_levels():
    injected = schema.nest({"steady/sps": 2.0, "sps": 1.0})
    assert injected["sps"] == 1.0
    assert injected["steady"]["sps"] == 2.0
    assert math.isnan(injected["time"]["sample"])


def test_results_share_no_state():
    first = schema.nest({})
    first["steady"]["sps"] = 1.0
    assert math.isnan(schema.nest({})["steady"]["sps"])


def test_unknown_keys_are_rejected():
    with pytest.raises(KeyError, match="spss"):
        schema.nest({"spss": 1.0})


def test_keys_are_unique_and_documented():
    names = [key.name for key in schema.KEYS]
    assert len(names) == len(set(names))
    assert all(key.meaning for key in schema.KEYS)
