import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pyarrow import fs

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DISTURBED, SteadyRule
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.experiments.logs import ResultLines
from rl_scaling_callback.report import make_report, render_page
from tests.builders import BASELINE, HEADER, TABLE, result

MEASURED = {
    **{f"time/{phase}": seconds for phase, seconds in zip(schema.PHASES, (1.0, 0.5, 0.25, 0.0, 0.25), strict=True)},
    "runners/busy": 0.75,
    "runners/longest": 1.0,
    "sps": 1024.0,
    "sps_per_cpu": 512.0,
    "exclusive": 1.0,
}


def test_steps_and_seconds_are_read_without_the_callback(folder):
    folder.trial([result(k) for k in range(1, 8)])
    run = folder.run()
    assert run.scale == Scale(1, 1)
    assert (run.steady.iterations, run.steady.sps, run.steady.parts) == (5, 1024.0, {})
    assert (run.cpu_utilisation, run.ram_utilisation) == (80.0, 7.0)
    assert math.isnan(run.vram_utilisation)
    assert [sample.measured for sample in run.samples] == [False] * 2 + [True] * 5
    last = run.samples[-1]
    assert (last.number, last.env_steps, last.seconds) == (7, 2048.0, 2.0)
    assert (last.episode_return, last.lifetime_steps) == (7.0, 14336.0)
    assert math.isnan(run.exclusive)
    assert math.isnan(run.cpus), "this config does not say"
    assert run.notes == ()


def test_a_trial_that_tuned_itself_counts_at_the_scale_it_chose(folder):
    tuned = {"tuned/num_env_runners": 1.0, "tuned/num_envs_per_env_runner": 8.0}
    folder.trial([result(k, 2.0 if k < 5 else 0.5, {**MEASURED, **(tuned if k >= 5 else {})}) for k in range(1, 13)])
    run = folder.run()
    assert (run.scale, run.steady.sps) == (Scale(1, 8), 4096.0)


def suspended(scaling):
    """Ten iterations of 2 s; by the clock, the seventh took an hour longer."""
    unknown = {} if scaling is None else {**scaling, "sps": math.nan}
    return [result(k, *((3602.0, unknown or None) if k == 7 else (2.0, scaling))) for k in range(1, 11)]


def test_iteration_with_a_clock_jump_does_not_count(folder):
    folder.trial(suspended({**MEASURED, "env_steps": 2048.0, "time/evaluate": 0.0}))
    run = folder.run()
    assert (run.steady.iterations, run.steady.sps, run.notes) == (7, 1024.0, ())


def test_suspicious_iteration_is_noted_without_the_callback(folder):
    folder.trial(suspended(None))
    run = folder.run()
    assert run.steady.iterations == 8
    assert run.notes == (
        "one of its iterations took 3,602 s, while 2 s is typical: was the machine suspended or its clock changed?",
    )


def test_drift_is_noted(folder):
    folder.trial([result(k, scaling={**MEASURED, "steady/drift": 45.4 if k == 7 else 0.0}) for k in range(1, 8)])
    assert folder.run().notes == ("its sampling cost per env step changed by +45 % while it ran, and so did its efficiency",)


def test_facts_of_a_study(folder):
    folder.trial([result(k) for k in range(1, 4)])
    (study,) = folder.read().studies
    assert study.title == "PPO on HalfCheetah-v5"
    assert study.exclusive_phases
    assert not study.timed_iterations
    assert study.facts["train_batch_size"] == "2048"
    assert study.facts["host"] == "vm"
    assert study.baseline is None


def test_cpus_from_the_config_without_the_callback(folder):
    config = {"num_cpus_for_main_process": 1, "num_cpus_per_env_runner": 0.5, "num_env_runners": 4}
    folder.trial([result(k, config=config) for k in range(1, 5)])
    assert folder.run().cpus == 3.0


def test_callback_adds_parts_cpus_and_exclusivity(folder):
    folder.trial([result(k, scaling=MEASURED) for k in range(1, 5)])
    run = folder.run()
    known = {name: seconds for name, seconds in run.steady.parts.items() if seconds == seconds}
    assert known == {"sample": 2.0, "learn": 1.0, "sync": 0.5, "other": 0.5, "busy": 1.5, "longest": 2.0}
    assert (run.cpus, run.exclusive) == (2.0, 1.0)


