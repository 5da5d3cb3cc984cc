"""One Algorithm in a process of its own, placed as Tune places a trial, in which configurations are probed and trained."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_scaling_callback import rllib
from rl_scaling_callback.callback import ScalingCallback
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import hardware, prober
from rl_scaling_callback.rllib.prober import ProbeError, Prober
from rl_scaling_callback.rllib.switch import Switch
from rl_scaling_callback.sweeping import cluster
from rl_scaling_callback.sweeping.instrument import callbacks_without_measuring

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_LONGEST_START_S: Final = 300.0
_LONGEST_PROBE_S: Final = 30.0
"""Beside the making of envs."""
_LONGEST_STOP_S: Final = 5.0
_LONGEST_ANSWER_S: Final = 5.0
_LONGEST_TEXT: Final = 300
_LONGEST_ITERATION: Final = 200
"""Env steps that an iteration of several updates of the learner goes on for."""


REST: Final = ("learn", "sync", "other")
"""The phases of an iteration beside sampling and evaluation."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one training iteration took.

    Attributes:
        scale: the scale that it ran at.
        env_steps: its env steps.
        seconds: its duration, without evaluation [s].
        rest: seconds of each phase of `REST`.
    """

    scale: Scale
    env_steps: float
    seconds: float
    rest: Mapping[str, float]


class _Host:
    """Runs in the process of its own."""

    _first_s = 0.0

    def start(self, config: AlgorithmConfig, keep_envs: bool) -> hardware.Host:
        self._algorithm, self._keep_envs = config.build_algo(), keep_envs
        self._switch = Switch(self._algorithm, keep_envs)
        self._prober = Prober(self._algorithm, keep_envs=keep_envs)
        return hardware.this_host()

    def warm_up(self) -> float:
        before_learning, steps = rllib.steps_before_learning(vars(self._algorithm.config)), 0.0
        evaluation_s = self._switch.take_out_evaluation()
        while steps <= before_learning:
            steps += self._algorithm.train()[schema.ROOT]["env_steps"]
        return evaluation_s

    def train(self, scale: Scale) -> Iteration:
        scaling = self._switch.train(scale)[schema.ROOT]
        times = scaling["time"]
        rest = {phase: times[phase] for phase in REST}
        return Iteration(scale, scaling["env_steps"], times["sample"] + sum(rest.values()), rest)

    def steps_per_update(self, scales: Sequence[Scale]) -> dict[Scale, float]:
        return {scale: self._prober.steps_per_round(scale) for scale in scales}

    def probe(self, scale: Scale, number: int) -> Probe | str:
        """Return the probe, or why there is none.

        One that takes too long is given up. The first one tells how long it takes to make an env.
        """
        envs = scale.num_envs_per_env_runner
        longest_s = _LONGEST_PROBE_S + 2 * envs * self._first_s if self._first_s else _LONGEST_START_S
        started = time.perf_counter()
        try:
            # What it keeps is in the env runners.
            one = Prober(self._algorithm, max_seconds=round(longest_s, 1), keep_envs=self._keep_envs)
            return one.measure([scale], first_round=number)[0]
        except (ProbeError, ValueError) as error:
            return str(error).removesuffix(f". {prober._INSTEAD}.")
        finally:
            self._first_s = self._first_s or (time.perf_counter() - started) / envs

    def is_whole(self) -> bool:
        group: Any = self._algorithm.env_runner_group
        answers = group.foreach_env_runner(_answer, local_env_runner=False, timeout_seconds=_LONGEST_ANSWER_S)
        return bool(len(answers) == group.num_remote_env_runners())

    def stop(self) -> None:
        self._prober.close()
        self._algorithm.stop()


def _answer(env_runner: Any) -> bool:
    return True


class ProbeHost:
    """The driver's handle of the process in which an Algorithm runs.

    Args:
        config: with the largest number of env runners that is to be probed.
        keep_envs: keep the envs of each configuration that was measured.
        say: told what it waits for.

    Attributes:
        host: the host of the process.

    Raises:
        ProbeError: the Algorithm can't be built, or not be probed.
        TimeoutError: the cluster had no room for it.
    """

    def __init__(self, config: AlgorithmConfig, keep_envs: bool = True, say: Callable[[str], None] = print) -> None:
        self._config, self._keep_envs, self._say = config, keep_envs, say
        self.host: hardware.Host = self._start()

    def _start(self) -> hardware.Host:
        algorithm: Any = self._config.algo_class
        request = algorithm.default_resource_request(self._config)
        self._group = cluster.reserve(request, self._say)
        # Not the bundle of an env runner, where the main process asks for nothing.
        own = {} if request.head_bundle_is_empty else dict(request.bundles[0])
        actor: Any = ray.remote(_Host)
        options: dict[str, Any] = {"num_cpus": own.pop("CPU", 0), "num_gpus": own.pop("GPU", 0), "resources": own}
        if self._group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group,
                placement_group_bundle_index=0,
                placement_group_capture_child_tasks=True,
            )
        self._actor: Any = actor.options(**options).remote()
        try:
            host: hardware.Host = self._get(self._actor.start.remote(_timed(self._config), self._keep_envs), _LONGEST_START_S)
            return host
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> float:
        """Train until the algorithm learns, and once more: the first update is slower than those that follow.

        Returns:
            What evaluation would add to an iteration on average [s]; there is none after that.
        """
        seconds: float = self._get(self._actor.warm_up.remote())
        return seconds

    def recover(self) -> bool:
        """Start another Algorithm where env runners of this one have died or hang; return whether that was so."""
        with suppress(ProbeError):
            if self._get(self._actor.is_whole.remote(), 2 * _LONGEST_ANSWER_S):
                return False
        self.close()
        self._start()
        self.warm_up()
        return True

    def train(self, scale: Scale) -> Iteration:
        """Train an iteration at a scale."""
        iteration: Iteration = self._get(self._actor.train.remote(scale))
        return iteration

    def steps_per_update(self, scales: Sequence[Scale]) -> dict[Scale, float]:
        """Return the env steps per learner update at each scale; infinite where learning goes with the env steps."""
        steps: dict[Scale, float] = self._get(self._actor.steps_per_update.remote(list(scales)))
        return steps

    def probe(self, scale: Scale, number: int) -> Probe | str:
        """Return a probe of a scale, or why there is none."""
        probe: Probe | str = self._get(self._actor.probe.remote(scale, number))
        return probe

    def close(self) -> None:
        """Close the envs, which may be processes of their own, end the process, and give its resources back."""
        try:
            with suppress(ray.exceptions.RayError):
                ray.get(self._actor.stop.remote(), timeout=_LONGEST_STOP_S)
        finally:
            ray.kill(self._actor)
            if self._group is not None:
                remove_placement_group(self._group)

    def _get(self, answer: Any, timeout: float | None = None) -> Any:
        try:
            return ray.get(answer, timeout=timeout)
        except ray.exceptions.GetTimeoutError as error:
            raise ProbeError(f"The Algorithm has not answered for {timeout:.0f} s") from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            # Ray puts whole tracebacks into a message, the cause last.
            lines = str(cause).strip().splitlines() or [""]
            raise ProbeError(f"{type(cause).__name__}: {lines[-1][:_LONGEST_TEXT]}") from error


def _timed(config: AlgorithmConfig) -> AlgorithmConfig:
    """Return a copy of a config whose phases are timed, whose training fails at once where an env runner does, in short iterations.

    Else RLlib would wait a minute, and then train with another env runner than the one that is to be measured. How many updates
    make an iteration is for the user's eyes only: DQN's has 1,000.
    """
    callback: Any = functools.partial(ScalingCallback, baseline_sps=1.0)
    timed = config.copy(copy_frozen=False).callbacks([*callbacks_without_measuring(config), callback])
    least = min(_LONGEST_ITERATION, timed.min_sample_timesteps_per_iteration or 0)
    timed.reporting(min_time_s_per_iteration=0, min_train_timesteps_per_iteration=0, min_sample_timesteps_per_iteration=least)
    return timed.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
