"""An env whose step only sleeps scales in a known way, whatever the machine."""

from statistics import median

import pytest

pytest.importorskip("ray")

from envs import SleepingLearner
from ray import tune
from tuning import costly, run, scale

STEPS, STEP_S, UPDATE_S = 24, 0.15, 0.75


def predicted(runners):
    """Return Amdahl's speedup: the env steps' sleeps are the parallel part, the learner's sleep is the serial part."""
    return (STEPS * STEP_S + UPDATE_S) / (STEPS * STEP_S / runners + UPDATE_S)


def test_sleeping_env(cluster, tmp_path):
    config = costly(batch=STEPS, step_s=STEP_S).env_runners(num_env_runners=tune.grid_search([1, 4]))
    config.training(learner_class=SleepingLearner, learner_config_dict={"update_s": UPDATE_S})
    results = run(tmp_path, config, stop={"training_iteration": 4})
    assert not results.errors
    scaling = {scale(trial.metrics)[0]: trial.metrics["scaling"] for trial in results}
    for runners in (1, 4):
        assert scaling[runners]["steady"]["speedup"] == pytest.approx(predicted(runners), rel=0.15)
        assert scaling[runners]["steady"]["efficiency"] == pytest.approx(100 * predicted(runners) / runners, rel=0.15)
    # Only the learner's update is serial: Karp and Flatt's fraction finds its share of the baseline's time. Each iteration has its
    # own fraction; one that is a tenth slower raises it by a third.
    (four,) = (trial.metrics_dataframe for trial in results if scale(trial.metrics)[0] == 4)
    serial = median(four["scaling/serial_fraction"][1:])
    assert serial == pytest.approx(UPDATE_S / (STEPS * STEP_S + UPDATE_S), rel=0.25)
