"""Folders of every release of Ray, at any depth, with what else is found in them."""

import csv
import json
import math
import pickle
from pathlib import Path

import pytest

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.experiments import read_experiment
from rl_scaling_callback.experiments.tune_folder import overlapping
from rl_scaling_callback.report import make_report
from rl_scaling_callback.report.decisions import reason_text
from rl_scaling_callback.report.sections import left_out

# Config and results of a trial with 2 env runners × 3 envs that samples 600 steps in 2 s, as each release logs them. k: lifetime.
OLD = {"env": "Pong-v0", "num_workers": 2, "num_envs_per_worker": 3, "train_batch_size": 600, "num_gpus": 1}
V05 = {**OLD, "min_iter_time_s": 10, "vtrace": True, "sample_batch_size": 50, "optimizer": {"num_envs_per_worker": 3}}
V20 = {**OLD, "min_iter_time_s": -1, "simple_optimizer": -1}
V29 = {**OLD, "num_workers": -1, "num_rollout_workers": 2, "num_learner_workers": 0}
V220 = {"env": "Pong-v0", "num_env_runners": 2, "num_envs_per_env_runner": 3, "enable_env_runner_and_connector_v2": False}
V260 = {**V220, "enable_env_runner_and_connector_v2": True}
GENERATIONS = {
    "0.5": (V05, "timesteps_this_iter=600 timesteps_total=600k episode_reward_mean=3"),
    "0.8": ({**OLD, "rollout_fragment_length": 50}, "timesteps_this_iter=600 info/num_steps_sampled=600k episode_reward_mean=3"),
    "1.2": ({**OLD, "multiagent": {}}, "timesteps_this_iter=0 timesteps_total=600k episode_reward_mean=3"),
    "1.13": (OLD, "counters/num_env_steps_sampled=600k timesteps_total=1200k sampler_results/episode_reward_mean=3"),
    "2.0": (V20, "num_env_steps_sampled=600k num_env_steps_sampled_this_iter=600 episode_reward_mean=3"),
    "2.9": (V29, "num_env_steps_sampled=600k sampler_results/episode_reward_mean=3"),
    "2.20 old stack": (V220, "num_env_steps_sampled=600k env_runners/episode_reward_mean=3"),
    "2.60 old stack, counting agent steps": (
        V220,
        "num_env_steps_sampled=600k num_env_steps_sampled_lifetime=1800k timesteps_this_iter=1800 episode_reward_mean=3",
    ),
    "2.60": (
        V260,
        "env_runners/num_env_steps_sampled=600 num_env_steps_sampled_lifetime=600k env_runners/episode_return_mean=3",
    ),
}


def results(generation="1.2", count=6, start=1.7e9, host="vm", **changes):
    """Results by `/`-joined keys, with their config."""
    config, logged = GENERATIONS[generation]
    pairs = [each.split("=") for each in logged.split()]
    return [
        {
            **{name: int(value.rstrip("k")) * (k if "k" in value else 1) for name, value in pairs},
            "training_iteration": k,
            "time_this_iter_s": 2.0,
            "time_total_s": 2.0 * k,
            "timestamp": int(start) + 2 * k,
            "hostname": host,
            "policy_reward_mean/x": 1.0,
            "config": {**config, **changes},
        }
        for k in range(1, count + 1)
    ]


def nested(line):
    result = {}
    for name, value in line.items():
        above, _, key = name.rpartition("/")
        (result.setdefault(above, {}) if above else result)[key] = value
    return result


def write(folder, lines, *, as_csv=False, params=None):
    folder.mkdir(parents=True)
    if params is not None:
        (folder / "params.json").write_text(json.dumps(params))
    if not as_csv:
        (folder / "result.json").write_text("".join(f"{json.dumps(nested(line))}\n" for line in lines))
        return folder
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in lines[0] if name != "config"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return folder


def only(place, **options):
    (study,) = read_experiment(place, **options).studies
    (run,) = study.runs
    return run


