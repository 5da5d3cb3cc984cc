"""Tests with real Ray: one small local cluster for each process that runs tests, started by the first that needs it."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if not (find_spec("ray") and find_spec("torch")):
    collect_ignore_glob = ["test_*.py"]  # they need both
pytest.register_assert_rewrite("tuning")

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # otherwise Ray starts num_cpus processes in advance
# By default Ray's workers yield to every other process on the machine; tests with known costs need them on time.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def worker_path(tmp_path_factory):
    """Lets Ray's workers import the package under test and the test modules.

    Trials of tests that run side by side don't see each other: their lock files are in different folders.
    """
    import ray

    import rl_scaling_callback

    package = Path(rl_scaling_callback.__file__).parents[1]
    path = [str(package), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # the paths of Ray's sockets must be short
        folder = str(tmp_path_factory.mktemp("locks"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster(worker_path):
    """A local Ray cluster with 5 CPUs on any machine. It keeps running for later modules."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=5, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


@pytest.fixture(scope="module")
def no_cluster(worker_path):
    """Shuts down this process's cluster, for tests that start their own; the next module that needs one starts it again."""
    import ray

    ray.shutdown()


@pytest.fixture
def built():
    """Builds Algorithms, and stops them at the end of the test."""
    algorithms = []

    def build(config):
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()
