"""Ground truth where sampling and learning overlap: a cost that is known in seconds lands under its own cause."""

import time
from functools import partial
from statistics import mean

import pytest

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import CAUSES

pytest.importorskip("ray")

from envs import CostlyEnv
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner

CLUSTER_CPUS = 4
FRAGMENT = 20

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


class Slow:
    """Sleeps for `learner_config_dict["update_s"]` in each update of the module."""

    def compute_losses(self, **kwargs):
        time.sleep(self.config.learner_config_dict["update_s"])
        return super().compute_losses(**kwargs)


class SlowIMPALA(Slow, IMPALATorchLearner):
    pass


class SlowAPPO(Slow, APPOTorchLearner):
    pass


LEARNERS = {IMPALAConfig: SlowIMPALA, APPOConfig: SlowAPPO}


def train(place, *, kind=IMPALAConfig, runners=1, envs=1, update_s=0.0, step_s=0.01, iterations=5, **costs):
    config = (
        kind()
        .environment(CostlyEnv, env_config={"step_s": step_s, **costs})
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5, rollout_fragment_length=FRAGMENT)
        .training(train_batch_size_per_learner=FRAGMENT, learner_class=LEARNERS[kind], learner_config_dict={"update_s": update_s})
        .learners(num_learners=0)
        .reporting(min_time_s_per_iteration=2)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .callbacks(partial(ScalingCallback, baseline_dir=str(place), warmup_iterations=1, min_iterations=2, max_iterations=2))
    )
    config.num_envs_per_env_runner = envs
    if hasattr(config, "use_env_runner_state_server"):
        config.use_env_runner_state_server = False
    algorithm = config.build_algo()
    try:
        return [algorithm.train() for _ in range(iterations)]
    finally:
        algorithm.stop()


def shares(results):
    """The causes in percent points, mean over the warm iterations, after checking that they are whole."""
    warm = results[1:]
    for result in warm:
        scaling = result["scaling"]
        assert scaling["account"]["exclusive"] == 1
        assert sum(scaling["time"].values()) == pytest.approx(result["time_this_iter_s"], rel=1e-9)
        assert sum(scaling["loss"][cause] for cause in CAUSES) == pytest.approx(scaling["loss"]["total"], abs=1e-9)
    return {cause: mean(result["scaling"]["loss"][cause] for result in warm) for cause in ("total", *CAUSES)}


if __name__ == "__main__":
    import sys
    import tempfile

    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    cases = {
        "plain": ({}, {"runners": 2}),
        "slow learner": ({"update_s": 0.3}, {"runners": 3, "update_s": 0.3}),
        "slow learner appo": ({"update_s": 0.3, "kind": APPOConfig}, {"runners": 3, "update_s": 0.3, "kind": APPOConfig}),
        "straggler": ({"slow_worker": 2, "slow_step_s": 0.02}, {"runners": 3, "slow_worker": 2, "slow_step_s": 0.02}),
        "pickle": ({"pickle_s": 0.4}, {"runners": 2, "pickle_s": 0.4}),
        "stepping": ({}, {"envs": 4}),
    }
    for name, (first, second) in cases.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as place:
            for number, options in enumerate((first, second)):
                results = train(place, **options)
                scaling = results[-1]["scaling"]
                print(name, options, f"sps {scaling['steady']['sps']:.1f} efficiency {scaling['efficiency']:.1f}")
                print(
                    "   ",
                    {k: round(v, 3) for k, v in scaling["time"].items()},
                    {k: round(v, 3) for k, v in scaling["runners"].items()},
                )
                print("   ", {k: round(v, 2) for k, v in scaling["learner"].items()}, scaling["diagnosis"])
                if number:
                    print("   ", {k: round(v, 1) for k, v in shares(results).items()}, flush=True)
