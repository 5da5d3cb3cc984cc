"""A persistent baseline: measured once by a 1r×1e run and used by all later runs of the same workload."""

from functools import partial

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback


def train(num_env_runners: int, num_envs: int) -> None:
    """Train 10 iterations and print the last one's figures."""
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=num_envs)
        .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=4)
        .callbacks(partial(ScalingCallback, baseline_dir="rl_baselines"))  # or a URI: "s3://bucket/rl_baselines"
    )
    algorithm = config.build_algo()
    for _ in range(10):
        scaling = algorithm.train()["scaling"]
    steady = scaling["steady"]
    print(f"{num_env_runners}r×{num_envs}e: {steady['sps']:,.0f} steps/s, {steady['speedup']:.2f}×, {steady['efficiency']:.0f} %")
    algorithm.stop()


train(1, 1)  # once
train(2, 4)  # any time later, in any program
