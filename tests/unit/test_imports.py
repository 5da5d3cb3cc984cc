"""The numbers must work where Ray is absent, and importing the package must stay cheap."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rl_scaling_callback"
NEED_RAY = {"callback", "surroundings"}
WITHOUT_RAY = sorted({path.stem for path in PACKAGE.glob("*.py")} - NEED_RAY - {"__init__"})


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, rl_scaling_callback; print([m for m in ('ray', 'torch', 'numpy', 'scipy', 'pyarrow') if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


@pytest.mark.parametrize("module", WITHOUT_RAY)
def test_all_but_the_ray_rooms_import_without_ray(module):
    code = f"import sys\nfor absent in ('ray', 'torch', 'pyarrow'): sys.modules[absent] = None\nimport rl_scaling_callback.{module}"
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_rllib_the_callback_says_what_to_install():
    done = run("import sys; sys.modules['ray'] = None\nfrom rl_scaling_callback import ScalingCallback")
    assert 'pip install "ray[tune,rllib]' in done.stderr
