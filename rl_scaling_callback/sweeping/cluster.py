"""The cluster that a sweep runs on."""

from __future__ import annotations

import ray

from rl_scaling_callback import hardware


def connect(num_cpus: int | None = None) -> None:
    """Connect to the cluster that runs here or that `RAY_ADDRESS` names; start one where there is none.

    Args:
        num_cpus: CPUs that Ray believes in where it is started here. None for one more than there are cores: the Algorithm's
            process is idle while its env runners sample.

    Raises:
        ValueError: `num_cpus` is given, and there is a cluster already.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(num_cpus=num_cpus or hardware.usable_cores() + 1, include_dashboard=False, log_to_driver=False)
    except ValueError:  # a cluster has the CPUs that it has
        if num_cpus is not None:
            raise ValueError(f"num_cpus is {num_cpus!r}; allowed is none where a cluster of Ray runs already") from None
        ray.init(log_to_driver=False)