def test_one_shared_iteration_makes_a_run_not_exclusive(folder):
    folder.trial([result(k, scaling=MEASURED | {"exclusive": float(k != 4)}) for k in range(1, 6)])
    assert folder.run().exclusive == 0.0


def test_missing_parts_are_unknown(folder):
    folder.trial([result(k, scaling=MEASURED if k != 4 else {}) for k in range(1, 6)])
    parts = folder.run().steady.parts
    assert set(parts) == set(RECORDED)
    assert all(map(math.isnan, parts.values()))


def test_known_evaluation_is_excluded(folder):
    config = {"evaluation_interval": 1}
    folder.trial([result(k, 3.0, MEASURED | {"time/evaluate": 1.0}, config) for k in range(1, 4)])
    assert (folder.run().steady.sps, folder.run().notes) == (1024.0, ())


def test_unknown_evaluation_is_noted(folder):
    folder.trial([result(k, config={"evaluation_interval": 1}) for k in range(1, 4)])
    assert folder.run().notes == ("its iterations include evaluation, whose time is unknown without the callback",)


def test_restored_trial_counts_repeats_once_and_warms_up_again(folder):
    first = [result(k, 4.0) for k in range(1, 6)]
    restored = [result(k, 2.0, iterations_since_restore=k - 3) for k in range(4, 10)]
    folder.trial(first + restored)
    run = folder.run()
    assert [sample.number for sample in run.samples] == list(range(1, 10))
    assert [sample.number for sample in run.samples if sample.measured] == [3, 6, 7, 8, 9]
    assert run.steady.seconds == 4 + 4 * 2


def test_training_time_counts_neither_evaluation_nor_repeated_iterations(folder):
    measured = {**MEASURED, "env_steps": 2048.0, "time/evaluate": 0.5}
    first = [result(k, 4.0, measured, time_total_s=4.0 * k) for k in range(1, 4)]
    # Restored from the second iteration; the time of the fourth is unknown, since its result is missing.
    restored = [result(k, 2.0, measured, time_total_s=8.0 + 2.0 * (k - 2)) for k in (3, 5, 6)]
    folder.trial(first + restored)
    elapsed = {sample.number: sample.elapsed for sample in folder.run().samples}
    assert elapsed == {1: 3.5, 2: 7.0, 3: 8.5, 5: 13.5, 6: 15.0}


def test_run_counts_from_a_change_of_scale(folder):
    folder.trial([result(k) for k in range(1, 6)] + [result(k, 1.0, config={"num_env_runners": 2}) for k in range(6, 10)])
    run = folder.run()
    assert (run.scale, run.steady.sps, run.steady.iterations) == (Scale(2, 1), 2048.0, 2)
    assert run.notes == ("its config changed while it ran: only iterations from 6 on count",)


def test_changing_learning_rate_does_not_matter(folder):
    folder.trial([result(k, config={"lr": k * 1e-4}) for k in range(1, 6)])
    assert folder.run().steady.iterations == 3


