"""The store of baselines, also where storage fails, is slow or holds foreign files, their format, and places to store them."""

import json
import math
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from rl_scaling_callback.baseline.store import MAX_BYTES, Baseline, BaselineFileError, BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Workload
from rl_scaling_callback.storage import ExperimentError, Location, shown
from tests.builders import BASELINE, SETTLED, SINGLE, UNSETTLED, WORKLOAD, baseline, compared, reference

ANT = replace(BASELINE, workload=Workload({"env": "Ant-v5"}))


def load(store, workload=BASELINE.workload):
    return store.load(workload, SINGLE)


def place(store, workload=BASELINE.workload):
    return Path(store.path(workload, SINGLE))


def files(store):
    return sorted(Path(store.directory).iterdir())


class Troubled:
    """A local filesystem that first calls `before(operation, path)`, to wait, fail or act like another process."""

    type_name = "local"

    def __init__(self, before):
        self._fs = fs.LocalFileSystem()
        self._before = before

    def __getattr__(self, operation):
        method = getattr(self._fs, operation)

        def call(where, *args, **kwargs):
            self._before(operation, where)
            return method(where, *args, **kwargs)

        return call


def troubled(store, before):
    return BaselineStore(Troubled(before), store.directory)


# ---------------------------------------------------------------- what it stores


def test_each_workload_and_reference_has_its_own_file(store):
    Path(store.directory).rmdir()  # it is recreated
    assert (load(store), store.others(BASELINE.workload, SINGLE)) == (None, [])
    for each in (baseline(sps=1400.0), BASELINE, ANT, replace(BASELINE, scale=Scale(4, 1))):
        store.publish(each)
    assert load(store) == load(BaselineStore.at(f"file://{store.directory}")) == BASELINE
    assert len(files(store)) == 3
    place(store, WORKLOAD).write_text("junk")
    Path(f"{place(store, WORKLOAD)}.0a1b.partial").write_text("of a killed process")
    assert store.others(BASELINE.workload, SINGLE) == [ANT]


def test_only_the_latest_other_workloads_are_read(store):
    for age in range(12):
        other = replace(BASELINE, workload=Workload({"env": str(age)}))
        store.publish(other)
        os.utime(place(store, other.workload), (1e9 - age, 1e9 - age))
    found = store.others(BASELINE.workload, SINGLE)
    assert [each.workload.facts["env"] for each in found] == [str(age) for age in range(8)]


def test_baseline_counts_for_its_own_run_and_for_a_store_of_all_runs(store):
    first, second, every = (BaselineStore(store._fs, store.directory, run) for run in ("first", "second", ""))
    first.publish(BASELINE)
    assert load(first) == load(every) == replace(BASELINE, run="first")
    assert load(second) is None
    assert [len(each.others(WORKLOAD, SINGLE)) for each in (first, second, every)] == [1, 0, 1]
    second.publish(baseline(sps=1.0))
    assert (load(first), load(second).steady.sps, len(files(store))) == (None, 1.0, 1)


PLACES = ("{}/file", "{}/file/below", "{}/link", "", "/proc/nothing/here", "s4://key:secret@bucket/it", "nosuch://secret@host/it")


@pytest.mark.parametrize("where", PLACES)
def test_unusable_directory_is_rejected_without_telling_credentials(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    where = where.format(tmp_path)
    with pytest.raises(ValueError, match=r"baseline_dir is.*allowed are") as error:
        BaselineStore.at(where)
    assert "secret" not in str(error.value)
    assert repr(where) in str(error.value) or "secret" in where


# ---------------------------------------------------------------- foreign files


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text(BASELINE.to_json()[:200]), "not valid JSON"),
        (lambda path: path.write_text(ANT.to_json()), "another workload"),
        (lambda path: path.write_bytes(bytes(2 << 20)), "more than .* bytes"),
        (Path.mkdir, "not a file"),
        (os.mkfifo, "not a file"),
    ],
)
def test_unusable_file_is_set_aside_and_kept(store, make, reason, warn):
    make(place(store))
    kept = place(store).stat().st_ino
    with pytest.raises(OSError, match="stays where it is"):
        load(troubled(store, at("move", PermissionError(30, "Read-only file system"))))
    assert place(store).stat().st_ino == kept
    with pytest.raises(BaselineFileError, match=rf"{reason}.*set aside as"):
        load(store)
    (aside,) = files(store)
    assert aside.stat().st_ino == kept


def test_file_deleted_while_being_read_counts_as_missing(store):
    store.publish(BASELINE)
    assert load(troubled(store, at("open_input_stream", lambda where: Path(where).unlink()))) is None


