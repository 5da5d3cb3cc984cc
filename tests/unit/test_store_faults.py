"""The store and `BaselineTracker` on failing storage: races, crashes, full or slow disks, foreign files."""

import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from rl_scaling_callback.baseline.model import BaselineFileError
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.workload import Workload
from tests.builders import BASELINE, SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, reference

ROOT = Path(__file__).parents[2]
spawned = multiprocessing.get_context("spawn")


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


def files(store):
    return sorted(Path(store.directory).iterdir())


def place(store, workload=BASELINE.workload):
    return Path(store.path(workload, SINGLE))


# ---------------------------------------------------------------- racing processes

TRIALS, READERS, REWRITES = 200, 4, 300
BULK = 200_000  # large enough that a torn write would be seen


def measured(round_):
    """Return a baseline whose `sps` and `seconds` match, to detect torn reads."""
    sps = 1000.0 + round_
    return replace(
        BASELINE, workload=WORKLOAD, sps=sps, env_steps=5000.0, iterations=5, seconds=5000.0 / sps, provenance={"note": "x" * BULK}
    )


def rewrite(directory, done):
    store = BaselineStore.at(directory)
    for round_ in range(REWRITES):
        store.publish(measured(round_))
    done.set()


def read(directory, done, told):
    store = BaselineStore.at(directory)
    warn = Warnings()
    trials = [reference(store, Scale(2, 1), owner=str(number), warn=warn) for number in range(TRIALS // READERS)]
    loads = []
    while not (done.is_set() and loads):
        for trial in trials:
            trial.update(UNSETTLED)
        found = store.load(WORKLOAD, SINGLE)
        loads.append((found.sps, found.seconds))
    told.put((loads, [trial.compare_with(SETTLED, 1000.0)[:2] for trial in trials], dict(warn)))


def test_200_trials_read_one_baseline_while_it_is_rewritten(store):
    store.publish(measured(0))
    done, told = spawned.Event(), spawned.Queue()
    readers = [spawned.Process(target=read, args=(store.directory, done, told)) for _ in range(READERS)]
    writer = spawned.Process(target=rewrite, args=(store.directory, done))
    for process in [*readers, writer]:
        process.start()
    reports = [told.get(timeout=120) for _ in readers]
    for process in [*readers, writer]:
        process.join(60)
    written = {1000.0 + round_ for round_ in range(REWRITES)}
    for loads, compared, warnings in reports:
        assert all(sps in written and seconds == 5000.0 / sps for sps, seconds in loads)
        assert len(compared) == TRIALS // READERS
        assert {comparable for _, comparable in compared} == {1.0}
        assert {sps for sps, _ in compared} <= written
        assert warnings == {}
    assert len({sps for loads, *_ in reports for sps, _ in loads}) > 1, "no read overlapped a write"
    assert store.load(WORKLOAD, SINGLE).sps == max(written)
    assert files(store) == [place(store, WORKLOAD)]


def race(directory, owner, together, told):
    trial = reference(BaselineStore.at(directory), owner=owner)
    trial.update(UNSETTLED)
    for round_ in range(2):
        together.wait(60)
        trial.update(replace(SETTLED, sps=1000.0 + int(owner), seconds=5.0 * 2**round_, iterations=5, env_steps=5000.0))
    told.put((owner, trial.is_baseline, trial.compare_with(SETTLED, 1000.0)[:2]))


def test_one_of_several_simultaneous_references_remains(store):
    together, told = spawned.Barrier(READERS), spawned.Queue()
    racers = [spawned.Process(target=race, args=(store.directory, str(owner), together, told)) for owner in range(READERS)]
    for process in racers:
        process.start()
    reports = [told.get(timeout=120) for _ in racers]
    for process in racers:
        process.join(60)
    final = store.load(WORKLOAD, SINGLE)
    assert [owner for owner, is_baseline, _ in reports if is_baseline] == [final.owner]
    # A trial that looked between two writes keeps what it found, which is a measurement of the same workload.
    assert {comparable for *_, (_, comparable) in reports} == {1.0}
    assert final.sps in {sps for *_, (sps, _) in reports} <= {1000.0 + owner for owner in range(READERS)}
    assert files(store) == [place(store, WORKLOAD)]


def publish_and_be_killed(directory):
    def before(operation, where):
        if operation == "move":
            os.kill(os.getpid(), signal.SIGKILL)

    BaselineStore(Troubled(before), directory).publish(replace(BASELINE, sps=1.0))


def test_process_killed_while_publishing_leaves_the_old_baseline(store):
    store.publish(BASELINE)
    process = spawned.Process(target=publish_and_be_killed, args=(store.directory,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert store.load(BASELINE.workload, SINGLE) == BASELINE
    assert list(store.others(WORKLOAD, SINGLE)) == [BASELINE]  # the partial file is ignored
    store.publish(replace(BASELINE, sps=1400.0))
    assert store.load(BASELINE.workload, SINGLE).sps == 1400.0


def test_baseline_published_while_a_damaged_one_is_set_aside_is_not_lost(store):
    place(store).write_text("{")

    def before(operation, where):
        if operation == "move" and where == str(place(store)):
            store.publish(BASELINE)

    with suppress(BaselineFileError):
        BaselineStore(Troubled(before), store.directory).load(BASELINE.workload, SINGLE)
    assert store.load(BASELINE.workload, SINGLE) == BASELINE


def test_file_deleted_while_being_read_counts_as_missing(store):
    store.publish(BASELINE)

    def before(operation, where):
        if operation == "open_input_stream":
            place(store).unlink()

    assert BaselineStore(Troubled(before), store.directory).load(BASELINE.workload, SINGLE) is None


@pytest.mark.parametrize("operation", ["get_file_info", "create_dir", "open_output_stream", "move"])
def test_directory_deleted_at_any_moment_causes_at_most_one_warning(store, operation):
    def before(now, where):
        if now == operation:
            shutil.rmtree(store.directory, ignore_errors=True)

    warn = Warnings()
    trial = reference(BaselineStore(Troubled(before), store.directory), warn=warn)
    trial.update(UNSETTLED)
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)
    assert list(warn) in ([], ["storage"])


# ---------------------------------------------------------------- full, read-only and broken disks

PREPARE = """
import os, sys
from pathlib import Path
from dataclasses import replace
from tests.builders import SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, reference
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.scale import Scale
disk = Path(sys.argv[1])
store = BaselineStore.at(disk)
warn = Warnings()
"""


def on_a_disk_of_its_own(tmp_path, script):
    """Run `script` on a small private filesystem, mounted without privileges in a user namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    enter = ["unshare", "-Urm", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=64k tmpfs '{disk}'"
    if shutil.which("unshare") is None or subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("no mounts in user namespaces here")
    command = [*enter, f'{mount} && exec "$@"', "sh", sys.executable, "-c", PREPARE + script, str(disk)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_full_disk(tmp_path):
    on_a_disk_of_its_own(
        tmp_path,
        """
reference(store, owner="old", workload=WORKLOAD).update(SETTLED)
kept = store.load(WORKLOAD, SINGLE)
filler = disk / "filler"
try:
    filler.write_bytes(b"x" * 100_000)
except OSError:
    pass
trial = reference(store, owner="old", warn=warn)
trial.update(replace(SETTLED, sps=1100.0, seconds=50.0))
assert trial.compare_with(SETTLED, 1000.0)[:2] == (1100.0, 1.0)
assert "No space left" in warn["storage"], warn
assert store.load(WORKLOAD, SINGLE) == kept
assert sorted(path.name for path in disk.iterdir()) == sorted(["filler", Path(store.path(WORKLOAD, SINGLE)).name])
filler.unlink()
trial.update(replace(SETTLED, sps=1200.0, seconds=200.0))
assert store.load(WORKLOAD, SINGLE).sps == 1200.0
""",
    )


def test_read_only_disk(tmp_path):
    on_a_disk_of_its_own(
        tmp_path,
        """
reference(store).update(SETTLED)
damaged = Path(store.path(WORKLOAD, Scale(4, 1)))
damaged.write_text("{")
assert os.system(f"mount -o remount,ro '{disk}'") == 0
waiting = reference(BaselineStore.at(disk), Scale(2, 1), owner="waiting", warn=warn)
waiting.update(SETTLED)
assert waiting.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)
assert not warn
other = reference(store, owner="another", workload=WORKLOAD.__class__({"env": "Ant-v5"}), warn=warn)
other.update(SETTLED)
assert other.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)
assert "Read-only" in warn["storage"], warn
try:
    store.load(WORKLOAD, Scale(4, 1))
except OSError as error:
    assert "stays where it is" in str(error)
else:
    raise AssertionError("a damaged file was accepted")
assert damaged.read_text() == "{"
""",
    )


def test_file_size_limit(store):
    old = reference(store, owner="a")
    old.update(SETTLED)
    kept = files(store)[0].read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    warn = Warnings()
    trial = reference(store, owner="a", warn=warn)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        trial.update(replace(SETTLED, seconds=50.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "storage" in warn
    assert [path.read_text() for path in files(store)] == [kept]


def test_failed_write_is_retried_as_soon_as_possible(store):
    broken = [True]

    def before(operation, where):
        if broken[0] and operation == "open_output_stream":
            raise OSError(28, "No space left on device")

    trial = reference(BaselineStore(Troubled(before), store.directory))
    trial.update(SETTLED)
    assert store.load(WORKLOAD, SINGLE) is None
    broken[0] = False
    # The trial may have only a few iterations left, too few for its window to double.
    trial.update(replace(SETTLED, iterations=6, env_steps=6000.0, seconds=6.0))
    assert store.load(WORKLOAD, SINGLE).sps == 1000.0
    waiting = reference(store, Scale(2, 1), owner="waiting")
    waiting.update(UNSETTLED)
    assert waiting.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)


class ClientError(Exception):
    """Like `botocore.exceptions.ClientError`, which isn't an OSError either."""


@pytest.mark.parametrize("scale", [SINGLE, Scale(1, 4), Scale(2, 4)])
def test_errors_of_a_storage_library_only_cause_a_warning(tmp_path, scale):
    fsspec = pytest.importorskip("fsspec.implementations.local")

    class Remote(fsspec.LocalFileSystem):
        def info(self, path, **kwargs):
            raise ClientError("SlowDown: please reduce your request rate")

    warn = Warnings()
    remote = fs.PyFileSystem(fs.FSSpecHandler(Remote(skip_instance_cache=True)))
    trial = reference(BaselineStore(remote, str(tmp_path)), scale, warn=warn)
    trial.update(UNSETTLED)
    trial.update(SETTLED)
    assert "SlowDown" in warn["storage"]


def test_failing_to_load_the_single_runner_measurement_keeps_the_baseline(store):
    class Failing(BaselineStore):
        def load(self, workload, reference):
            if reference != SINGLE:
                raise ClientError("SlowDown: please reduce your request rate")
            return super().load(workload, reference)

    warn = Warnings()
    reference(store).update(SETTLED)
    trial = reference(Failing(store._fs, store.directory), Scale(2, 4), owner="late", warn=warn)
    trial.update(UNSETTLED)
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)
    assert "SlowDown" in warn["single"]