def test_incomplete_last_line_is_ignored(folder):
    line = json.dumps(result(5))
    folder.trial([result(k) for k in range(1, 5)], tail=line[: len(line) // 2])
    run = folder.run()
    assert (run.steady.iterations, run.notes) == (2, ())


@pytest.mark.parametrize("junk", [b"junk\n", b"\xff\x00\n", b"[1]\n", b'{"a": \n', b"[" * 100_000 + b"\n"])
def test_damaged_lines_are_left_out_and_counted(folder, junk):
    trial = folder.trial([result(1), result(2)])
    with (trial / "result.json").open("ab") as file:
        file.write(junk + json.dumps(result(3)).encode() + b"\n")
    run = folder.run()
    assert run.steady.iterations == 1
    assert run.notes == ("1 damaged line of its results left out",)


def test_crashed_trial_counts(folder):
    trial = folder.trial([result(k) for k in range(1, 5)])
    (trial / "error.txt").write_text("Traceback")
    run = folder.run()
    assert (run.steady.iterations, run.notes) == (2, ("ended with an error after 4 iterations",))


def fleet(healthy):
    config = {"num_env_runners": 4}
    states = [{"num_healthy_workers": count} for count in healthy]
    return [result(k, config=config, fault_tolerance=state) for k, state in enumerate(states, start=1)]


def test_trial_lacking_env_runners_is_left_out(folder):
    folder.trial(fleet([4, 4, 4, 4, 3, 3, 3, 3]))
    assert "only 3 of its 4 env runners were healthy" in folder.reason()


def test_restarted_env_runner_is_harmless(folder):
    folder.trial(fleet([4, 4, 4, 3, 4, 4, 4, 4]))
    assert folder.run().steady.iterations == 6


def test_retried_trial_has_no_note(folder):
    trial = folder.trial([result(k, done=k == 4) for k in range(1, 5)])
    (trial / "error.txt").write_text("Traceback")
    assert folder.run().notes == ()


@pytest.mark.parametrize(
    ("busy", "limits"),
    [
        (1.6, "the learner limits: the learner can process 1,280 steps/s (busy 80% of the time), the env runners can sample 1,365"),
        (1.2, "sampling limits: the learner can process 1,707 steps/s (busy 60% of the time), the env runners can sample 1,365"),
    ],
)
def test_bottleneck_if_sampling_overlaps_learning(folder, busy, limits):
    scaling = {**MEASURED, "account/exact": 1.0, "learner/busy": busy}
    folder.trial([result(k, scaling=scaling, config={"broadcast_interval": 1}) for k in range(1, 5)])
    # 2,048 steps in 2 s; the env runners wait for the learner for 0.5 s.
    assert folder.run().notes == (limits,)


def test_iterations_before_learning_starts_are_not_measured(folder):
    config = {"num_steps_sampled_before_learning_starts": 2 * 2048}
    folder.trial([result(k, 0.1 if k < 3 else 2.0, config=config) for k in range(1, 7)])
    run = folder.run()
    assert (run.steady.iterations, run.steady.sps) == (2, 1024.0)
    assert [sample.number for sample in run.samples if sample.measured] == [5, 6]


def test_overlapping_phases_and_timed_iterations_are_recognised(folder):
    config = {"broadcast_interval": 1, "min_time_s_per_iteration": 10}
    folder.trial([result(k, config=config) for k in range(1, 4)])
    (study,) = folder.read().studies
    assert not study.exclusive_phases
    assert not study.waits_are_known
    assert study.timed_iterations
    assert study.steps_in_turn


def test_envs_that_step_in_parallel_are_recognised_and_not_advised_to_vectorise(folder):
    config = {"gym_env_vectorize_mode": "VectorizeMode.ASYNC"}
    busy = {"runners/busy": 1.9, "runners/longest": 1.9, "time/sample": 1.9, "time/learn": 0.0, "time/sync": 0.0, "time/other": 0.1}
    scaling = {**MEASURED, **busy, "time/evaluate": 0.0}
    folder.trial([result(k, scaling=scaling, config=config) for k in range(1, 5)])
    folder.trial([result(k, scaling=scaling, config={**config, "num_envs_per_env_runner": 2}) for k in range(1, 5)])
    (study,) = folder.read().studies
    assert not study.steps_in_turn
    _, two = configurations(study, Scale(1, 1))
    assert two.diagnosis.startswith("serial stepping")
    assert "vectorise" not in two.diagnosis


def test_known_waits_give_losses_of_overlapping_phases(folder):
    config = {"broadcast_interval": 1, "min_time_s_per_iteration": 10}
    scaling = {**MEASURED, "account/exact": 1.0, "learner/busy": 1.94}
    folder.trial([result(k, scaling=scaling, config=config) for k in range(1, 5)])
    folder.trial([result(k, scaling=scaling, config={**config, "num_env_runners": 2}) for k in range(1, 5)])
    (study,) = folder.read().studies
    assert (study.exclusive_phases, study.waits_are_known) == (False, True)
    one, two = configurations(study, Scale(1, 1))
    assert sum(two.losses.values()) == pytest.approx(50.0)
    # Busy for 1.94 of 2 s; env runners wait for it for 0.5 s, and not at all if it is twice as fast.
    assert two.diagnosis.endswith("busy 97 %: at most 1.03× from more env runners; a learner twice as fast: up to 1.3×")
    # 2r×1e is as fast as 1r×1e, so no goal selects it, unless the baseline comes from elsewhere and it is the only run.
    alone = replace(study, runs=two.runs, baseline=replace(one.runs[0], name="a file"))
    made = make_report(Experiment("here", (alone,)), "fastest")
    assert "a learner twice as fast: up to 1.3×" in render_page(made)


NO_STEPS = {"env_runners": None, "num_env_steps_sampled_lifetime": 0}


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([result(1), result(2)], "2 iterations; warm-up takes 2, so at least 3 are needed"),
        ([result(1)], "1 iteration; warm-up takes 2"),
        ([], "no iteration was reported"),
        ([result(k, config={"_is_online": False}) for k in range(1, 5)], "it learns from recorded data (offline)"),
        ([result(k, config={"input": "/data"}) for k in range(1, 5)], "it learns from recorded data (offline)"),
        ([result(k, config={"num_env_runners": None}) for k in range(1, 5)], "no valid scale: num_env_runners is None"),
        ([result(k, **NO_STEPS) for k in range(1, 5)], "4 iterations, none of which can be measured"),
        ([result(k, time_this_iter_s=0) for k in range(1, 5)], "none of which can be measured: time_this_iter_s is 0"),
        (
            [result(k, config={"num_steps_sampled_before_learning_starts": 9e6}) for k in range(1, 5)],
            "4 iterations; learning starts after 9,000,000 env steps, and warm-up takes 2 iterations more",
        ),
        (
            [result(k, **NO_STEPS, config={"num_steps_sampled_before_learning_starts": 10}) for k in range(1, 5)],
            "samples no env steps",
        ),
    ],
)
def test_unmeasurable_trials_are_left_out_with_the_reason(folder, results, reason):
    folder.trial(results)
    assert reason in folder.reason()