# ---------------------------------------------------------------- storage that fails


class ClientError(Exception):
    """Like `botocore.exceptions.ClientError`, which isn't an OSError either."""


def at(operation, fault):
    """Return what `Troubled` calls: at one operation, it raises an error or calls a function of the path."""
    act = Mock(side_effect=fault)
    return lambda now, where: act(where) if now == operation else None


def write_half(where):
    Path(where).write_text("{")
    raise OSError(28, "No space left on device")


def remove_folder(where):
    shutil.rmtree(Path(where).parent, ignore_errors=True)


@pytest.mark.parametrize("scale", [SINGLE, Scale(2, 4)])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (at("open_output_stream", write_half), "No space left"),
        (at("create_dir", OSError(30, "Read-only file system")), "Read-only"),
        (at("move", PermissionError(13, "Permission denied")), "Permission denied"),
        (at("get_file_info", OSError(5, "Input/output error")), "Input/output"),
        (at("get_file_info", ClientError("SlowDown: please reduce your request rate")), "SlowDown"),
        *((at(operation, remove_folder), "") for operation in ("get_file_info", "create_dir", "open_output_stream", "move")),
    ],
)
def test_fault_costs_one_warning_and_the_baseline_is_written_after_it(store, fault, told, scale, warn):
    broken = [True]
    trial = reference(troubled(store, lambda *call: fault(*call) if broken[0] else None), scale, warn=warn)
    for steady in (UNSETTLED, SETTLED):
        trial.update(steady)
    if scale == SINGLE:
        assert compared(trial) == (1000.0, 1.0)
        assert told in warn.get("storage", "")
        assert warn.keys() <= {"storage"}
    assert not list(Path(store.directory).glob("*.partial"))
    broken[0] = False
    trial.update(replace(SETTLED, sps=900.0))
    found = load(store, WORKLOAD)
    assert found is None if scale != SINGLE else found.steady.sps == 1000.0
    assert not list(Path(store.directory).glob("*set-aside*"))


def test_slow_filesystem_takes_a_small_share_of_the_time(store):
    now = [0.0]

    def slow(operation, where):
        now[0] += 0.5

    for number in range(200):  # each a request to read
        store.publish(replace(BASELINE, workload=Workload({"env": str(number)})))
    trial = reference(troubled(store, slow), Scale(2, 1), clock=lambda: now[0])
    longest = spent = 0.0
    for _ in range(10_000):
        before = now[0]
        trial.update(UNSETTLED)
        spent, longest = spent + now[0] - before, max(longest, now[0] - before)
        now[0] += 0.1
    assert 0 < spent < 0.05 * now[0]
    assert longest < 10
    store.publish(baseline(WORKLOAD, iterations=5, env_steps=5000.0))
    for _ in range(10_000):
        trial.update(UNSETTLED)
        now[0] += 0.1
    assert compared(trial) == (1378.0, 1.0)


# ---------------------------------------------------------------- the format of baseline files, and workloads


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


# ---------------------------------------------------------------- local paths and URIs


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ("/a/b", "/a/b/it"),
        ("/a/b?/", "/a/b?/it"),
        ("s3://bucket/a/", "s3://bucket/a/it"),
        ("s3://bucket/a?region=x&scheme=http", "s3://bucket/a/it?region=x&scheme=http"),
    ],
)
def test_path_below_a_folder(place, inside):
    assert Location(None, "", place).below("it").text == inside


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("s3://key:secret@bucket/a@b?region=x", "s3://bucket/a@b?region=x"),
        ("s3://bucket/a?mail=me@home", "s3://bucket/a?mail=me@home"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("s3:/key:secret@bucket/a", "s3:/bucket/a"),
        ("s3//key:secret@bucket/a", "s3//bucket/a"),
        ("abfs://bucket/a?client_secret=mine&region=x", "abfs://bucket/a?client_secret=…&region=x"),
        ("Unrecognized filesystem type in URI: 's4://key:secret@bucket'", "Unrecognized filesystem type in URI: 's4://bucket'"),
        ("s3://host:9000/a@b", "s3://host:9000/a@b"),
        ("/home/me@work", "/home/me@work"),
    ],
)
def test_credentials_are_not_shown(place, text):
    assert shown(place) == text


def test_error_of_an_unknown_scheme_does_not_tell_credentials():
    with pytest.raises(ExperimentError, match="s4://bucket/it can't be reached") as error:
        Location.of("s4://key:secret@bucket/it")
    assert "secret" not in str(error.value)
