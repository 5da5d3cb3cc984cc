"""The numbers in MLflow, Weights & Biases and Ray's metrics, read back with their own clients.

TensorBoard and CSV are in `test_tune`.
"""

import json
import math
import time
import urllib.request
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from rl_scaling_callback import ScalingCallback, SteadyRule
from rl_scaling_callback.core.schema import KEYS
from rl_scaling_callback.live.gauges import SHOWN

pytest.importorskip("ray")

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.utils import flatten_dict
from tuning import costly, lines, run

ITERATIONS = 3
NUMBERS = {f"scaling/{key.name}" for key in KEYS if key.unit != "text"}
TEXTS = {f"scaling/{key.name}" for key in KEYS if key.unit == "text"}
GAUGES = {f"ray_scaling_{name.replace('/', '_')}": f"scaling/{name}" for name in SHOWN}

exports_metrics = all(map(find_spec, ("aiohttp", "opencensus", "prometheus_client")))
pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def cluster(no_cluster):
    """A local Ray cluster whose processes report their metrics every second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        ray.init(
            num_cpus=3,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _system_config={"metrics_report_interval_ms": 1000},
        )
        yield
        ray.shutdown()


def wait_for_gauges(trial, sps, seconds=60):
    """Read the endpoint until it has the SPS of a trial; return the samples of its gauges by name."""
    from prometheus_client.parser import text_string_to_metric_families

    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(url, timeout=seconds) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        found = {sample.name: sample for sample in samples if sample.name in GAUGES and sample.labels["trial"] == trial}
        if "ray_scaling_sps" in found and found["ray_scaling_sps"].value == sps:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


class Scrape(Callback):
    """Reads a trial's gauges after its first and its last result; trials wait meanwhile."""

    def __init__(self):
        self.seen = []

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if result["training_iteration"] in (1, ITERATIONS):
            found = wait_for_gauges(Path(trial.local_path).name, result["scaling"]["sps"])
            self.seen.append((flatten_dict(result, delimiter="/"), found))


@pytest.fixture(scope="module")
def scrape():
    return Scrape()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sinks")


@pytest.fixture(scope="module")
def trials(cluster, scrape, folder):
    """The flattened results of two trials with all installed sinks, by trial id."""
    sinks = [scrape] if exports_metrics else []
    if find_spec("mlflow"):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        sinks.append(MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="scaling"))
    if find_spec("wandb"):
        from ray.air.integrations.wandb import WandbLoggerCallback

        sinks.append(WandbLoggerCallback(project="scaling", dir=str(folder)))
    at_once = partial(ScalingCallback, steady=SteadyRule(warmup_iterations=0, min_iterations=2, max_iterations=2))
    config = costly(step_s=0.002).env_runners(num_env_runners=tune.grid_search([1, 2]))
    results = run(folder / "tune", config, stop=ITERATIONS, callbacks=at_once, reporters=sinks)
    assert not results.errors
    trials = {}
    for trial in results:
        trials[trial.metrics["trial_id"]] = [flatten_dict(line, delimiter="/") for line in lines(trial)]
        assert len(lines(trial)) == ITERATIONS
    return trials


def numbers(result):
    return pytest.approx({name: result[name] for name in NUMBERS}, rel=1e-12, nan_ok=True)


def test_results_contain_unknown_values_and_texts(trials):
    reference, _ = trials.values()
    assert math.isnan(reference[0]["scaling/speedup"])
    assert not math.isnan(reference[-1]["scaling/speedup"])
    assert {results[-1]["scaling/band"] for results in trials.values()} <= {
        "perfect", "excellent", "good", "fair", "inefficient",
    }  # fmt: skip


def test_mlflow_has_all_numbers_of_all_iterations(trials, folder):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny sqlalchemy alembic")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("scaling").experiment_id])
    assert [each.info.status for each in runs] == ["FINISHED", "FINISHED"]
    for each in runs:
        (results,) = [results for trial_id, results in trials.items() if trial_id in each.info.run_name]
        histories = {name: client.get_metric_history(each.info.run_id, name) for name in NUMBERS}
        for position, result in enumerate(results):
            assert {name: history[position].value for name, history in histories.items()} == numbers(result)
        assert not TEXTS & each.data.metrics.keys()


def test_wandb_has_all_numbers_of_all_iterations(trials, folder):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

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
        assert len(history) == ITERATIONS
        for logged, result in zip(history, results, strict=True):
            assert {name: float(value) for name, value in logged.items()} == numbers(result)


@pytest.mark.skipif(not exports_metrics, reason='Ray exports no metrics without its agent: pip install "ray[default]"')
def test_ray_exports_the_known_values_of_each_trial(trials, scrape):
    assert len(scrape.seen) == 2 * len(trials)
    for result, gauges in scrape.seen:
        expected = {name: result[key] for name, key in GAUGES.items() if not math.isnan(result[key])}
        assert {name: sample.value for name, sample in gauges.items()} == expected
        for sample in gauges.values():
            assert sample.labels["trial"].startswith(f"PPO_CostlyEnv_{result['trial_id']}")
            assert sample.labels["num_env_runners"] == str(result["config/num_env_runners"])
            assert sample.labels["num_envs_per_env_runner"] == "1"
    assert [len(gauges) for _, gauges in scrape.seen] == [1, 4, 4, 4], "a reference knows only its SPS at first"
