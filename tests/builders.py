"""Builders shared by tests: the user's measurements, runs, reports, baselines and experiments."""

import csv
import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from rl_scaling_callback.analysis.choice import GOALS
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.runs import Experiment, Iteration, Run, Study
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY, Baseline, BaselineStore
from rl_scaling_callback.baseline.tracker import BaselineTracker
from rl_scaling_callback.core import formulas, schema
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.trial import Trial, Workload
from rl_scaling_callback.experiments import read_experiment
from rl_scaling_callback.experiments.studies import summarise
from rl_scaling_callback.report import make_report

# ---------------------------------------------------------------- the user's ten measurements

TABLE = Path(__file__).parents[1] / "examples" / "halfcheetah_ppo_i7_12700.csv"
ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))

# config: N, speedup and efficiency with three digits; those of 8r×1e follow from the rounded 2.89 s.
PRINTED = {
    "1r×1e": (1, "1.00", "100"),
    "2r×1e": (2, "1.64", "82.1"),
    "4r×1e": (4, "2.71", "67.7"),
    "8r×1e": (8, "4.11", "51.4"),
    "1r×2e": (2, "1.52", "76.0"),
    "2r×2e": (4, "2.41", "60.2"),
    "1r×4e": (4, "2.01", "50.1"),
    "1r×8e": (8, "2.58", "32.3"),
    "2r×4e": (8, "3.03", "37.9"),
    "8r×2e": (16, "5.40", "33.8"),
}


# ---------------------------------------------------------------- runs and reports

EVERYTHING = SteadyRule(warmup_iterations=0, min_iterations=2)
MADE = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def window(seconds, env_steps=1000, parts=None):
    measured = SteadyWindow(EVERYTHING)
    for each in seconds:
        measured.add(env_steps, each, parts)
    return measured.read()


def run(scale, seconds, env_steps=1000, parts=None, **facts):
    return Run(name=scale, scale=Scale.parse(scale), steady=window(seconds, env_steps, parts), **facts)


def users_ten():
    return tuple(
        run(
            f"{row['num_env_runners']}r{row['num_envs_per_env_runner']}e", [float(row["time_this_iter_s"])], float(row["env_steps"])
        )
        for row in ROWS
    )


def sampled(scale, seconds):
    samples = tuple(Iteration(i, 1000, s) for i, s in enumerate(seconds, 1))
    return replace(run(scale, seconds[2:]), samples=samples)


def curve(scale, returns, seconds=1.0, **changes):
    """A run with returns, of 1,000 env steps per iteration."""
    iterations = [
        Iteration(i, 1000.0, seconds, episode_return=each, lifetime_steps=1000.0 * i, elapsed=seconds * i)._replace(**changes)
        for i, each in enumerate(returns, 1)
    ]
    return summarise(iterations, SteadyRule(), name=scale, scale=Scale.parse(scale))


MONOTONE = [10.0 * iteration for iteration in range(1, 21)]
LATE = [NAN, *[2.0 * i for i in range(1, 61)], *[120.0] * 20]
"""Needs more env steps than `MONOTONE`."""


def nan_row():
    return replace(run("2r2e", [1.0]), steady=window([]))


def report_of(*runs, goal=GOALS["balanced"], left_out=(), **facts):
    studies = (Study("PPO on HalfCheetah-v5", runs, **facts),) if runs else ()
    return make_report(Experiment("results", studies, left_out), goal, made=MADE)


# ---------------------------------------------------------------- configurations

STEPS = 16384


def configuration(scale, sps, baseline_sps=NAN, error=NAN, cores=NAN):
    scale = scale if isinstance(scale, Scale) else Scale.parse(scale)
    return Configuration(
        scale=scale,
        steady=Steady(sps, iterations=1, env_steps=STEPS, seconds=formulas.ratio(STEPS, sps)),
        sps_error=error,
        speedup=formulas.speedup(sps, baseline_sps),
        speedup_error=error,
        cpus=1.0 + scale.num_env_runners,
        is_baseline=scale == Scale(1, 1) and sps == baseline_sps,
        runs=(Run(name="", scale=scale, steady=Steady(sps), cores=cores),),
    )


def of_the_user():
    times = {f"{row['num_env_runners']}r{row['num_envs_per_env_runner']}e": float(row["time_this_iter_s"]) for row in ROWS}
    return [configuration(scale, STEPS / seconds, STEPS / times["1r1e"]) for scale, seconds in times.items()]


def by_speedup(baseline_sps=1000.0, error=NAN, **speedups):
    return [configuration(scale, speedup * baseline_sps, baseline_sps, error) for scale, speedup in speedups.items()]


# ---------------------------------------------------------------- baselines

