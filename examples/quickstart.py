"""A training run that makes itself faster, with its speedup and efficiency from the first iteration on."""

import functools

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback

config = (
    PPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=2)
    .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=4)
    .callbacks(functools.partial(ScalingCallback, autotune=True))
)
algorithm = config.build_algo()
for iteration in range(1, 41):
    scaling = algorithm.train()["scaling"]
    print(f"{iteration}: {scaling['sps']:,.0f} steps/s, {scaling['speedup']:.2f}×, efficiency {scaling['efficiency']:.0f} %")
print(scaling["diagnosis"])
algorithm.stop()