@pytest.mark.parametrize("as_csv", [False, True], ids=["result.json", "progress.csv"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation(tmp_path, generation, as_csv):
    trial = write(tmp_path / "deep" / "x", results(generation), as_csv=as_csv, params=GENERATIONS[generation][0])
    for place in (tmp_path, trial, trial / ("progress.csv" if as_csv else "result.json")):
        run = only(place)
        assert (run.scale, run.steady.sps, run.steady.iterations, run.notes) == (Scale(2, 3), 300.0, 4, ())
        assert {sample.episode_return for sample in run.samples} == {3.0}


def test_progress_csv_with_dicts_damage_and_a_second_header(tmp_path):
    trial = write(tmp_path / "x", results(count=8), as_csv=True)
    header, *rows = (trial / "progress.csv").read_text().splitlines()
    config = "\"{'env': 'Pong-v0', 'num_workers': 2, 'num_envs_per_worker': 3, 'lr': None}\""
    lines = [f"{header},odd,config", *(f"{row},{{[]: 1}},{config}" for row in rows)]
    lines[4:5] = [lines[0], "1,2", lines[4]]
    (trial / "progress.csv").write_text("\n".join(lines) + "\n1,2")  # the last row is being written
    (trial / "result.json").touch()
    run = only(tmp_path)
    assert (run.scale, run.steady.iterations, run.steady.sps) == (Scale(2, 3), 6, 300.0)
    assert run.notes == ("1 damaged line of its results left out",)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("loaded"),)


def test_pickles_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trial = write(tmp_path / "x" / "y", results())
    for name in ("params.pkl", "error.pkl", "result.json.pkl"):
        (trial / name).write_bytes(pickle.dumps(Trap()))
    (tmp_path / "x" / "tuner.pkl").write_bytes(pickle.dumps(Trap()))
    assert only(tmp_path / "x").scale == Scale(2, 3)
    assert not Path("loaded").exists()


@pytest.mark.parametrize(
    ("name", "config", "scale"),
    [
        ("PPO_Pong-v0_1a2b3_00000_0", {"lr": 1.0}, Scale(2, 1)),
        ("DQN_Pong-v0_1a2b3_00000_0", {"lr": 1.0}, Scale(0, 1)),
        ("mine", {"num_workers": 5}, Scale(5, 1)),
    ],
)
def test_missing_settings_are_rllibs_defaults_which_is_said(tmp_path, name, config, scale):
    lines = [{**line, "config": {"env": "Pong-v0", **config}} for line in results()]
    write(tmp_path / name, lines)
    run = only(tmp_path)
    assert run.scale == scale
    assert run.notes[-1] == "num_envs_per_env_runner is not in its config: RLlib's default at that time, 1, is assumed"
    assert len(run.notes) == 2 - ("num_workers" in config)
    healthy = write(tmp_path / "lost", [{**line, "num_healthy_workers": 8} for line in results()], as_csv=True)
    run = only(healthy / "progress.csv")
    assert run.scale == Scale(8, 1)
    assert run.notes[0] == "num_env_runners is not in its config: as many as were healthy, 8, are assumed"


def test_experiments_at_any_depth_each_trial_once(tmp_path):
    write(tmp_path / "a" / "monday" / "one", results(start=1e9))
    write(tmp_path / "b" / "one", results(num_workers=4, start=2e9))
    write(tmp_path / "b" / "one" / "checkpoint_1" / "inner", results(start=3e9))  # within a trial
    write(tmp_path / "copy" / "one", results(count=5, start=1e9))
    (tmp_path / "b" / "link").symlink_to(tmp_path)
    experiment = read_experiment(tmp_path)
    (study,) = experiment.studies
    assert [(run.name, run.scale) for run in study.runs] == [("a/monday/one", Scale(2, 3)), ("b/one", Scale(4, 3))]
    assert experiment.left_out == (("copy/one", "a copy of another trial here"),)


def test_what_is_not_rllibs_is_left_out_in_one_line(tmp_path):
    write(tmp_path / "x" / "good", results())
    for index in range(20):
        plain = [{"loss": 0.1, "training_iteration": k, "time_this_iter_s": 1.0, "config": {"lr": index}} for k in range(1, 9)]
        write(tmp_path / "y" / f"f_{index}", plain, as_csv=index % 2 == 1)
    (line,) = left_out(read_experiment(tmp_path).left_out)
    assert line == "y/f_0, y/f_1, y/f_10 and 17 more: not a trial of RLlib: its results and config have none of RLlib's names"


def test_rounded_batches_are_known_and_a_gap_in_a_lifetime_count_is_not_one_iteration(tmp_path):
    for batch, expected in ((500, 500.0), (100, math.nan)):
        lines = results(count=9, rollout_fragment_length=70, train_batch_size=batch)
        run = only(write(tmp_path / str(batch), lines[:5] + lines[6:]))
        assert (run.steady.sps, run.steady.iterations) == (300.0, 5)
        assert run.batch == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("trials", "found"),
    [
        ([("a", [(0, 10)]), ("a", [(5, 15)]), ("b", [(5, 15)]), ("", [(0, 99)])], {0, 1}),
        ([("a", [(0, 10)]), ("a", [(9.5, 20)])], set()),  # times are known to the second
        ([("a", [(0, 100)]), ("a", [(10, 20)]), ("a", [(30, 40)]), ("a", [(101, 110)])], {0, 1, 2}),
        ([("a", [(0, 10), (50, 60)]), ("a", [(20, 40)])], set()),  # interrupted meanwhile
    ],
)
def test_which_trials_overlap(trials, found):
    assert overlapping(trials) == found


