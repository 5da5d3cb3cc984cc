import pytest
from click.testing import CliRunner

from rl_scaling_callback.cli import main
from rl_scaling_callback.core.schema import KEYS
from tests.builders import TABLE


def rl_scaling(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_goal_and_constraints():
    fastest = rl_scaling("report", TABLE, "--goal", "fastest").stdout
    assert fastest.rstrip().endswith("\nUse 8r×2e: 5.40×, 33.8 %."), "without a threshold, there is no verdict"
    assert "Goal balanced: not met." in rl_scaling("report", TABLE, "--max-cpus", 4).stdout


def test_keys():
    for line, key in zip(rl_scaling("keys").stdout.splitlines(), KEYS, strict=True):
        assert line.split()[0] == key.name
        assert line.endswith(key.meaning)


def test_report_and_help_fit_a_screen():
    brief, full = rl_scaling("report", TABLE).stdout, rl_scaling("report", TABLE, "--verbose").stdout
    assert len(brief.splitlines()) <= 40
    assert max(map(len, brief.splitlines())) <= 80
    assert len(rl_scaling("report", "--help").stdout.splitlines()) <= 24
    assert ("Checklist" in brief, "Checklist" in full) == (False, True)
    assert brief.rstrip().splitlines()[-1] in full.splitlines()


def test_page(tmp_path):
    done = rl_scaling("report", TABLE, "--page", tmp_path / "page.html")
    assert done.stdout == rl_scaling("report", TABLE).stdout
    assert "4r×1e" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_columns_and_pool(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("gpus,speed,day\n1,100,1\n2,190,1\n1,110,2\n2,210,2\n")
    command = ("report", table, "--column", "num_env_runners=gpus", "--column", "sps=speed")
    assert rl_scaling(*command).stdout.count("\nGoal balanced: the largest") == 2
    assert rl_scaling(*command, "--pool", "day").stdout.count("\nGoal balanced: the largest") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "does not exist"),
        ([TABLE.parent], 1, "no trial"),
        ([TABLE, "--goal", "cheapest"], 2, "'save', 'balanced', 'fastest'"),
        ([TABLE, "--reference", "one"], 2, "allowed are strings such as '1r1e'"),
        ([TABLE, "--min-speedup", "-1"], 2, "min_speedup is -1.0"),
        ([TABLE, "--column", "sps"], 2, "'sps'; allowed are pairs such as sps=FPS"),
        ([TABLE, "--pool", "host"], 1, "there is no column host"),
        # Before anything is read.
        (["nowhere", "--page", "/missing/x.html"], 2, "/missing/x.html can't be written: it must be a file in a folder"),
    ],
)
def test_errors_are_clear(arguments, code, message):
    done = rl_scaling("report", *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_sweep_does_not_replace_the_config_that_it_tunes(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("config = 1")
    assert "allowed is another file" in rl_scaling("sweep", f"{file}:config", "--write", file).stderr
    assert file.read_text() == "config = 1"
