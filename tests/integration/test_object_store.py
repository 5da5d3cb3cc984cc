"""An experiment stored on S3, through Tune's storage, with a local server."""

import json
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
from click.testing import CliRunner
from pyarrow import fs
from ray import tune
from tuning import costly, quick, run

from rl_scaling_callback import ScalingReporter
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.cli import main
from rl_scaling_callback.storage import Location

BUCKET = "experiments"

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def s3(no_cluster, tmp_path_factory):
    """Returns the URI of a path in a bucket."""
    pytest.importorskip("moto")
    pytest.importorskip("flask_cors", reason="moto serves with Flask")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("moto") / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("w") as output:
        # Ray's workers, started later, inherit these.
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while not is_listening(port):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            endpoint = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http"}
            fs.S3FileSystem(allow_bucket_creation=True, **endpoint).create_dir(BUCKET)
            yield lambda path: f"s3://{BUCKET}/{path}?endpoint_override=127.0.0.1:{port}&scheme=http"
        finally:
            server.kill()
            server.wait()


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def last_scalings(place, config, **options):
    """Run an experiment; return what was last injected into each trial."""
    results = run(place, config, name="it", stop=5, **options)
    assert not results.errors
    return [trial.metrics["scaling"] for trial in results]


@pytest.fixture(scope="module")
def trials(s3, cluster):
    """What was last injected into the trials of an experiment at `grid/it`: the reference, and one with two env runners."""
    reporter = ScalingReporter("fastest", show=lambda report: None)
    config = costly(step_s=0.01).env_runners(num_env_runners=tune.grid_search([1, 2]))
    return last_scalings(s3("grid"), config, reporters=[reporter])


def test_baseline_and_page_are_stored_in_the_experiment(s3, trials):
    reference, parallel = trials
    folder = Location.of(s3("grid/it"))
    _, (name,) = folder.below("scaling_baselines").names()
    baseline = json.loads(folder.below("scaling_baselines").below(name).read())
    assert reference["is_baseline"] == 1
    assert parallel["comparable"] == 1
    assert parallel["baseline_sps"] == reference["baseline_sps"] == baseline["steady"]["sps"]
    assert "2r×1e" in folder.below("scaling_report.html").read().decode()


def test_command_line_reads_the_experiment_and_does_not_show_credentials(s3, trials):
    uri = s3("grid/it").replace("s3://", "s3://somebody:secret@")
    shown = CliRunner().invoke(main, ["report", uri, "--goal", "fastest", "--verbose"])
    assert shown.exit_code == 0, shown.output
    assert all(text in shown.output for text in ("1r×1e", "2r×1e", "experiments/grid/it"))
    assert "secret" not in shown.output


def test_custom_filesystem_and_a_lasting_baseline(s3, trials):
    filesystem, path = fs.FileSystem.from_uri(s3("later"))
    lasting = partial(quick, baseline_dir=s3("grid/it/scaling_baselines"))
    config = costly(step_s=0.01).env_runners(num_env_runners=2)
    (later,) = last_scalings(path, config, callbacks=lasting, storage_filesystem=filesystem)
    assert later["baseline_sps"] == trials[0]["baseline_sps"]
    assert later["comparable"] == 1


def test_missing_bucket_is_reported_at_once(s3):
    with pytest.raises(ValueError, match=r"baseline_dir is 's3://nowhere/.*Bucket 'nowhere' not found"):
        BaselineStore.at(s3("baselines").replace(BUCKET, "nowhere"))


def test_unreachable_endpoint_is_reported(s3):
    nowhere = CliRunner().invoke(main, ["report", "s3://bucket/it?endpoint_override=127.0.0.1:1&scheme=http"])
    assert nowhere.exit_code == 1
    assert "can't be" in nowhere.output
