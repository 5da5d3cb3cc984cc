"""Tests with real Ray: one small local cluster a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # else as many processes start as there are num_cpus
# Ray's workers give way to everything else on the machine, which tests with known costs can't have.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="module")
def worker_path() -> Iterator[None]:
    """Has Ray's workers import the package that is tested here, and the test modules whose classes they get."""
    import rl_scaling_callback

    package = Path(rl_scaling_callback.__file__).parents[1]
    path = [str(package), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        yield


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, worker_path: None) -> Iterator[None]:
    """A local Ray cluster on which nothing waits for a CPU. A module's `CLUSTER_CPUS` changes how many Ray believes in.

    The fewer, the fewer idle processes Ray starts.
    """
    import ray

    cpus = getattr(request.module, "CLUSTER_CPUS", 16)
    ray.init(address="local", num_cpus=cpus, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def flat() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Flattens `result["scaling"]` as Tune and its loggers do: `scaling["steady"]["sps"]` becomes `["steady/sps"]`."""
    from ray.tune.utils import flatten_dict

    return lambda result: flatten_dict(result["scaling"], delimiter="/")
