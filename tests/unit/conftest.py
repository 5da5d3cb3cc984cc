import pytest

from rl_scaling_callback.baseline.store import BaselineStore
from tests.builders import Folder, Warnings


@pytest.fixture
def store(tmp_path):
    """An empty store of baselines."""
    return BaselineStore.at(tmp_path / "baselines")


@pytest.fixture
def folder(tmp_path):
    """The folder of an experiment without trials."""
    return Folder(tmp_path / "experiment")


@pytest.fixture
def warn():
    """Keeps the first warning of each topic."""
    return Warnings()
