"""Throughput, speedup and parallel efficiency for everyone who trains with RLlib.

>>> from rl_scaling_callback import ScalingCallback
>>> config.callbacks(ScalingCallback)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_scaling_callback._version import __version__

if TYPE_CHECKING:
    from rl_scaling_callback.callback import ScalingCallback

__all__ = ["ScalingCallback", "__version__"]


def __getattr__(name: str) -> object:
    # Ray takes seconds to import: only those who use the callback pay for it.
    if name == "ScalingCallback":
        from rl_scaling_callback.callback import ScalingCallback

        return ScalingCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
