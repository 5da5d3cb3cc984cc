"""The store of baselines, and `BaselineTracker` on storage that fails, is slow, shared by many processes or holds foreign files."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from rl_scaling_callback.baseline.model import BaselineFileError
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.workload import Workload
from tests.builders import BASELINE, SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, baseline, reference

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


def test_publish_and_load(store):
    Path(store.directory).rmdir()  # it is recreated
    assert load(store) is None
    assert list(store.others(BASELINE.workload, SINGLE)) == []
    store.publish(BASELINE)
    assert load(store) == load(BaselineStore.at(f"file://{store.directory}")) == BASELINE
    store.publish(baseline(sps=1400.0))
    assert load(store).steady.sps == 1400.0
    assert files(store) == [place(store)]


def test_each_workload_and_reference_has_its_own_file(store):
    for each in (BASELINE, ANT, replace(BASELINE, scale=Scale(4, 1))):
        store.publish(each)
    place(store, WORKLOAD).write_text("junk")
    assert load(store) == BASELINE
    assert list(store.others(BASELINE.workload, SINGLE)) == [ANT]


def test_only_the_latest_twenty_other_workloads_are_read(store):
    for age in range(25):
        other = replace(BASELINE, workload=Workload({"env": str(age)}))
        store.publish(other)
        os.utime(place(store, other.workload), (1e9 - age, 1e9 - age))
    found = list(store.others(BASELINE.workload, SINGLE))
    assert [each.workload.facts["env"] for each in found] == [str(age) for age in range(20)]


def test_baseline_counts_for_its_own_run_and_for_a_store_of_all_runs(store):
    first, second, lasting = (BaselineStore(store._fs, store.directory, run) for run in ("first", "second", ""))
    first.publish(BASELINE)
    assert load(first) == load(lasting) == replace(BASELINE, run="first")
    assert load(second) is None
    assert [len(list(each.others(WORKLOAD, SINGLE))) for each in (first, second, lasting)] == [1, 0, 1]
    second.publish(baseline(sps=1.0))
    assert (load(first), load(second).steady.sps, len(files(store))) == (None, 1.0, 1)


PLACES = ("{}/file", "{}/file/below", "{}/link", "", "/proc/nothing/here", "nosuchscheme://bucket/path")


@pytest.mark.parametrize("where", [*PLACES, "s4://key:secret@bucket/it", "nosuch://token-secret@host/it"])
def test_unusable_directory_is_rejected_without_telling_credentials(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    where = where.format(tmp_path)
    reason = "link is a link to .*unmounted, which does not exist" if "link" in where else "allowed are"
    with pytest.raises(ValueError, match=rf"baseline_dir is.*{reason}") as error:
        BaselineStore.at(where)
    assert "secret" not in str(error.value)
    assert repr(where) in str(error.value) or "secret" in where


# ---------------------------------------------------------------- foreign files

LARGE = 1 << 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BASELINE.to_json().encode()[:200], "not valid JSON"),
        (ANT.to_json().encode(), "another workload"),
        (LARGE, f"it has {LARGE} bytes"),
        (None, "not a file"),
    ],
)
def test_unusable_file_is_set_aside_and_kept(store, content, reason):
    path = place(store)
    if content is None:
        (path / "below").mkdir(parents=True)
    else:
        path.write_bytes(b"" if content == LARGE else content)
        os.truncate(path, content if content == LARGE else len(content))
    with pytest.raises(BaselineFileError, match=rf"{reason}.*set aside as"):
        load(store)
    (aside,) = files(store)
    store.publish(BASELINE)
    assert load(store) == BASELINE
    assert aside.is_dir() if content is None else aside.stat().st_size == (LARGE if content == LARGE else len(content))


@pytest.mark.parametrize("kind", ["fifo", "loop", "dangling link"])
def test_special_files_neither_block_nor_end_a_trial(store, kind):
    path = place(store, WORKLOAD)
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else "nowhere")
    trial = reference(store)
    trial.update(UNSETTLED)
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)


def test_file_that_cannot_be_set_aside_is_not_overwritten(store):
    place(store).write_text("junk")
    with pytest.raises(OSError, match="stays where it is"):
        load(troubled(store, failing("move", PermissionError(30, "Read-only file system"))))
    assert place(store).read_text() == "junk"


def test_file_deleted_while_being_read_counts_as_missing(store):
    store.publish(BASELINE)
    assert load(troubled(store, lambda operation, _: operation == "open_input_stream" and place(store).unlink())) is None


# ---------------------------------------------------------------- storage that fails


class ClientError(Exception):
    """Like `botocore.exceptions.ClientError`, which isn't an OSError either."""