# ---------------------------------------------------------------- a slow filesystem


def test_slow_filesystem_takes_a_small_share_of_the_time(store):
    pause = 0.02
    slow = BaselineStore(Troubled(lambda *_: time.sleep(pause)), store.directory)
    trial = reference(slow, Scale(2, 1), clock=time.monotonic)
    longest = spent = 0.0
    started = time.monotonic()
    while time.monotonic() - started < 4:
        before = time.monotonic()
        trial.update(UNSETTLED)
        longest = max(longest, time.monotonic() - before)
        spent += time.monotonic() - before
        time.sleep(0.002)
    assert spent < 0.05 * 4
    assert longest < 0.5
    store.publish(measured(0))
    while math.isnan(trial.compare_with(SETTLED, 1000.0)[0]) and time.monotonic() - started < 20:
        trial.update(UNSETTLED)
        time.sleep(0.002)
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)


def test_many_other_workloads_on_a_slow_filesystem_do_not_delay_an_iteration(store):
    for number in range(200):
        store.publish(replace(BASELINE, workload=Workload({"env": str(number)})))
    now = [0.0]

    def slow(operation, where):
        now[0] += 0.5

    trial = reference(BaselineStore(Troubled(slow), store.directory), Scale(2, 1), clock=lambda: now[0])
    trial.update(UNSETTLED)
    assert now[0] < 10