@pytest.mark.parametrize("junk", [[], 3, {}, {"num_env_runners": 1, "num_envs_per_env_runner": 0}])
def test_config_that_is_not_from_rllib(folder, junk):
    trial = folder.trial([{**result(k), "config": junk} for k in range(1, 4)])
    (trial / "params.json").write_text("{")
    assert "its config has no valid scale" in folder.reason()


def test_trial_that_failed_at_the_start_is_left_out(folder):
    trial = folder.trial([])
    (trial / "error.txt").write_text("Traceback")
    assert "ended with an error before its first iteration" in folder.reason()


def test_trial_without_results_is_left_out(folder):
    (folder.trial([]) / "result.json").unlink()
    assert "there is no result.json or progress.csv in its folder" in folder.reason()


def test_config_falls_back_to_params(folder):
    lines = [result(k) for k in range(1, 4)]
    for line in lines:
        del line["config"]
    folder.trial(lines)
    assert folder.run().steady.iterations == 1


def test_workloads_are_separate_studies_largest_first(folder):
    small = {"_train_batch_size_per_learner": 1024}
    folder.trial([result(k, config=small) for k in range(1, 4)])
    folder.trial([result(k, config={"seed": 1}) for k in range(1, 4)])
    folder.trial([result(k, config={"seed": 2, "num_env_runners": 2}) for k in range(1, 4)])
    studies = folder.read().studies
    assert [len(study.runs) for study in studies] == [2, 1]
    assert [study.title for study in studies] == [
        "PPO on HalfCheetah-v5 (train_batch_size: 2048)",
        "PPO on HalfCheetah-v5 (train_batch_size: 1024)",
    ]


def test_memory_addresses_do_not_separate_workloads(folder):
    for address in ("0x7fe1", "0x7fe2"):
        folder.trial([result(k, config={"_learner_connector": f"<function f at {address}>"}) for k in range(1, 4)])
    assert len(folder.read().studies) == 1


FACTS = {
    "algorithm": "ray.rllib.algorithms.ppo.ppo.PPO",
    "env": "HalfCheetah-v5",
    "env_config": {},
    "framework_str": "torch",
    "enable_env_runner_and_connector_v2": True,
    "policy_mapping_fn": "ray.rllib.algorithms.algorithm_config.AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN",
    "train_batch_size": 2048,
    "num_learners": 0,
    "policies": {"default_policy": [None, None, None, None]},
    "cpu": "AMD EPYC",
    "cores": 8,
    "accelerators": [],
    "ray": "2.60.0",
}


def baseline(**facts):
    return replace(BASELINE, workload=Workload({**FACTS, **facts}), provenance={"host": "vm", "trial": "PPO_x", "torch": "2.13"})


