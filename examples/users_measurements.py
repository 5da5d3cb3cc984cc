"""Ten measurements from a table to a decision: no Ray, no training. `python examples/users_measurements.py`."""

from __future__ import annotations

from pathlib import Path

from rl_scaling_callback import Goal, make_report, read_experiment
from rl_scaling_callback.report import print_report, write_page

TABLE = Path(__file__).with_name("halfcheetah_ppo_i7_12700.csv")


def main() -> None:
    """Print what the measurements say, and write the page."""
    experiment = read_experiment(TABLE)
    print_report(make_report(experiment, Goal.of("balanced")))
    for name in ("save", "balanced", "fastest"):
        recommendation = make_report(experiment, Goal.of(name)).studies[0].recommendation
        assert recommendation.choice is not None
        print(f"{name:>8}: {recommendation.choice.scale}, {recommendation.choice.speedup:.2f}×")
    print(f"written: {write_page(make_report(experiment), 'scaling_report.html')}")


if __name__ == "__main__":
    main()
