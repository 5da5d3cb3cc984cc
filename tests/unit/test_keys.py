import math

import pytest

from rl_scaling_callback.core import schema
from tests.builders import leaves


def test_every_key_is_there_when_nothing_is_known():
    blank = dict(leaves(schema.nest({})))
    assert blank.keys() == {key.name for key in schema.KEYS}
    texts = ("band", "baseline/source", "diagnosis", "workload")
    assert [blank.pop(text) for text in texts] == [""] * 4
    assert all(type(value) is float and math.isnan(value) for value in blank.values())


def test_levels_are_nested_so_that_tune_finds_them():
    injected = schema.nest({"steady/sps": 2.0, "sps": 1.0})
    assert injected["sps"] == 1.0
    assert injected["steady"]["sps"] == 2.0
    assert math.isnan(injected["time"]["sample"])


def test_two_results_share_nothing():
    first = schema.nest({})
    first["steady"]["sps"] = 1.0
    assert math.isnan(schema.nest({})["steady"]["sps"])


def test_a_key_outside_the_contract_is_refused():
    with pytest.raises(KeyError, match="spss"):
        schema.nest({"spss": 1.0})


def test_names_are_unique_and_explained():
    names = [key.name for key in schema.KEYS]
    assert len(names) == len(set(names))
    assert all(key.meaning for key in schema.KEYS)
