"""Endless, absurd or hostile input is rejected with a reason, uses little memory and never causes writes elsewhere."""

import ast
import copy
import json
import math
import os
import tempfile
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback import make_report, read_experiment
from rl_scaling_callback.baseline.store import BaselineFileError, BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Workload
from rl_scaling_callback.experiments import ExperimentError
from rl_scaling_callback.live.machine import Colocation
from rl_scaling_callback.report import render_page
from rl_scaling_callback.sweeping.task import write_config
from tests.builders import BASELINE, CONFIG, HEADER, Folder, result, results

MB = 1 << 20
ENDLESS = 512 * MB


def grow(path, size=ENDLESS):
    """Grow a file by a line of zeros, as a sparse file that takes no disk space."""
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + size)


@contextmanager
def little_memory(most=200 * MB):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def shown(experiment):
    """Return the page."""
    return render_page(make_report(experiment))


def test_endless_results_configs_and_baselines_are_left_out(folder):
    trial = folder.trial(results(2))
    grow(trial / "result.json")
    with (trial / "result.json").open("a") as file:
        file.write("\n" + json.dumps(result(3)) + "\n")
    without_config = [{key: value for key, value in line.items() if key != "config"} for line in results(5)]
    grow(folder.trial(without_config, name="endless config") / "params.json")
    folder.publish(BASELINE)
    (baseline,) = (folder.path / "scaling_baselines").iterdir()
    grow(baseline)
    with little_memory():
        experiment = folder.read()
    ((run,),) = (study.runs for study in experiment.studies)
    assert (run.steady.iterations, run.notes) == (1, ("1 damaged line of its results left out",))
    reasons = dict(experiment.left_out)
    assert "its config has no valid scale" in reasons["endless config"]
    assert baseline.name in reasons


def test_endless_table_is_rejected(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}\n1,1,100,1\n")
    grow(path)
    with little_memory(), pytest.raises(ExperimentError, match=r"table\.csv is larger than 64 MB"):
        read_experiment(path)


@pytest.mark.parametrize("depth", [100, 900, 985, 1000, 1100, 100_000])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_nesting_of_any_depth_is_read_or_left_out(folder, depth, brackets):
    opened, closed = brackets
    config = '"env_config": ' + opened * depth + ("1" if opened != "[" else "") + closed * depth
    trial = folder.trial([])
    deep = [json.dumps(result(k)).replace('"env_config": {}', config) for k in range(1, 6)]
    (trial / "result.json").write_text("\n".join(deep) + "\n")
    assert shown(folder.read())


ABSURD = [0, 1, -1, 10**25, 10**400, 5e-324, 1e308, -1e308, math.nan, math.inf, True, None, "", "1", "\ud800", [], [1], {"a": 1}]
TOP = (
    "training_iteration time_this_iter_s iterations_since_restore hostname perf env_runners num_env_steps_sampled fault_tolerance "
    "timesteps_this_iter timesteps_total info timestamp pid scaling"
)
NESTED = "perf/cpu_util_percent perf/vram_util_percent0 env_runners/num_env_steps_sampled scaling/sps scaling/time"
OLDER = ("num_workers", "optimizer", "num_gpus", "learning_starts", "broadcast_interval")
PLACES = [tuple(place.split("/")) for place in f"{TOP} {NESTED}".split()] + [("config", key) for key in (*CONFIG, *OLDER)]


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(PLACES), st.sampled_from(ABSURD), min_size=1, max_size=4))
def test_arbitrary_results_are_handled(absurd):
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place) / "experiment")
        lines = results(5, scaling={})
        for each in lines:
            for (*above, key), value in absurd.items():
                inner = each
                for name in above:
                    inner = inner[name] if isinstance(inner[name], dict) else {}
                inner[key] = copy.deepcopy(value)  # another key may lie within it
        folder.trial(results(5, config={"num_env_runners": 2}))
        folder.trial(lines)
        assert shown(folder.read())


FIGURES = st.sampled_from(["0", "1", "8", "-1", "1e308", "5e-324", "1e15", "1e-9", "nan", "9" * 400, "9" * 5000, "1_0", "", "x"])