@pytest.mark.parametrize("run", ["own", "other", ""])
def test_baseline_published_while_a_damaged_file_is_read_stays(store, run):
    place(store).write_text("junk")
    publisher = BaselineStore(store._fs, store.directory, run)

    def publish(operation, where):
        if operation == "move" and where == str(place(store)):
            publisher.publish(BASELINE)

    own = BaselineStore(Troubled(publish), store.directory, "own")
    found = own.load(BASELINE.workload, SINGLE)
    assert found == (replace(BASELINE, run="own") if run == "own" else None)
    assert publisher.load(BASELINE.workload, SINGLE) == replace(BASELINE, run=run)
    assert files(store) == [place(store)]


# ---------------------------------------------------------------- foreign files


def test_huge_file_is_set_aside_unread(store):
    size = 1 << 30
    for path in (place(store), place(store, Workload({"env": "Ant-v5"}))):
        with path.open("wb") as file:
            file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BaselineFileError, match=f"it has {size} bytes"):
        store.load(BASELINE.workload, SINGLE)
    assert list(store.others(BASELINE.workload, SINGLE)) == []
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < size / 8
    assert not place(store).exists()
    assert {path.stat().st_size for path in files(store)} == {size}


@pytest.mark.parametrize("kind", ["fifo", "loop", "dangling link", "directory"])
def test_special_files_neither_block_nor_end_a_trial(store, kind):
    path = place(store, WORKLOAD)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    else:
        (path / "below").mkdir(parents=True)
    trial = reference(store)
    trial.update(UNSETTLED)
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000.0)[:2] == (1000.0, 1.0)


HOSTILE = "../../up\n<script>\x00%s{} 'quoted' \"too\" ☃ 评 \ud800"


def test_line_breaks_in_names_are_escaped_in_warnings(store):
    store.publish(replace(BASELINE, workload=Workload({"env": HOSTILE}), provenance={"trial": HOSTILE}))
    warn = Warnings()
    reference(store, Scale(2, 1), warn=warn).update(UNSETTLED)
    assert "\n" not in warn["mismatch"]