def test_trials_that_overlapped_on_one_host_meet_no_goal(tmp_path):
    write(tmp_path / "PPO_1", results(start=1000, num_workers=1, num_envs_per_worker=1))
    write(tmp_path / "PPO_2", results(start=1004, num_workers=4))
    (made,) = make_report(read_experiment(tmp_path)).studies
    assert {each.verdict for each in made.recommendations.values()} <= {"undecided", "not met"}
    assert "max_concurrent_trials=1" in reason_text(made.recommendation)
    write(tmp_path / "PPO_3", results(start=1004, num_workers=5, host="elsewhere"))
    write(tmp_path / "PPO_4", results(start=1030, num_workers=6))
    write(tmp_path / "PPO_5", results(start=1031, count=2, num_workers=7))  # left out, but it was there
    (study,) = read_experiment(tmp_path).studies
    assert [run.exclusive for run in study.runs] == pytest.approx([0.0, 0.0, math.nan, 0.0], nan_ok=True)


# What tells workloads apart


def test_gpus_that_env_runners_share_do_not_separate_workloads(tmp_path):
    for workers, each in ((2, 0.4), (4, 0.2), (8, 0.1)):
        write(tmp_path / "total" / f"PPO_{workers}", results(num_workers=workers, num_gpus=0.2, num_gpus_per_worker=each))
        write(tmp_path / "each" / f"PPO_{workers}", results(num_workers=workers, num_gpus_per_worker=0.1))
    write(tmp_path / "total" / "PPO_9", results(start=1e9, num_workers=8, num_gpus=0.2, num_gpus_per_worker=0.225))
    total, each = (read_experiment(tmp_path / name).studies for name in ("total", "each"))
    assert [(study.title, len(study.runs)) for study in total] == [("Pong-v0 (GPUs: 1)", 3), ("Pong-v0 (GPUs: 2)", 1)]
    assert [len(study.runs) for study in each] == [3]


NAMES = ["ppo_gpu0_2_workers", "ppo_gpu1_2_workers", "ppo_gpu0_4_workers_run1", "ppo_gpu0_4_workers_run2"]


def test_names_that_people_gave_tell_trials_of_one_scale_apart(tmp_path):
    for name in NAMES:
        write(tmp_path / name, results(num_workers=int(name.split("_")[2]), start=len(name) + 1e3 * NAMES.index(name)))
    experiment = read_experiment(tmp_path)
    assert [(study.title, len(study.runs)) for study in experiment.studies] == [
        ("Pong-v0 (trial: ppo_gpu0_#_workers)", 3),
        ("Pong-v0 (trial: ppo_gpu1_#_workers)", 1),
    ]
    (note,) = experiment.notes
    assert note == "Trials that differ in trial (a folder's name) are separate studies; --pool NAME merges them on purpose."
    (study,) = read_experiment(tmp_path, pool=["trial"]).studies
    assert len(study.runs) == 4
    for index in range(2):  # names that Tune gave don't
        write(tmp_path / "x" / f"PPO_Pong-v0_1a2b3_0000{index}_{index}_lr=0.{index}", results(start=1e5 + 1e3 * index))
        write(tmp_path / "x" / f"PPO_Pong-v0_{index}_2018-11-10_00-17-2{index}0NYeDg", results(start=1e6 + 1e3 * index))
    assert [len(study.runs) for study in read_experiment(tmp_path / "x").studies] == [4]
