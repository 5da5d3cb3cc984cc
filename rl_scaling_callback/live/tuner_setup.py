"""Decides what of a trial can be tuned, and connects the tuner to its Algorithm."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

from rl_scaling_callback.analysis.race import Grid, powers_of_two
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.core.warn import Warn
from rl_scaling_callback.live.options import Options
from rl_scaling_callback.live.tuner import Threads, Tuner
from rl_scaling_callback.rllib import configs, hardware
from rl_scaling_callback.rllib.prober import Prober
from rl_scaling_callback.rllib.rescale import Rescaler
from rl_scaling_callback.rllib.threads import learner_threads, max_learner_threads, set_learner_threads

logger = logging.getLogger("rl_scaling_callback")


def tuner_for(algorithm: Any, trial: Trial, options: Options, warn: Warn) -> Tuner | None:
    """Return the tuner of a trial; None, with a warning, if nothing of it can be tuned."""
    config = vars(algorithm.config)
    if not configs.is_new_stack(config):
        why = "it uses the old API stack"
    elif trial.overlaps:
        why = "its sampling overlaps learning (APPO, IMPALA)"
    elif not configs.samples_env(config):
        why = "it learns from recorded data and samples no env"
    else:
        return _tuner(algorithm, trial.scale, options, warn)
    warn("not tuned", f"autotune leaves this trial as configured, because {why}")
    return None


def _tuner(algorithm: Any, scale: Scale, options: Options, warn: Warn) -> Tuner:
    assert options.autotune is not None
    prober = None
    try:
        prober = Prober(algorithm, max_seconds=options.max_probe_seconds)
        if math.isfinite(prober.steps_per_round(scale)):
            raise ProbeError("the number of updates per env step depends on it in this algorithm")
        if algorithm.config.batch_mode != "truncate_episodes":
            raise ProbeError("with complete episodes, the batch depends on it")
    except ProbeError as error:
        prober = None
        warn("envs not tuned", f"autotune leaves the number of envs as it is: {error}")
    runners, envs = scale.num_env_runners, {*powers_of_two(options.max_envs), scale.num_envs_per_env_runner}
    numbers = powers_of_two(runners) if runners else [0]
    return Tuner(
        scale,
        Scale(min(1, runners), 1),
        Grid(tuple(numbers), tuple(sorted(envs)), configs.keeps_batch(algorithm.config, scale)),
        goal=options.autotune,
        prober=prober,
        rescaler=Rescaler(algorithm),
        threads=_threads(algorithm, options),
        warn=warn,
        say=functools.partial(logger.warning, "ScalingCallback: %s"),
    )


def _threads(algorithm: Any, options: Options) -> Threads:
    config = vars(algorithm.config)
    own = learner_threads(algorithm)
    if options.learner_threads is not None or configs.uses_gpus(config):
        return Threads(own)
    most = max_learner_threads(config, hardware.usable_cores())
    return Threads(own, most, functools.partial(set_learner_threads, algorithm))