def test_hardware_from_a_baseline_file(folder):
    folder.publish(baseline())
    folder.trial([result(k) for k in range(1, 4)])
    (study,) = folder.read().studies
    assert study.runs[0].cores == 8.0
    assert (study.facts["cpu"], study.facts["torch"]) == ("AMD EPYC", "2.13")
    assert study.baseline is None, "there is a run at the reference scale"


@pytest.mark.parametrize("disturbed_s", [0.0, 50.0])
def test_baseline_file_replaces_a_missing_reference(folder, disturbed_s):
    published = replace(baseline(), env_steps=8 * 2048.0, parts={DISTURBED: disturbed_s})
    folder.publish(published)
    folder.trial([result(k, config={"num_env_runners": 2}) for k in range(1, 4)])
    (study,) = folder.read().studies
    assert study.baseline.scale == Scale(1, 1)
    assert (study.baseline.steady.sps, study.baseline.steady.parts) == (published.sps, published.parts)
    assert any(each.disturbed for each in configurations(study)) == bool(disturbed_s)
    assert (study.baseline.name, study.baseline.notes) == ("PPO_x", ("from the experiment's baseline file",))
    (other,) = folder.read(reference=Scale(2, 1)).studies
    assert other.baseline is None


@pytest.mark.parametrize("difference", [{"train_batch_size": 1024}, {"algorithm": "ray.rllib.algorithms.appo.appo.APPO"}])
def test_baseline_of_another_workload_is_not_used(folder, difference):
    folder.publish(baseline(**difference))
    folder.trial([result(k, config={"num_env_runners": 2}) for k in range(1, 4)])
    assert folder.read().studies[0].baseline is None


def test_recorded_baseline_sps_replaces_a_missing_reference(folder):
    lines = [
        result(k, scaling=MEASURED | {"baseline_sps": 700.0, "comparable": 1.0}, config={"num_env_runners": 2}) for k in range(1, 4)
    ]
    folder.trial(lines)
    assert folder.read().studies[0].baseline.steady.sps == 700.0
    assert folder.read(reference=Scale(4, 1)).studies[0].baseline.steady.sps == 2800.0


def test_trials_that_probed_their_baseline_are_compared_with_their_own(folder):
    for envs, speedup, last, error in ((2, 1.6, 400.0, 5.0), (4, 2.0, 900.0, 20.0)):
        probed = {"baseline/source": "probe", "baseline/error": error, "baseline_sps": last, "comparable": 1.0}
        scaling = MEASURED | probed | {"steady/sps": 1000.0, "steady/speedup": speedup}
        folder.trial([result(k, scaling=scaling, config={"num_envs_per_env_runner": envs}) for k in range(1, 9)])
    (study,) = folder.read().studies
    assert study.baseline.notes == ("the mean of those probed in the trials, each of which is compared with its own",)
    small, large = configurations(study)
    # Each ran at 1,024 steps/s.
    assert [small.speedup, large.speedup] == [pytest.approx(1.024 * 1.6), pytest.approx(1.024 * 2.0)]
    assert 0 < small.speedup_error < large.speedup_error


def test_env_runners_on_other_hardware_separate_studies(folder):
    for workload in ("here", "here", "there"):
        folder.trial([result(k, scaling={**MEASURED, "workload": workload}) for k in range(1, 6)])
    folder.trial([result(k, hostname="unknown") for k in range(1, 6)])
    assert [len(study.runs) for study in folder.read().studies] == [2, 1, 1]


def test_trial_without_the_callback_joins_the_workload_of_its_host(folder):
    folder.trial([result(k, scaling={**MEASURED, "workload": "here"}) for k in range(1, 6)])
    folder.trial([result(k) for k in range(1, 6)])
    assert [len(study.runs) for study in folder.read().studies] == [2]


def test_different_hardware_separates_studies(folder):
    folder.publish(baseline())
    folder.publish(replace(baseline(cpu="Xeon", cores=4), provenance={"host": "other"}))
    for host in ("vm", "other"):
        folder.trial([result(k, hostname=host) for k in range(1, 4)])
    studies = folder.read().studies
    assert {study.runs[0].cores for study in studies} == {8.0, 4.0}
    assert {study.title for study in studies} == {f"PPO on HalfCheetah-v5 (cores: {cores})" for cores in (4, 8)}


