import json
import math
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.baseline.model import MAX_BYTES, Baseline, BaselineFileError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.workload import Workload
from tests.builders import BASELINE, baseline


def test_json_round_trip():
    assert Baseline.from_json(BASELINE.to_json()) == BASELINE
    unknown_error = baseline(error=math.nan)
    assert math.isnan(Baseline.from_json(unknown_error.to_json()).steady.error)


def test_larger_reference_is_taken_to_scale_perfectly():
    assert BASELINE.unit_sps == 1378.0
    assert replace(BASELINE, scale=Scale(4, 2)).unit_sps == 1378.0 / 8


def changed(**changes):
    return json.dumps({**json.loads(BASELINE.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        (BASELINE.to_json()[:100], "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "schema is not"),
        ('"text"', "schema is not"),
        (changed(schema="other"), "schema is not"),
        (changed(version=2), "version is 2"),
        (changed(version=None), "version is None"),
        (changed(reference="1x1"), "wrong type"),
        (changed(steady=None), "wrong type"),
        (changed(workload=[3]), "wrong type"),
        (changed(workload={"env": "Ant-v5"}), "does not match its workload_id"),
        (changed(provenance=3), "wrong type"),
    ],
)
def test_unusable_files_are_rejected_with_a_reason(text, reason):
    with pytest.raises(BaselineFileError, match=reason):
        Baseline.from_json(text)


@pytest.mark.parametrize(
    "values",
    [
        {"iterations": 0},
        {"iterations": -8},
        {"iterations": "5"},
        {"iterations": True},
        {"error": "1"},
        {"error": math.inf},
        {"error": -1.0},
        {"sps": 0},
        {"sps": -1.0},
        {"sps": True},
        {"sps": "1378"},
        {"sps": math.nan},
        {"sps": math.inf},
        {"parts": {"sample": None}},
        {"env_steps": 0},
        {"seconds": -1.0},
    ],
)
def test_impossible_windows_are_rejected(values):
    window = json.loads(BASELINE.to_json())["steady"]
    with pytest.raises(BaselineFileError, match="wrong type"):
        Baseline.from_json(changed(steady=window | values))


def test_oversized_text_is_rejected():
    with pytest.raises(BaselineFileError, match=f"more than {MAX_BYTES} bytes"):
        Baseline.from_json(BASELINE.to_json() + " " * MAX_BYTES)


def test_nesting_of_any_depth_is_read_or_rejected():
    text = BASELINE.to_json()
    for depth in range(1, sys.getrecursionlimit() + 100):
        with suppress(BaselineFileError):
            Baseline.from_json(text.replace('"a": null', '"a": ' + "[" * depth + "]" * depth))


@pytest.mark.parametrize("key", sorted(json.loads(BASELINE.to_json())))
def test_every_key_is_required(key):
    document = json.loads(BASELINE.to_json())
    del document[key]
    with pytest.raises(BaselineFileError):
        Baseline.from_json(json.dumps(document))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_junk_raises_only_baseline_file_errors(junk):
    for text in (json.dumps(junk), changed(steady=junk), changed(workload=junk)):
        with pytest.raises(BaselineFileError):
            Baseline.from_json(text)


def test_workload_id_depends_on_the_facts_only():
    assert Workload({"a": 1, "b": 2}).id == Workload({"b": 2, "a": 1}).id
    assert Workload({"a": 1}).id != Workload({"a": 1.5}).id
    assert len(Workload({}).id) == 16


def test_differences_name_the_fact_and_both_values():
    here, there = Workload({"env": "A", "epochs": 4, "same": 0}), Workload({"env": "B", "same": 0, "x": "y" * 500})
    lines = here.differences(there)
    assert lines[:2] == ['env: "A" here, "B" there', "epochs: 4 here, null there"]
    assert len(lines[2]) < 100


def test_differences_do_not_tell_strings_that_may_be_secret():
    here, there = (Workload({"env_config": {"key": each, "list": [each], "n": n}}) for n, each in enumerate(("#1a2b", "#3c4d")))
    assert here.differences(there) == ["env_config.key differs", "env_config.list differs", "env_config.n: 0 here, 1 there"]
