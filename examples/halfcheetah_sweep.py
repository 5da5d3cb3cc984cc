"""Find the numbers of env runners and envs that train PPO on HalfCheetah-v5 fastest on this machine, then train with them."""

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import sweep

config = PPOConfig().environment("HalfCheetah-v5").training(train_batch_size_per_learner=2048, minibatch_size=512, num_epochs=4)
report = sweep(config, "fastest")

algorithm = report.config.build_algo()
for iteration in range(1, 4):
    result = algorithm.train()
    sps = result["env_runners"]["num_env_steps_sampled"] / result["time_this_iter_s"]
    print(f"training, iteration {iteration}: {sps:,.0f} steps/s")
algorithm.stop()
