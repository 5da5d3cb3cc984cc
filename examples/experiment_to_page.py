"""Any experiment of Tune with RLlib to a page, whether its trials used the callback or not.

`python examples/experiment_to_page.py ~/ray_results/halfcheetah_ppo_scaling`
"""

from __future__ import annotations

import argparse

from rl_scaling_callback import make_report, read_experiment
from rl_scaling_callback.report import reason_text, write_page


def main() -> None:
    """Read the experiment's folder, say what was left out, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", help="an experiment's folder, or its URI")
    arguments.add_argument("--page", default="scaling_report.html")
    options = arguments.parse_args()

    experiment = read_experiment(options.folder)
    for each in experiment.left_out:
        print(f"left out: {each.name}: {each.reason}")
    report = make_report(experiment)
    for study in report.studies:
        print(f"{study.study.title}: {reason_text(study.recommendation)}")
    print(f"written: {write_page(report, options.page)}")


if __name__ == "__main__":
    main()
