"""A trial tunes itself: it finds what is faster, proves it, goes back otherwise, and leaves the batch as it is."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.analysis.race import Grid
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.live.tuner import Threads, Tuner
from rl_scaling_callback.rllib.configs import keeps_batch

STEPS = 4096
NO_THREADS = Threads()


class World:
    """A machine with two cores on which an env step, a vector step and an update take known times, with some noise."""

    def __init__(self, own, step_ms=0.2, vector_ms=1.0, learn_s=0.1, threads=NO_THREADS, fails=(), noise=0.02, goal="fastest"):
        self.step_ms, self.vector_ms, self.learn_s, self.fails, self.noise = step_ms, vector_ms, learn_s, fails, noise
        self.random = random.Random(1)
        self.scale, self.count, self.warned, self.clock_s, self.settled = own, 1, [], 0.0, False
        runners = tuple(r for r in (1, 2, 4) if r <= max(1, own.num_env_runners))
        grid = Grid(runners, tuple(sorted({1, 2, 4, 8, 16, 32, own.num_envs_per_env_runner})))
        self.trained_s, self.threads_help, self.steps_at = self.sampling_s, lambda scale: True, lambda scale: float(STEPS)
        self.tuner = Tuner(
            own,
            grid,
            goal=Goal.of(goal),
            prober=self,
            rescaler=self,
            threads=replace(threads, apply=self.use),
            warn=lambda *text: self.warned.append(text),
            clock=lambda: self.clock_s,
        )

    def sampling_s(self, scale):
        """Seconds per env step: two env runners per core pair, each with a fixed time per vector step."""
        vector_s = (self.vector_ms + self.step_ms * scale.num_envs_per_env_runner) / 1000
        return vector_s / scale.parallelism * max(1.0, scale.num_env_runners / 2)

    def noisy(self, seconds):
        return seconds * self.random.lognormvariate(0, self.noise)

    # The prober
    def measure(self, scales):
        [scale] = scales
        if scale in self.fails:
            raise ProbeError("no licence")
        self.clock_s += 0.2
        seconds = self.noisy(self.sampling_s(scale)) * 512
        return [{scale: Probe(scale, 512, seconds, (seconds,) * max(1, scale.num_env_runners))}]

    def close(self):
        pass

    # The rescaler
    def apply(self, scale):
        self.scale = scale

    def settle(self):
        self.settled = True

    # The learner's threads
    def use(self, count):
        self.count = count

    def train(self, env_steps=None):
        env_steps = self.steps_at(self.scale) if env_steps is None else env_steps
        sample = self.noisy(self.trained_s(self.scale)) * STEPS
        learn = self.noisy(self.learn_s / (min(self.count, 2) if self.threads_help(self.scale) else 1))
        self.clock_s += sample + learn
        times = {"sample": sample, "learn": learn, "sync": 0.001, "other": 0.001}
        known = {"env_steps": env_steps, "parallelism": self.scale.parallelism, "runners": {"reset": NAN, "reported": 0.0}}
        self.tuner.observe({**known, "time": times})

    def tune(self):
        for _ in range(80):
            self.train()
        assert (self.tuner.is_over, self.settled) == (True, True)
        return self.tuner


def test_a_bad_scale_becomes_as_fast_as_the_best(caplog):
    world = World(Scale(2, 1))
    tuner = world.tune()
    sps = {scale: 1 / (world.sampling_s(scale) + world.learn_s / STEPS) for scale in (Scale(2, e) for e in (1, 2, 4, 8, 16, 32))}
    assert tuner.scale == world.scale
    assert sps[tuner.scale] > 0.95 * max(sps.values())
    assert abs(tuner.gain / (sps[tuner.scale] / sps[Scale(2, 1)]) - 1) < tuner.gain_error / 100 + 0.02
    [line] = caplog.messages
    assert f"{tuner.scale} instead of 2r×1e" in line
    assert f"num_envs_per_env_runner={tuner.scale.num_envs_per_env_runner}" in line


@pytest.mark.parametrize("learn_s", [1.0, 6.0])
def test_fastest_takes_the_fewest_envs_within_the_indifference_and_all_env_runners_beside_a_long_update(learn_s):
    # With more noise, it takes twice as many in one of fifteen trials.
    scale = World(Scale(2, 1), vector_ms=0.2, step_ms=1.0, learn_s=learn_s, noise=0.005).tune().scale
    assert scale.num_env_runners == 2
    assert scale.num_envs_per_env_runner <= 8


@pytest.mark.parametrize("own", [Scale(2, 32), Scale(1, 16)])
def test_the_best_stays(own, caplog):
    world = World(own, vector_ms=0.05)
    tuner = world.tune()
    assert (tuner.scale, tuner.gain) == (own, 1.0)
    assert "stays" in caplog.text


@pytest.mark.parametrize(("slower", "runners"), [(1.12, 2), (0.88, 4)])
def test_iterations_decide_between_numbers_of_env_runners_that_probes_find_equal(slower, runners):
    world = World(Scale(4, 1), noise=0.0)  # else they are told apart in one of twenty trials
    world.trained_s = lambda scale: world.sampling_s(scale) * (slower if scale.num_env_runners == 4 else 1.0)
    assert world.tune().scale.num_env_runners == runners


def test_it_goes_back_where_iterations_dont_prove_the_gain(caplog):
    world = World(Scale(2, 1))
    world.trained_s = lambda scale: world.sampling_s(Scale(2, 1)) * (1.0 if scale == Scale(2, 1) else 1.05)
    tuner = world.tune()
    assert (tuner.scale, world.scale, tuner.gain) == (Scale(2, 1), Scale(2, 1), 1.0)
    assert "brought 0.9" in caplog.text


def test_it_goes_back_without_a_proven_gain_where_no_scale_meets_the_goal():
    world = World(Scale(2, 1), goal=Goal("much", min_speedup=50))
    world.trained_s = lambda scale: world.sampling_s(Scale(2, 1))
    assert world.tune().scale == Scale(2, 1)


def test_it_goes_back_from_a_scale_that_changes_the_batch():
    world = World(Scale(2, 1))
    world.steps_at = lambda scale: float(STEPS) * scale.num_envs_per_env_runner
    assert (world.tune().scale, world.scale) == (Scale(2, 1), Scale(2, 1))
    assert "env steps instead of 4,096" in world.warned[0][1]


def test_threads_are_chosen_by_the_learners_own_time(caplog):
    # With more noise, four threads seem faster than two by over 2 % in one of thirty trials.
    world = World(Scale(2, 32), vector_ms=0.05, learn_s=2.0, threads=Threads(1.0, 4), noise=0.005)
    tuner = world.tune()
    assert (tuner.scale, tuner.threads, world.count) == (Scale(2, 32), 2.0, 2)
    assert 1.3 < tuner.gain < 2
    assert "learner_threads=2" in caplog.text


def test_threads_stay_where_only_updates_are_faster(caplog):
    world = World(Scale(2, 32), vector_ms=0.05, learn_s=0.02, threads=Threads(1.0, 2))
    world.trained_s = lambda scale: world.sampling_s(scale) * (1.1 if world.count == 2 else 1.0)
    tuner = world.tune()
    assert (tuner.scale, tuner.threads, world.count, tuner.gain) == (Scale(2, 32), 1.0, 1, 1.0)
    assert "2 learner threads make iterations no faster beyond noise" in caplog.text


def test_threads_are_compared_again_at_another_scale():
    world = World(Scale(2, 1), learn_s=0.5, threads=Threads(1.0, 2))
    world.threads_help = lambda scale: scale != Scale(2, 1)
    tuner = world.tune()
    assert tuner.scale != Scale(2, 1)
    assert tuner.threads == world.count == 2


def test_threads_are_tuned_where_envs_cant_be_and_scales_that_cant_be_probed_are_left_out():
    world = World(Scale(2, 1), learn_s=2.0, threads=Threads(1.0, 2), fails=[Scale(1, 1)])
    tuner = world.tune()
    assert (tuner.scale, tuner.threads) == (Scale(2, 1), 2.0)
    assert "no licence" in world.warned[0][1]
    assert World(Scale(2, 1), fails=[Scale(2, 8), Scale(1, 8)]).tune().scale == Scale(2, 4)


@pytest.mark.parametrize("way_back", [True, False])
def test_an_error_while_rescaling_goes_back_and_it_says_so_where_that_fails_too(way_back):
    world = World(Scale(2, 1))
    apply = world.apply

    def fail(scale):
        apply(scale)
        if scale != Scale(2, 1) or not way_back:
            raise RuntimeError("out of memory")

    world.apply = fail
    tuner = world.tune()
    assert (world.scale, tuner.scale) == (Scale(2, 1), Scale(2, 1))
    assert tuner.gain == pytest.approx(1.0 if way_back else math.nan, nan_ok=True)
    assert "gave up: out of memory. " in world.warned[0][1]
    assert ("couldn't go back to 2r×1e (out of memory)" in world.warned[0][1]) == (not way_back)


def test_an_interruption_during_a_probe_ends_it():
    world = World(Scale(2, 1), learn_s=2.0, threads=Threads(1.0, 2))
    world.measure = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        world.tune()
    tuner = world.tune()
    assert (tuner.scale, tuner.threads, world.count, tuner.gain) == (Scale(2, 1), 1.0, 1, 1.0)
    assert "it was interrupted" in world.warned[0][1]


def test_iterations_with_unknown_figures_dont_count_and_end_it_if_they_go_on():
    world = World(Scale(2, 1))
    world.train()
    for _ in range(9):
        world.train(env_steps=NAN)
    assert not world.tuner.is_over
    world.train(env_steps=NAN)
    assert world.tuner.is_over
    assert "too many iterations" in world.warned[0][1]


def test_the_batch_is_left_as_it_is():
    short = keeps_batch(SimpleNamespace(total_train_batch_size=1040, rollout_fragment_length="auto"), Scale(1, 32))
    assert [short(Scale(1, e)) for e in (16, 32, 64)] == [True, True, False]  # 65, 33 and 17 steps of each env
    auto = keeps_batch(SimpleNamespace(total_train_batch_size=4000, rollout_fragment_length="auto"), Scale(2, 1))
    assert [auto(Scale(2, e)) for e in (1, 4, 7, 8)] == [True, True, True, False]  # 250 steps of each of 16 envs are too few
    fixed = keeps_batch(SimpleNamespace(total_train_batch_size=4000, rollout_fragment_length=200), Scale(2, 1))
    assert [fixed(Scale(2, e)) for e in (1, 2, 5, 10, 8)] == [True, True, True, False, False]
