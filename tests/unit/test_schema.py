import pytest

from rl_scaling_callback.core import schema
from tests.builders import leaves


def test_every_key_is_present_and_unknown_unless_given():
    injected = schema.nest({"steady/sps": 2.0, "sps": 1.0})
    assert (injected["sps"], injected["steady"]["sps"]) == (1.0, 2.0)
    unknown = {key.name: key.unknown for key in schema.KEYS}
    assert dict(leaves(schema.nest({}))) == pytest.approx(unknown, nan_ok=True), "results share no state"
    assert {name for name, value in unknown.items() if value == ""} == {"band", "baseline/source", "diagnosis", "workload"}
    with pytest.raises(KeyError, match="spss"):
        schema.nest({"spss": 1.0})
