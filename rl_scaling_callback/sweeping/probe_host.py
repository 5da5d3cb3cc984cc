"""One Algorithm in a process of its own, placed as Tune places a trial, in which configurations are probed and trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_scaling_callback import rllib
from rl_scaling_callback.callback import ScalingCallback
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.prober import ProbeError, Prober
from rl_scaling_callback.rllib.switch import Switch
from rl_scaling_callback.sweeping.instrument import callbacks_without_measuring

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_LONGEST_START_S: Final = 300.0
_LONGEST_STOP_S: Final = 5.0


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

    def __init__(self, config: AlgorithmConfig) -> None:
        self._algorithm = config.build_algo()
        self._switch = Switch(self._algorithm)
        self._prober: Prober | None = None

    def host(self) -> hardware.Host:
        return hardware.this_host()

    def start_probing(self, max_seconds: float) -> None:
        self._prober = Prober(self._algorithm, max_seconds=max_seconds)

    def warm_up(self) -> None:
        before_learning, steps = rllib.steps_before_learning(vars(self._algorithm.config)), 0.0
        while steps <= before_learning:
            steps += self._algorithm.train()[schema.ROOT]["env_steps"]

    def train(self, scale: Scale) -> Iteration:
        scaling = self._switch.train(scale)[schema.ROOT]
        times = scaling["time"]
        rest = {phase: times[phase] for phase in REST}
        return Iteration(scale, scaling["env_steps"], times["sample"] + sum(rest.values()), rest)

    def steps_per_update(self, scales: Sequence[Scale]) -> dict[Scale, float]:
        assert self._prober is not None
        return {scale: self._prober.steps_per_round(scale) for scale in scales}

    def probe(self, scale: Scale, number: int) -> Probe | str:
        """Return the probe, or why there is none."""
        assert self._prober is not None
        try:
            return self._prober.measure([scale], first_round=number)[0]
        except (ProbeError, ValueError) as error:
            return str(error)

    def stop(self) -> None:
        if self._prober is not None:
            self._prober.close()
        self._switch.close()
        self._algorithm.stop()


class ProbeHost:
    """The driver's handle of the process in which an Algorithm runs.

    Args:
        config: with the largest number of env runners that is to be probed.
        max_seconds: longest time of one probe.

    Raises:
        ProbeError: the Algorithm can't be built, or not be probed.
    """

    def __init__(self, config: AlgorithmConfig, max_seconds: float) -> None:
        algorithm: Any = config.algo_class
        request = algorithm.default_resource_request(config)
        bundles = list(request.bundles)
        self._group = placement_group(bundles, strategy=request.strategy)
        own = dict(bundles[0]) if bundles else {}
        actor: Any = ray.remote(_Host)
        actor = actor.options(
            num_cpus=own.pop("CPU", 0),
            num_gpus=own.pop("GPU", 0),
            resources=own,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            ),
        )
        self._actor: Any = actor.remote(_timed(config))
        try:
            self.host: hardware.Host = self._get(self._actor.host.remote(), _LONGEST_START_S)
            self._get(self._actor.start_probing.remote(max_seconds), _LONGEST_START_S)
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> None:
        """Train until the algorithm learns, and once more: the first update is slower than those that follow."""
        self._get(self._actor.warm_up.remote())

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
            remove_placement_group(self._group)

    def _get(self, answer: Any, timeout: float | None = None) -> Any:
        try:
            return ray.get(answer, timeout=timeout)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            raise ProbeError(f"{type(cause).__name__}: {cause}") from error


def _timed(config: AlgorithmConfig) -> AlgorithmConfig:
    """Return a copy of a config whose phases are timed, and whose training fails at once where an env runner does.

    Else RLlib would wait a minute, and then train with another env runner than the one that is to be measured.
    """
    callback: Any = functools.partial(ScalingCallback, baseline_sps=1.0)
    timed = config.copy(copy_frozen=False).callbacks([*callbacks_without_measuring(config), callback])
    return timed.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
