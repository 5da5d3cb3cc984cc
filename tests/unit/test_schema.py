import math

import pytest

from rl_scaling_callback.core import schema
from tests.builders import leaves


def test_every_key_is_present_if_nothing_is_known():
    blank = dict(leaves(schema.nest({})))
    assert sorted(blank) == sorted(key.name for key in schema.KEYS)
    texts = ("band", "baseline/source", "diagnosis", "workload")
    assert [blank.pop(text) for text in texts] == [""] * 4
    assert all(type(value) is float and math.isnan(value) for value in blank.values())


def test_slashes_become_nested_levels_and_results_share_no_state():
    injected = schema.nest({"steady/sps": 2.0, "sps": 1.0})
    assert (injected["sps"], injected["steady"]["sps"]) == (1.0, 2.0)
    assert math.isnan(schema.nest({})["steady"]["sps"])
    with pytest.raises(KeyError, match="spss"):
        schema.nest({"spss": 1.0})
