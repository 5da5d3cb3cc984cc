"""The format of baseline files, and workloads."""

import json
import math
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.baseline.store import MAX_BYTES, Baseline, BaselineFileError
from rl_scaling_callback.core.trial import Workload
from tests.builders import BASELINE, baseline

DOCUMENT = json.loads(BASELINE.to_json())


def changed(**changes):
    return json.dumps({**DOCUMENT, **changes})


def test_unknown_error_stays_unknown():
    assert math.isnan(Baseline.from_json(baseline(error=math.nan).to_json()).steady.error)


IMPOSSIBLE = {
    "iterations": (0, -8, "5", True),
    "error": ("1", math.inf, -1.0, True),
    "sps": (0, -1.0, True, "1378", math.nan, math.inf),
    "parts": ({"sample": None},),
    "env_steps": (0,),
    "seconds": (-1.0,),
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        (BASELINE.to_json()[:100], "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (BASELINE.to_json() + " " * MAX_BYTES, f"more than {MAX_BYTES} bytes"),
        ("[]", "schema is not"),
        (changed(schema="other"), "schema is not"),
        (changed(version=2), "version is 2"),
        (changed(workload={"env": "Ant-v5"}), "does not match its workload_id"),
        (changed(reference="1x1"), "wrong"),
        (changed(provenance=3), "wrong"),
        *((changed(steady=DOCUMENT["steady"] | {key: value}), "wrong") for key, values in IMPOSSIBLE.items() for value in values),
        *((json.dumps({key: DOCUMENT[key] for key in DOCUMENT if key != missing}), r"\w") for missing in DOCUMENT),
    ],
)
def test_unusable_files_are_rejected_with_a_reason(text, reason):
    with pytest.raises(BaselineFileError, match=reason):
        Baseline.from_json(text)


def test_nesting_of_any_depth_is_read_or_rejected():
    text = BASELINE.to_json()
    for depth in range(1, sys.getrecursionlimit() + 100):
        with suppress(BaselineFileError):
            Baseline.from_json(text.replace('"a": null', '"a": ' + "[" * depth + "]" * depth))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_junk_raises_only_baseline_file_errors(junk):
    for text in (json.dumps(junk), changed(steady=junk), changed(workload=junk)):
        with pytest.raises(BaselineFileError):
            Baseline.from_json(text)


def test_differences_name_the_fact_and_both_values_but_not_strings_that_may_be_secret():
    here, there = Workload({"env": "A", "epochs": 4, "same": 0}), Workload({"env": "B", "same": 0, "x": "y" * 500})
    lines = here.differences(there)
    assert lines[:2] == ['env: "A" here, "B" there', "epochs: 4 here, null there"]
    assert len(lines[2]) < 100
    here, there = (Workload({"env_config": {"key": each, "list": [each], "n": n}}) for n, each in enumerate(("#1a2b", "#3c4d")))
    assert here.differences(there) == ["env_config.key differs", "env_config.list differs", "env_config.n: 0 here, 1 there"]
