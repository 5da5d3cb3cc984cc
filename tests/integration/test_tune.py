"""A Tune experiment with real HalfCheetah training: all of Tune's outputs, and other loggers, have what the callback injects."""

import csv
import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.schedulers import ASHAScheduler
from ray.tune.utils import flatten_dict
from tuning import cartpole, lines, quick, run, scale

from rl_scaling_callback import ScalingReporter
from rl_scaling_callback.cli import main
from rl_scaling_callback.core.schema import KEYS

ITERATIONS = 8
TRIALS = 2
NUMBERS = {f"scaling/{key.name}" for key in KEYS if key.unit != "text"}
TEXTS = {f"scaling/{key.name}" for key in KEYS if key.unit == "text"}


@pytest.fixture(scope="module")
def shown():
    """The reports that the reporter has shown."""
    return []


@pytest.fixture(scope="module")
def halfcheetah(cluster, shown, tmp_path_factory):
    pytest.importorskip("mujoco")
    idle = cartpole(0).callbacks(quick).build_algo()  # a trial that doesn't train must not count as one that does
    idle.train()
    config = (
        PPOConfig()
        .environment("HalfCheetah-v5")
        .env_runners(num_env_runners=tune.grid_search([1, 2]))
        .training(train_batch_size_per_learner=256, minibatch_size=128, num_epochs=2)
        .debugging(log_level="ERROR", log_sys_usage=False)  # or else tests beside this one would count as disturbance
    )
    folder = tmp_path_factory.mktemp("storage")
    sinks = [ScalingReporter("fastest", show=shown.append)]
    if find_spec("mlflow"):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        sinks.append(MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="scaling"))
    if find_spec("wandb"):
        from ray.air.integrations.wandb import WandbLoggerCallback

        sinks.append(WandbLoggerCallback(project="scaling", dir=str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        results = run(folder, config, stop=ITERATIONS, reporters=sinks)
    idle.stop()
    assert not results.errors
    return results


def test_values_can_be_recomputed_from_result_json(halfcheetah):
    known = 0
    for trial in halfcheetah:
        results = lines(trial)
        assert len(results) == ITERATIONS
        for result in results:
            scaling = result["scaling"]
            runners, envs = scale(result)
            n = max(1, runners) * envs
            sps = result["env_runners"]["num_env_steps_sampled"] / result["time_this_iter_s"]
            speedup = sps / scaling["baseline_sps"]
            found = [scaling[name] for name in ("sps", "parallelism", "speedup", "efficiency", "gap")]
            expected = [sps, n, speedup, speedup / n * 100, n - speedup]
            assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
            assert scaling["loss"]["total"] == pytest.approx(100 - speedup / n * 100, rel=1e-9, nan_ok=True)
            known += not math.isnan(speedup)
        assert (scaling["exclusive"], scaling["comparable"], scaling["steady"]["iterations"]) == (1, 1, ITERATIONS - 1)
    # The reference has its baseline after 1 + 3 iterations, the next trial from the start.
    assert known == TRIALS * ITERATIONS - 3


def test_baseline_is_the_measurement_of_the_reference(halfcheetah):
    (reference,) = [trial for trial in halfcheetah if scale(trial.metrics) == (1, 1)]
    (file,) = (Path(halfcheetah.experiment_path) / "scaling_baselines").iterdir()
    final = json.loads(file.read_text())
    assert final["steady"]["iterations"] == 3
    window = lines(reference)[1:4]
    sps = sum(result["env_runners"]["num_env_steps_sampled"] for result in window) / sum(r["time_this_iter_s"] for r in window)
    assert final["steady"]["sps"] == pytest.approx(sps, rel=1e-9)
    assert {result["scaling"]["baseline_sps"] for result in lines(reference)[3:]} == {final["steady"]["sps"]}
    assert final["owner"].endswith(Path(reference.path).name)
    for trial in halfcheetah:
        scaling = trial.metrics["scaling"]
        assert (scaling["baseline_sps"], scaling["is_baseline"]) == (final["steady"]["sps"], trial is reference)


def test_tensorboard_has_the_same_values(halfcheetah):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for trial in halfcheetah:
        events = accumulators.EventAccumulator(trial.path)
        events.Reload()
        for name in ("sps", "speedup", "efficiency", "gap", "sps_per_cpu"):
            written = {event.step: event.value for event in events.Scalars(f"ray/tune/scaling/{name}")}
            # TBX leaves NaN out, and stores 32-bit floats.
            expected = {r.get("timesteps_total") or r["training_iteration"]: r["scaling"][name] for r in lines(trial)}
            assert written == {step: pytest.approx(each, rel=1e-6) for step, each in expected.items() if not math.isnan(each)}


def test_csv_and_dataframe_have_every_column(halfcheetah):
    for trial in halfcheetah:
        rows = list(csv.DictReader((Path(trial.path) / "progress.csv").read_text().splitlines()))
        for row, result in zip(rows, lines(trial), strict=True):
            assert {f"scaling/{key.name}" for key in KEYS} <= row.keys()
            assert float(row["scaling/sps"]) == pytest.approx(result["scaling"]["sps"], rel=1e-9)
    trials = halfcheetah.get_dataframe()
    kept = trials[trials["scaling/efficiency"] >= trials["scaling/efficiency"].max()]
    assert 0 < len(kept) < TRIALS == len(trials)


def folder_and_results(experiment):
    """Return where MLflow and Weights & Biases wrote, and the flattened results by trial id."""
    results = {each.metrics["trial_id"]: [flatten_dict(line, delimiter="/") for line in lines(each)] for each in experiment}
    return Path(experiment.experiment_path).parent, results


def numbers(result):
    return pytest.approx({name: result[name] for name in NUMBERS}, rel=1e-12, nan_ok=True)


@pytest.mark.release
def test_mlflow_has_all_numbers_of_all_iterations(halfcheetah):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny sqlalchemy alembic")
    from mlflow.tracking import MlflowClient

    folder, trials = folder_and_results(halfcheetah)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("scaling").experiment_id])
    assert [each.info.status for each in runs] == ["FINISHED", "FINISHED"]
    for each in runs:
        (results,) = [results for trial_id, results in trials.items() if trial_id in each.info.run_name]
        histories = {name: client.get_metric_history(each.info.run_id, name) for name in NUMBERS}
        for position, result in enumerate(results):
            assert {name: history[position].value for name, history in histories.items()} == numbers(result)
        assert not TEXTS & each.data.metrics.keys()


