import json
import math
from types import SimpleNamespace

import pytest
from pyarrow import fs

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Workload
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from tests.builders import CONFIG, HEADER, baseline, result, results

MEASURED = {
    **{f"time/{phase}": seconds for phase, seconds in zip(schema.PHASES, (1.0, 0.5, 0.25, 0.0, 0.25), strict=True)},
    "runners/busy": 0.75,
    "runners/longest": 1.0,
    "sps": 1024.0,
    "sps_per_cpu": 512.0,
    "exclusive": 1.0,
}


def test_what_is_read_without_the_callback(folder):
    folder.trial(results(7))
    (study,) = folder.read().studies
    assert (study.title, study.baseline) == ("PPO on HalfCheetah-v5", None)
    assert (study.phases_overlap, study.steps_vary) == (False, False)
    assert (study.facts["train_batch_size"], study.facts["host"]) == ("2048", "vm")
    (run,) = study.runs
    assert (run.scale, run.notes) == (Scale(1, 1), ())
    assert (run.steady.iterations, run.steady.sps, run.steady.parts) == (5, 1024.0, {})
    assert (run.cpu_utilisation, run.ram_utilisation) == (80.0, 7.0)
    assert all(map(math.isnan, (run.vram_utilisation, run.exclusive, run.cpus)))
    last = run.samples[-1]
    assert (last.number, last.env_steps, last.seconds) == (7, 2048.0, 2.0)
    assert (last.episode_return, last.lifetime_steps) == (7.0, 14336.0)


def test_a_trial_that_tuned_itself_counts_at_the_scale_it_chose(folder):
    tuned = {"tuned/num_env_runners": 1.0, "tuned/num_envs_per_env_runner": 8.0}
    learns = {"num_steps_sampled_before_learning_starts": 2048 * 4}
    folder.trial([result(k, 2.0 if k < 5 else 0.5, {**MEASURED, **(tuned if k >= 5 else {})}, learns) for k in range(1, 13)])
    run = folder.run()
    assert (run.scale, run.steady.sps, run.steady.iterations) == (Scale(1, 8), 4096.0, 6)
    assert "it tuned itself: only iterations from 5 on count" in run.notes


def test_iterations_with_other_learner_threads_are_not_steady(folder):
    threads = [1.0, 2.0, 1.0, 2.0, *[1.0] * 8]
    folder.trial([result(k, 9 - n, {**MEASURED, "tuned/learner_threads": n}) for k, n in enumerate(threads, 1)])
    run = folder.run()
    assert (run.steady.iterations, run.steady.sps, len(run.samples)) == (9, 256.0, 12)


def suspended(scaling):
    """Ten iterations of 2 s; by the clock, the seventh took an hour longer."""
    unknown = {} if scaling is None else {**scaling, "sps": NAN}
    return [result(k, *((3602.0, unknown or None) if k == 7 else (2.0, scaling))) for k in range(1, 11)]


def fleet(*healthy):
    return [result(k, config={"num_env_runners": 4}, fault_tolerance={"num_healthy_workers": n}) for k, n in enumerate(healthy, 1)]


EVALUATES = {"evaluation_interval": 1}
LEARNS_AFTER = "num_steps_sampled_before_learning_starts"
SUSPENDED = "one of its iterations took 3,602 s, while 2 s is typical: was the machine suspended or its clock changed?"
EVALUATED = "its iterations include evaluation, whose time is unknown without the callback"
CHANGED = "its config changed while it ran: only iterations from 6 on count"
DAMAGED = "3 damaged lines of its results left out"
DRIFTED = "its sampling cost per env step changed by +45 % while it ran, and so did its efficiency"


@pytest.mark.parametrize(
    ("lines", "iterations", "sps", "note"),
    [
        (suspended({**MEASURED, "env_steps": 2048.0, "time/evaluate": 0.0}), 7, 1024.0, ""),
        (suspended(None), 8, 8 * 2048 / (7 * 2 + 3602), SUSPENDED),
        ([result(k, scaling={**MEASURED, "steady/drift": 45.4 if k == 7 else 0.0}) for k in range(1, 8)], 5, 1024.0, DRIFTED),
        (results(3, 3.0, MEASURED | {"time/evaluate": 1.0}, EVALUATES), 1, 1024.0, ""),
        (results(3, config=EVALUATES), 1, 1024.0, EVALUATED),
        (results(5) + [result(k, 1.0, config={"num_env_runners": 2}) for k in range(6, 10)], 2, 2048.0, CHANGED),
        ([result(k, config={"lr": k * 1e-4}) for k in range(1, 6)], 3, 1024.0, ""),
        ([*results(2), b"junk", b"\xff\x00", b"[1]", result(3)], 1, 1024.0, DAMAGED),
        ([result(k, 0.1 if k < 3 else 2.0, config={LEARNS_AFTER: 2 * 2048}) for k in range(1, 7)], 2, 1024.0, ""),
        ([result(k, time_this_iter_s=NAN if k == 4 else 2.0, info={"x": math.inf}) for k in range(1, 8)], 4, 1024.0, ""),
        (fleet(4, 4, 4, 3, 4, 4, 4, 4), 6, 1024.0, ""),
        ([{key: value for key, value in line.items() if key != "config"} for line in results(3)], 1, 1024.0, ""),
    ],
)
def test_which_iterations_count_and_what_is_noted(folder, lines, iterations, sps, note):
    trial = folder.trial([])
    written = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (trial / "result.json").write_bytes(b"\n".join([*written, written[-1][:200]]))  # the last one is being written
    run = folder.run()
    assert (run.steady.iterations, run.steady.sps, run.notes) == (iterations, pytest.approx(sps), (note,) if note else ())
    assert run.scale == Scale(lines[-1].get("config", CONFIG)["num_env_runners"], 1)