def test_unknown_host_is_assumed_to_equal_the_others(folder):
    folder.publish(baseline())
    for host in ("elsewhere", "vm"):
        folder.trial([result(k, hostname=host) for k in range(1, 4)])
    (study,) = folder.read().studies
    assert study.facts["host"] == "elsewhere, vm"
    assert len(study.runs) == 2


def test_damaged_baseline_file_is_left_out_by_name(folder):
    folder.trial([result(k) for k in range(1, 4)])
    (folder.path / EXPERIMENT_SUBDIRECTORY).mkdir()
    (folder.path / EXPERIMENT_SUBDIRECTORY / "baseline-v1-0-1r1e.json").write_text("{")
    (left_out,) = folder.read().left_out
    assert left_out.name == "baseline-v1-0-1r1e.json"
    assert "not valid JSON" in left_out.reason


def test_samples_of_long_runs_are_thinned(folder):
    folder.trial([result(k) for k in range(1, 1001)])
    samples = [sample.number for sample in folder.run().samples]
    assert len(samples) == 300
    assert samples[:50] == list(range(1, 51))
    assert samples[-1] == 1000
    assert set(map(int.__sub__, samples[51:], samples[50:-1])) == {3, 4}
    assert folder.run().steady.iterations == 998


def test_progress(folder):
    for _ in range(2):
        folder.trial([result(1)])
    calls = []
    folder.read(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_result_grid_and_uri_are_read_through_their_filesystem(folder, tmp_path):
    folder.trial([result(k) for k in range(1, 4)])
    local = fs.LocalFileSystem()
    grid = SimpleNamespace(experiment_path="experiment", filesystem=fs.SubTreeFileSystem(str(tmp_path), local))
    # repr, since from Python 3.13 on records with NaN compare unequal.
    assert repr(read_experiment(grid).studies) == repr(folder.read().studies)
    assert repr(read_experiment(f"file://{folder.path}").studies) == repr(folder.read().studies)


def test_attributes_of_a_tune_result_grid():
    from ray.tune import ResultGrid

    assert isinstance(ResultGrid.experiment_path, property)
    assert isinstance(ResultGrid.filesystem, property)


def test_errors_for_places_without_an_experiment(tmp_path, folder):
    def message(place):
        with pytest.raises(ExperimentError) as error:
            read_experiment(place)
        return str(error.value)

    assert "does not exist" in message(tmp_path / "nowhere")
    assert "it is empty" in message(folder.path)
    (folder.path / "experiment_state-1.json").write_text("{}")
    assert "contains no trial" in message(folder.path)
    (folder.path / "mine.csv").write_text(HEADER)
    assert f"pass one of them, such as {folder.path}/mine.csv" in message(folder.path)
    assert "can't be reached" in message("nosuchscheme://bucket/path")
    for nothing in (3, None, ""):
        assert "is not an experiment" in message(nothing)


def test_equal_configs_share_one_object(tmp_path):
    config = {"lr": None, "text": '"config": {"lr": 2}, {'}
    nested = {"evaluation": {"config": config}, "config": config, "after": [math.nan, math.inf]}
    documents = [{"a": 1, "config": config}, {"a": 2, "config": config}, nested, {"config": {"lr": 2}}, {"a": 2}, {"config": 3}]
    (tmp_path / "result.json").write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    with (tmp_path / "result.json").open("rb") as stream:
        read = list(ResultLines(stream))
    assert repr(read) == repr(documents)
    assert read[0]["config"] is read[1]["config"] is read[2]["config"]


def test_nan_is_unknown(folder):
    results = [result(k, time_this_iter_s=math.nan if k == 4 else 2.0, info={"x": math.inf}) for k in range(1, 8)]
    assert folder.trial(results)
    assert [sample.number for sample in folder.run().samples] == [1, 2, 3, 5, 6, 7]


def test_rule_sets_the_warm_up(folder):
    folder.trial([result(k) for k in range(1, 6)])
    assert folder.run(rule=SteadyRule(warmup_iterations=0)).steady.iterations == 5


def test_reading_needs_no_ray():
    code = "import sys; sys.modules['ray'] = None; from rl_scaling_callback import experiments as e; e.read_experiment(sys.argv[1])"
    command = [sys.executable, "-c", code, str(TABLE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TABLE.parents[2], check=False)
    assert done.returncode == 0, done.stderr