BASELINE = Baseline(
    Steady(sps=1378.0, error=1.5, iterations=8, env_steps=131072.0, seconds=95.12, converged=True, settled=True),
    scale=Scale(1, 1),
    workload=Workload({"env": "HalfCheetah-v5", "env_config": {"b": [1, 2], "a": None}}),
    owner="experiment/trial",
    provenance={"host": "workstation"},
)


def baseline(workload=BASELINE.workload, provenance=BASELINE.provenance, **window):
    """A baseline with other values of its window."""
    return replace(BASELINE, steady=replace(BASELINE.steady, **window), workload=workload, provenance=provenance)


WORKLOAD = Workload({"env": "HalfCheetah-v5", "epochs": 4})
SINGLE = Scale(1, 1)
UNSETTLED = Steady(sps=1000.0, error=9.0, iterations=3, env_steps=3000.0, seconds=3.0, converged=False, settled=False)
SETTLED = Steady(sps=1000.0, error=2.0, iterations=5, env_steps=5000.0, seconds=5.0, converged=True, settled=True)


class Warnings(dict):
    def __call__(self, topic, text):
        self.setdefault(topic, text)


def reference(store, scale=SINGLE, *, workload=WORKLOAD, owner="trial", warn=None, steps_vary=False, clock=None, reference=SINGLE):
    return BaselineTracker(
        store,
        Trial(owner, scale, workload, provenance={"trial": owner}, steps_vary=steps_vary),
        reference,
        warn=Warnings() if warn is None else warn,
        clock=clock or (lambda: 0.0),
    )


def compared(source):
    """Return the SPS to compare with, and whether the trial is comparable."""
    return source.reference_for(1000.0, TimeBreakdown.of_window({}))[:2]


# ---------------------------------------------------------------- results, and experiments on disk

HEADER = "num_env_runners,num_envs_per_env_runner,env_steps,time_this_iter_s"
CONFIG = {
    "env": "HalfCheetah-v5",
    "env_config": {},
    "num_env_runners": 1,
    "num_envs_per_env_runner": 1,
    "enable_env_runner_and_connector_v2": True,
    "enable_rl_module_and_learner": True,
    "_is_online": True,
    "_train_batch_size_per_learner": 2048,
    "train_batch_size": 4000,
    "num_learners": 0,
    "evaluation_interval": None,
    "min_time_s_per_iteration": None,
    "lr": 3e-4,
    "seed": None,
    "callbacks": "<class 'rl_scaling_callback.callback.ScalingCallback'>",
    "policy_mapping_fn": "<function AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN at 0x7fe1484a44a0>",
    "policies": {"default_policy": [None, None, None, None]},
    "framework": "torch",
    "input": "sampler",
}


def result(iteration, seconds=2.0, scaling=None, config=None, **more):
    """A result as Tune logs it on the new API stack; `scaling` is what the callback injected."""
    line = {
        "timers": {"training_iteration": 4.283101188000728},
        "env_runners": {"num_env_steps_sampled": 2048, "episode_return_mean": float(iteration)},
        "num_env_steps_sampled_lifetime": 2048.0 * iteration,
        "done": False,
        "training_iteration": iteration,
        "time_this_iter_s": seconds,
        "hostname": "vm",
        "config": {**CONFIG, **(config or {})},
        "iterations_since_restore": iteration,
        "perf": {"cpu_util_percent": 80.0, "ram_util_percent": float(iteration)},
    }
    if scaling is not None:
        line[schema.ROOT] = root = schema.unknown()
        for name, value in scaling.items():
            level, _, leaf = name.rpartition("/")
            (root[level] if level else root)[leaf] = value
    return {**line, **more}


def results(count, *given, **more):
    return [result(iteration, *given, **more) for iteration in range(1, count + 1)]


class Folder:
    """An experiment's folder in the making."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def trial(self, results, name=None, tail=""):
        number = sum(path.name.startswith("PPO") for path in self.path.iterdir())
        trial = self.path / (name or f"PPO_HalfCheetah-v5_4bb93_{number:05}_{number}")
        trial.mkdir()
        (trial / "params.json").write_text(json.dumps(CONFIG, indent=2))
        (trial / "result.json").write_text("".join(f"{json.dumps(line)}\n" for line in results) + tail)
        return trial

    def publish(self, baseline):
        BaselineStore.at(self.path / EXPERIMENT_SUBDIRECTORY).publish(baseline)

    def read(self, **options):
        return read_experiment(self.path, **options)

    def run(self, **options):
        """The only run."""
        experiment = self.read(**options)
        assert experiment.left_out == ()
        ((run,),) = (study.runs for study in experiment.studies)
        return run

    def reason(self):
        """Return why the only trial is left out."""
        experiment = self.read()
        assert experiment.studies == ()
        (left_out,) = experiment.left_out
        return left_out.reason


def leaves(node, path=()):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield "/".join((*path, name)), value