def test_callback_adds_parts_cpus_and_exclusivity(folder):
    folder.trial(results(4, scaling=MEASURED))
    run = folder.run()
    known = {name: seconds for name, seconds in run.steady.parts.items() if seconds == seconds}
    assert known == {"sample": 2.0, "learn": 1.0, "sync": 0.5, "other": 0.5, "busy": 1.5, "longest": 2.0}
    assert (run.cpus, run.exclusive) == (2.0, 1.0)
    folder.trial(results(4, config={"num_cpus_for_main_process": 1, "num_cpus_per_env_runner": 0.5}), name="without")
    assert {run.cpus for study in folder.read().studies for run in study.runs} == {2.0, 1.5}, "those that the config requests"


def test_one_shared_iteration_makes_a_run_not_exclusive_and_one_without_parts_makes_them_unknown(folder):
    folder.trial([result(k, scaling=MEASURED | {"exclusive": 0.0} if k == 4 else MEASURED if k < 5 else {}) for k in range(1, 6)])
    run = folder.run()
    assert run.exclusive == 0.0
    assert set(run.steady.parts) == set(RECORDED)
    assert all(map(math.isnan, run.steady.parts.values()))


def test_restored_trial_counts_repeats_once_and_evaluation_never_and_warms_up_again(folder):
    measured = {**MEASURED, "env_steps": 2048.0, "time/evaluate": 0.5}
    first = [result(k, 4.0, measured, time_total_s=4.0 * k) for k in range(1, 4)]
    # Restored from the second iteration; the time of the fourth is unknown, since its result is missing.
    restored = [result(k, 2.0, measured, time_total_s=8.0 + 2.0 * (k - 2), iterations_since_restore=k - 2) for k in (3, 5, 6)]
    folder.trial(first + restored)
    run = folder.run()
    assert {sample.number: sample.elapsed for sample in run.samples} == {1: 3.5, 2: 7.0, 3: 8.5, 5: 13.5, 6: 15.0}
    assert (run.steady.iterations, run.steady.seconds) == (1, 1.5)


@pytest.mark.parametrize(("done", "notes"), [(False, ("ended with an error after 4 iterations",)), (True, ())])
def test_crashed_trial_counts_with_a_note_unless_it_was_retried(folder, done, notes):
    (folder.trial([*results(3), result(4, done=done)]) / "error.txt").write_text("Traceback")
    assert (folder.run().steady.iterations, folder.run().notes) == (2, notes)


def test_known_waits_give_losses_of_overlapping_phases(folder):
    asynchronous = {"broadcast_interval": 1, "min_time_s_per_iteration": 10}
    for runners in (1, 2):
        config = {**asynchronous, "num_env_runners": runners}
        folder.trial(results(4, 2.0, {**MEASURED, "account/exact": 1.0, "learner/busy": 1.94}, config))
    (study,) = folder.read().studies
    assert (study.phases_overlap, study.steps_vary) == (True, True)
    _, two = configurations(study, Scale(1, 1))
    assert sum(two.losses.values()) == pytest.approx(50.0)
    # Busy for 1.94 of 2 s.
    assert two.diagnosis.endswith("busy 97 %: at most 1.03× from more env runners")


NO_STEPS = {"env_runners": None, "num_env_steps_sampled_lifetime": 0}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (results(2), "2 iterations; warm-up takes 2, so at least 3 are needed"),
        (results(4, config={"_is_online": False}), "it learns from recorded data (offline)"),
        (results(4, config={"num_env_runners": None}), "no valid scale: num_env_runners is None"),
        (results(4, **NO_STEPS), "4 iterations, none of which can be measured"),
        (results(4, time_this_iter_s=0), "none of which can be measured: time_this_iter_s is 0"),
        (results(4, config={LEARNS_AFTER: 9e6}), "4 iterations; learning starts after 9,000,000 env steps, and warm-up takes 2"),
        (results(4, config={LEARNS_AFTER: 10}, **NO_STEPS), "samples no env steps"),
        (fleet(4, 4, 4, 4, 3, 3, 3, 3), "only 3 of its 4 env runners were healthy"),
    ],
)
def test_unmeasurable_trials_are_left_out_with_the_reason(folder, lines, reason):
    folder.trial(lines)
    assert reason in folder.reason()