@pytest.mark.release
def test_wandb_has_all_numbers_of_all_iterations(halfcheetah):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    folder, trials = folder_and_results(halfcheetah)
    for trial_id, results in trials.items():
        (file,) = folder.glob(f"wandb/offline-run-*-{trial_id}/run-{trial_id}.wandb")
        store = DataStore()
        store.open_for_scan(str(file))
        history = []
        while (data := store.scan_data()) is not None:
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                history.append({name: value for name, value in items.items() if name.startswith("scaling/")})
        store.close()
        for logged, result in zip(history, results, strict=True):
            assert {name: float(value) for name, value in logged.items()} == numbers(result)


def test_reports_page_and_command_line_agree_with_the_results(halfcheetah, shown):
    scales = [[str(each.scale) for each in report.studies[0].configurations] for report in shown]
    assert (scales[0], scales[-1]) == (["1r×1e"], ["1r×1e", "2r×1e"])
    one, two = shown[-1].studies[0].configurations
    steady = {scale(trial.metrics): trial.metrics["scaling"]["steady"] for trial in halfcheetah}
    # The reporter's rule has one more warm-up iteration.
    assert one.sps == pytest.approx(steady[1, 1]["sps"], rel=0.2)
    assert two.sps == pytest.approx(steady[2, 1]["sps"], rel=0.2)
    assert two.speedup == pytest.approx(two.sps / one.sps)
    assert sum(two.losses.values()) == pytest.approx(two.loss, abs=1e-9)
    folder = Path(halfcheetah.experiment_path)
    assert "2r×1e" in (folder / "scaling_report.html").read_text(encoding="utf-8")
    command_line = CliRunner().invoke(main, ["report", str(folder)]).stdout
    assert re.search(rf"2r×1e .* {two.speedup:.2f}", command_line)


def test_scheduler_and_stop_condition_on_injected_keys(cluster, tmp_path):
    config = cartpole(runners=0)
    config.num_envs_per_env_runner = tune.grid_search([1, 4])
    asha = ASHAScheduler(metric="scaling/sps", mode="max", grace_period=1, max_t=100, reduction_factor=2)
    stop = {"scaling/steady/iterations": 4, "training_iteration": 20}
    results = run(tmp_path, config, stop=stop, scheduler=asha, max_concurrent_trials=2)
    assert not results.errors
    assert max(trial.metrics["training_iteration"] for trial in results) == 1 + 4  # one is warm-up


# ---------------------------------------------------------------- the reporter if something is missing or fails


def test_report_without_the_callback_beside_one_that_fails(cluster, tmp_path, caplog):
    reports = []

    def fail(report):
        reports.append(report)
        raise RuntimeError("no terminal")

    results = run(tmp_path, cartpole(runners=0), stop=6, callbacks=None, reporters=[ScalingReporter(show=fail)])
    assert not results.errors
    assert "no terminal" in caplog.text
    assert (Path(results.experiment_path) / "scaling_report.html").exists()
    (only,) = reports[-1].studies[0].configurations
    assert only.speedup == 1
    assert not only.losses


def test_missing_packages_are_reported_before_the_experiment(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(ImportError, match=r"needs jinja2: pip install \"rl-scaling-callback\[report\]\""):
        ScalingReporter()
