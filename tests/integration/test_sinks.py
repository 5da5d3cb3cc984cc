"""The numbers in MLflow and Weights & Biases, read back with their own clients. TensorBoard and CSV are in `test_tune`."""

import json
import math
from functools import partial
from importlib.util import find_spec

import pytest

from rl_scaling_callback import ScalingCallback, SteadyRule
from rl_scaling_callback.core.schema import KEYS

pytest.importorskip("ray")

from ray import tune
from ray.tune.utils import flatten_dict
from tuning import costly, lines, run

ITERATIONS = 3
NUMBERS = {f"scaling/{key.name}" for key in KEYS if key.unit != "text"}
TEXTS = {f"scaling/{key.name}" for key in KEYS if key.unit == "text"}

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sinks")


@pytest.fixture(scope="module")
def trials(cluster, folder):
    """The flattened results of two trials with all installed sinks, by trial id."""
    sinks = []
    if find_spec("mlflow"):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        sinks.append(MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="scaling"))
    if find_spec("wandb"):
        from ray.air.integrations.wandb import WandbLoggerCallback

        sinks.append(WandbLoggerCallback(project="scaling", dir=str(folder)))
    at_once = partial(ScalingCallback, steady=SteadyRule(warmup_iterations=0, min_iterations=2, max_iterations=2))
    config = costly(step_s=0.002).env_runners(num_env_runners=tune.grid_search([1, 2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        results = run(folder / "tune", config, stop=ITERATIONS, callbacks=at_once, reporters=sinks)
    assert not results.errors
    trials = {each.metrics["trial_id"]: [flatten_dict(line, delimiter="/") for line in lines(each)] for each in results}
    reference, _ = trials.values()
    assert [math.isnan(result["scaling/speedup"]) for result in reference] == [True, False, False]
    return trials


def numbers(result):
    return pytest.approx({name: result[name] for name in NUMBERS}, rel=1e-12, nan_ok=True)


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