@settings(max_examples=50)
@given(st.lists(st.lists(FIGURES, max_size=6).map(",".join), max_size=5), st.binary(max_size=200))
def test_arbitrary_tables_and_progress_are_handled(rows, junk):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "table.csv"
        for header, first in ((HEADER, "1,1,100,1"), ("n_envs,fps,seed,batch,is_warmup", "1,100,1,,")):
            path.write_text("\n".join([header, first, *rows]))
            assert shown(read_experiment(path))
        trial = Path(place) / "x" / "y"
        trial.mkdir(parents=True)
        (trial / "progress.csv").write_bytes(b"training_iteration,time_this_iter_s,timesteps_total,config\n1,1,10,{}\n" + junk)
        assert shown(read_experiment(trial.parent))


HOSTILE = ["..", "../../outside", "/outside", "a/b", "a\\b", "~", "$HOME", "a\nb", "a\0b", "<b>%s{} ☃ 评 \ud800", "x" * 5000]


def everything_in(place):
    return {path for path in place.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_the_store(tmp_path, name):
    store = BaselineStore.at(tmp_path / "store")
    workload = Workload({"workload": name, "env_config": {name: name}})
    baseline = replace(BASELINE, workload=workload, owner=name, provenance={name: name})
    store.publish(baseline)
    assert store.load(workload, BASELINE.scale) == baseline
    assert store.load(Workload({**workload.facts, "workload": f"{name} "}), BASELINE.scale) is None
    (file,) = everything_in(tmp_path)
    assert file.parent == Path(store.directory)
    assert file.name.isascii()
    file.write_text("junk")
    with pytest.raises(BaselineFileError, match="set aside"):
        store.load(workload, BASELINE.scale)
    (aside,) = everything_in(tmp_path)
    assert aside.parent == Path(store.directory)


def test_link_in_a_store_is_replaced_but_not_its_target(tmp_path):
    store = BaselineStore.at(tmp_path / "store")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    Path(store.path(BASELINE.workload, BASELINE.scale)).symlink_to(outside)
    store.publish(BASELINE)
    assert outside.read_text() == "mine"
    assert store.load(BASELINE.workload, BASELINE.scale) == BASELINE


def test_report_does_not_tell_strings_of_a_logged_config(folder):
    for secret in ("hunter2", "hunter3"):
        partial = f"functools.partial(<class 'mine.Callback'>, api_key='{secret}')"
        logged = {"env_config": {"broker": {"password": secret}}, "callbacks": [partial], "model": {"custom_model": secret}}
        folder.trial(results(5, config=logged), name=secret.replace("hunter", "trial"))
    experiment = folder.read()
    assert len(experiment.studies) == 2
    assert "hunter" not in shown(experiment)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files and its lock folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path, tmp_path / f"rl_scaling_callback-{os.getuid()}"


@pytest.mark.parametrize("host", HOSTILE[:-1])
def test_host_name_cannot_escape_the_lock_folder(temporary, host):
    place, locks = temporary
    Colocation(host)
    (file,) = everything_in(place)
    assert file.parent == locks


def test_link_in_place_of_the_lock_folder_is_not_followed(temporary, monkeypatch):
    place, locks = temporary
    outside = place / "outside"
    outside.mkdir()
    locks.symlink_to(outside)
    with pytest.raises(OSError, match="not a folder owned by this user"):
        Colocation("host")
    locks.unlink()
    locks.mkdir()
    (locks / "host.lock").symlink_to(outside / "file")
    with pytest.raises(OSError, match=r"host\.lock"):
        Colocation("host")
    assert everything_in(outside) == set()
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    with pytest.raises(PermissionError, match="not a folder owned by this user"):
        Colocation("host")


@pytest.mark.parametrize("text", ["a\nimport os", "a\rimport os", "\u2028import os", "'", '"""', "\\"])
def test_nothing_written_into_a_program_becomes_code(tmp_path, text):
    def statements(source, reason):
        write_config(tmp_path / "tuned.py", source, Scale(2, 1), reason)
        return [type(each) for each in ast.parse((tmp_path / "tuned.py").read_text()).body]

    assert statements(f"{text}.py:{text}", text) == statements("config.py:config", "because")
