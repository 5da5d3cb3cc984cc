"""`ScalingReporter` if something is missing or fails; the rest is in `test_tune`."""

import pytest

from rl_scaling_callback import ScalingReporter

pytest.importorskip("ray")

from tuning import cartpole, run

pytestmark = pytest.mark.usefixtures("cluster")


def test_without_the_callback(tmp_path):
    shown = []
    run(tmp_path, cartpole(), stop={"training_iteration": 6}, callbacks=[], reporters=[ScalingReporter(show=shown.append)])
    (only,) = shown[-1].studies[0].configurations
    assert only.speedup == 1
    assert not only.losses


def test_failing_report_does_not_end_the_experiment(tmp_path, caplog):
    def fail(report):
        raise RuntimeError("no terminal")

    results = run(tmp_path, cartpole(runners=0), stop={"training_iteration": 2}, reporters=[ScalingReporter(show=fail)])
    assert not results.errors
    assert "no terminal" in caplog.text


def test_missing_packages_are_reported_before_the_experiment(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(ImportError, match=r"needs jinja2: pip install \"rl-scaling-callback\[report\]\""):
        ScalingReporter()
