import os
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from rl_scaling_callback.baseline.model import BaselineFileError
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.workload import Workload
from tests.builders import BASELINE


def load(store):
    return store.load(BASELINE.workload, BASELINE.scale)


def files(store):
    return sorted(path.name for path in Path(store.directory).iterdir())


def test_none_before_anything_is_published(store):
    assert load(store) is None


def test_publish_and_load(store):
    store.publish(BASELINE)
    assert load(store) == BASELINE
    store.publish(replace(BASELINE, sps=1400.0))
    assert load(store).sps == 1400.0
    assert len(files(store)) == 1


def test_deleted_directory_is_recreated(store):
    Path(store.directory).rmdir()
    assert load(store) is None
    assert list(store.others(BASELINE.workload, BASELINE.scale)) == []
    store.publish(BASELINE)
    assert load(store) == BASELINE


def test_each_workload_and_reference_has_its_own_file(store):
    other = replace(BASELINE, workload=Workload({"env": "Ant-v5"}))
    larger = replace(BASELINE, scale=Scale(4, 1))
    for baseline in (BASELINE, other, larger):
        store.publish(baseline)
    assert load(store) == BASELINE
    assert list(store.others(BASELINE.workload, BASELINE.scale)) == [other]


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 10, BASELINE.to_json().encode()[:200], b" " * (2 << 20), b"[" * 100_000])
def test_damaged_file_is_set_aside_and_kept(store, content):
    path = Path(store.path(BASELINE.workload, BASELINE.scale))
    path.write_bytes(content)
    with pytest.raises(BaselineFileError, match="set aside as"):
        load(store)
    assert not path.exists()
    (aside,) = path.parent.iterdir()
    assert aside.read_bytes() == content
    assert load(store) is None
    store.publish(BASELINE)
    assert load(store) == BASELINE
    assert aside.read_bytes() == content


def test_baseline_of_another_workload_is_set_aside(store):
    foreign = replace(BASELINE, workload=Workload({"env": "Ant-v5"}))
    path = Path(store.path(BASELINE.workload, BASELINE.scale))
    path.write_text(foreign.to_json())
    with pytest.raises(BaselineFileError, match="another workload"):
        load(store)
    assert not path.exists()


def test_directory_with_the_name_of_the_file_is_set_aside(store):
    Path(store.path(BASELINE.workload, BASELINE.scale)).mkdir()
    with pytest.raises(BaselineFileError, match="not a file"):
        load(store)
    store.publish(BASELINE)
    assert load(store) == BASELINE


def test_damaged_files_of_other_workloads_are_skipped(store):
    other = replace(BASELINE, workload=Workload({"env": "Ant-v5"}))
    store.publish(other)
    Path(store.path(Workload({"env": "Walker"}), BASELINE.scale)).write_text("junk")
    assert list(store.others(BASELINE.workload, BASELINE.scale)) == [other]


def test_only_the_latest_twenty_other_workloads_are_read(store):
    for age in range(25):
        other = replace(BASELINE, workload=Workload({"env": str(age)}))
        store.publish(other)
        os.utime(store.path(other.workload, other.scale), (1e9 - age, 1e9 - age))
    found = list(store.others(BASELINE.workload, BASELINE.scale))
    assert [each.workload.facts["env"] for each in found] == [str(age) for age in range(20)]


class FullDisk:
    """A local filesystem whose disk is full: it writes some bytes, then fails."""

    type_name = "local"

    def __init__(self):
        self._fs = fs.LocalFileSystem()

    def __getattr__(self, name):
        return getattr(self._fs, name)

    def open_output_stream(self, path):
        Path(path).write_text("{")
        raise OSError(28, "No space left on device")


def test_failed_write_keeps_the_old_file(store):
    store.publish(BASELINE)
    full = BaselineStore(FullDisk(), store.directory)
    with pytest.raises(OSError, match="No space left"):
        full.publish(replace(BASELINE, sps=1.0))
    assert load(store) == BASELINE
    assert len(files(store)) == 1


class ReadOnly(FullDisk):
    def move(self, source, target):
        raise PermissionError(30, "Read-only file system")


def test_file_that_cannot_be_set_aside_is_not_overwritten(store):
    path = Path(store.path(BASELINE.workload, BASELINE.scale))
    path.write_text("junk")
    with pytest.raises(OSError, match="stays where it is"):
        BaselineStore(ReadOnly(), store.directory).load(BASELINE.workload, BASELINE.scale)
    assert path.read_text() == "junk"


def test_store_at_a_uri(tmp_path):
    BaselineStore.at(f"file://{tmp_path}/a").publish(BASELINE)
    assert load(BaselineStore.at(str(tmp_path / "a"))) == BASELINE


def test_unreachable_directory_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "nosuchscheme://bucket/path", "", "/proc/nothing/here"):
        with pytest.raises(ValueError, match="baseline_dir is") as error:
            BaselineStore.at(place)
        assert repr(str(place)) in str(error.value)
        assert "allowed are" in str(error.value)


def test_baseline_counts_for_its_own_run_and_for_a_store_of_all_runs(store):
    first, second, lasting = (BaselineStore(store._fs, store.directory, run) for run in ("first", "second", ""))
    first.publish(BASELINE)
    assert load(first) == load(lasting) == replace(BASELINE, run="first")
    assert load(second) is None
    other = Workload({"env": "Ant-v5"})
    assert [len(list(each.others(other, BASELINE.scale))) for each in (first, second, lasting)] == [1, 0, 1]
    second.publish(replace(BASELINE, sps=1.0))
    assert (load(first), load(second).sps, len(files(store))) == (None, 1.0, 1)