def failing(operation, error):
    def before(now, where):
        if now == operation:
            raise error

    return before


def vanishing(operation):
    def before(now, where):
        if now == operation:
            shutil.rmtree(Path(where).parent if operation != "create_dir" else where, ignore_errors=True)

    return before


def half_written(operation, where):
    if operation == "open_output_stream":
        Path(where).write_text("{")
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("scale", [SINGLE, Scale(2, 4)])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (half_written, "No space left"),
        (failing("create_dir", OSError(30, "Read-only file system")), "Read-only"),
        (failing("move", PermissionError(13, "Permission denied")), "Permission denied"),
        (failing("get_file_info", OSError(5, "Input/output error")), "Input/output"),
        (failing("get_file_info", ClientError("SlowDown: please reduce your request rate")), "SlowDown"),
        *((vanishing(operation), "") for operation in ("get_file_info", "create_dir", "open_output_stream", "move")),
    ],
)
def test_fault_costs_one_warning_and_the_baseline_is_written_after_it(store, fault, told, scale, warn):
    broken = [True]
    trial = reference(troubled(store, lambda *call: fault(*call) if broken[0] else None), scale, warn=warn)
    trial.update(UNSETTLED)
    trial.update(SETTLED)
    if scale == SINGLE:
        assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)
        assert told in warn.get("storage", "")
        assert warn.keys() <= {"storage"}
    assert not list(Path(store.directory).glob("*.partial"))
    broken[0] = False
    trial.update(replace(SETTLED, sps=900.0, iterations=6, env_steps=6000.0, seconds=6.0))
    assert load(store, WORKLOAD) is None if scale != SINGLE else load(store, WORKLOAD).steady.sps == 1000.0


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
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1378.0, 1.0)


# ---------------------------------------------------------------- racing and killed processes

spawned = multiprocessing.get_context("spawn")
TRIALS, READERS, REWRITES = 200, 4, 300
BULK = 200_000  # large enough that a torn write would be seen


def measured(round_):
    """Return a baseline whose `sps` and `seconds` match, to detect torn reads."""
    sps = 1000.0 + round_
    window = {"sps": sps, "env_steps": 5000.0, "iterations": 5, "seconds": 5000.0 / sps}
    return baseline(WORKLOAD, {"note": "x" * BULK}, **window)


def rewrite(directory, done):
    store = BaselineStore.at(directory)
    for round_ in range(REWRITES):
        store.publish(measured(round_))
    done.set()


def read(directory, done, told):
    store, warn = BaselineStore.at(directory), Warnings()
    trials = [reference(store, Scale(2, 1), owner=str(number), warn=warn) for number in range(TRIALS // READERS)]
    loads = []
    while not (done.is_set() and loads):
        for trial in trials:
            trial.update(UNSETTLED)
        found = load(store, WORKLOAD)
        loads.append((found.steady.sps, found.steady.seconds))
    told.put((loads, [trial.compare_with(SETTLED, 1000.0)[:2] for trial in trials], dict(warn)))


def test_200_trials_read_one_baseline_while_it_is_rewritten(store):
    store.publish(measured(0))
    done, told = spawned.Event(), spawned.Queue()
    processes = [spawned.Process(target=read, args=(store.directory, done, told)) for _ in range(READERS)]
    processes.append(spawned.Process(target=rewrite, args=(store.directory, done)))
    for process in processes:
        process.start()
    reports = [told.get(timeout=120) for _ in range(READERS)]
    for process in processes:
        process.join(60)
    written = {1000.0 + round_ for round_ in range(REWRITES)}
    for loads, compared, warnings in reports:
        assert all(sps in written and seconds == 5000.0 / sps for sps, seconds in loads)
        assert {comparable for _, comparable in compared} == {1.0}
        assert {sps for sps, _ in compared} <= written
        assert warnings == {}
    assert len({sps for loads, *_ in reports for sps, _ in loads}) > 1, "no read overlapped a write"
    assert files(store) == [place(store, WORKLOAD)]


def kill(operation, where):
    if operation == "move":
        os.kill(os.getpid(), signal.SIGKILL)


def publish_and_be_killed(directory):
    BaselineStore(Troubled(kill), directory).publish(baseline(sps=1.0))


def test_process_killed_while_publishing_leaves_the_old_baseline(store):
    store.publish(BASELINE)
    process = spawned.Process(target=publish_and_be_killed, args=(store.directory,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert load(store) == BASELINE
    assert list(store.others(WORKLOAD, SINGLE)) == [BASELINE]  # the partial file is ignored
    store.publish(baseline(sps=1400.0))
    assert load(store).steady.sps == 1400.0