def test_trial_without_any_result_is_left_out(folder):
    error = folder.trial([]) / "error.txt"
    error.write_text("Traceback")
    assert "ended with an error before its first iteration" in folder.reason()
    error.unlink()
    error.with_name("result.json").unlink()
    assert "no iteration was reported" in folder.reason()


@pytest.mark.parametrize(
    ("trials", "runs"),
    [
        ([{"config": each} for each in ({"_train_batch_size_per_learner": 1024}, {"seed": 1}, {"num_env_runners": 2})], [2, 1]),
        ([{"config": {"_learner_connector": f"<function f at {address}>"}} for address in ("0x7fe1", "0x7fe2")], [2]),
        # Env runners on other hardware, of which only the callback knows.
        ([{"scaling": {"workload": name}} for name in ("here", "here", "there")] + [{"hostname": "unknown"}], [2, 1, 1]),
        (({"scaling": {"workload": "here"}}, {}), [2]),
    ],
)
def test_workloads_are_separate_studies_largest_first(folder, trials, runs):
    for each in trials:
        folder.trial(results(5, **each))
    assert [len(study.runs) for study in folder.read().studies] == runs


def test_hardware_from_baseline_files_separates_studies(folder):
    for cores in (8, 4):
        file = baseline(Workload({"cpu": "AMD EPYC", "cores": cores, "accelerators": []}))
        folder.publish(file)
        folder.trial(results(3, scaling={**MEASURED, "workload": file.workload.id}))
    (folder.path / EXPERIMENT_SUBDIRECTORY / "baseline-1.json").write_text("{")
    studies = folder.read().studies
    assert {study.runs[0].cores for study in studies} == {8.0, 4.0}
    assert {study.title for study in studies} == {f"PPO on HalfCheetah-v5 (cores: {cores})" for cores in (4, 8)}
    assert {study.facts["cpu"] for study in studies} == {"AMD EPYC"}
    assert len(folder.read(pool=["cores"]).studies) == 1
    assert len(folder.read(pool=["env"]).studies) == 2


def test_recorded_baseline_sps_replaces_a_missing_reference(folder):
    folder.trial(results(3, 2.0, MEASURED | {"baseline_sps": 700.0, "comparable": 1.0}, {"num_env_runners": 2}))
    assert folder.read().studies[0].baseline.steady.sps == 700.0
    assert folder.read(reference=Scale(4, 1)).studies[0].baseline.steady.sps == 2800.0


def test_trials_that_probed_their_baseline_are_compared_with_their_own(folder):
    for envs, speedup, last, error in ((2, 1.6, 400.0, 5.0), (4, 2.0, 900.0, 20.0)):
        probed = {"baseline/source": "probe", "baseline/error": error, "baseline_sps": last, "comparable": 1.0}
        scaling = MEASURED | probed | {"steady/sps": 1000.0, "steady/speedup": speedup}
        folder.trial(results(8, 2.0, scaling, {"num_envs_per_env_runner": envs}))
    (study,) = folder.read().studies
    assert study.baseline.notes == ("the mean of those probed in the trials, each of which is compared with its own",)
    small, large = configurations(study)
    # Each ran at 1,024 steps/s.
    assert [small.speedup, large.speedup] == [pytest.approx(1.024 * 1.6), pytest.approx(1.024 * 2.0)]
    assert 0 < small.speedup_error < large.speedup_error


def test_samples_of_long_runs_are_thinned(folder):
    folder.trial(results(1000))
    run = folder.run()
    samples = [sample.number for sample in run.samples]
    assert (len(samples), samples[:50], samples[-1], run.steady.iterations) == (300, [*range(1, 51)], 1000, 998)
    assert set(map(int.__sub__, samples[51:], samples[50:-1])) == {3, 4}


def test_result_grid_and_uri_are_read_through_their_filesystem(folder, tmp_path):
    folder.trial(results(3))
    local = fs.LocalFileSystem()
    grid = SimpleNamespace(experiment_path="experiment", filesystem=fs.SubTreeFileSystem(str(tmp_path), local))
    # repr, since from Python 3.13 on records with NaN compare unequal.
    assert repr(read_experiment(grid).studies) == repr(folder.read().studies)
    assert repr(read_experiment(f"file://{folder.path}").studies) == repr(folder.read().studies)


def test_errors_of_what_is_no_experiment_or_of_names_that_it_does_not_have(tmp_path, folder):
    def message(place, **options):
        with pytest.raises(ExperimentError) as error:
            read_experiment(place, **options)
        return str(error.value)

    assert "does not exist" in message(tmp_path / "result.json")
    (folder.path / "mine.csv").write_text(HEADER)
    assert f"it contains no trial, but tables; pass one of them, such as {folder.path}/mine.csv" in message(folder.path)
    for nothing in (3, None, ""):
        assert "is no path or URI" in message(nothing)
    folder.trial(results(3))
    assert "is no table: columns" in message(folder.path, columns={"sps": "FPS"})
    assert "pool is batch, which is no setting" in message(folder.path, pool=["batch"])
