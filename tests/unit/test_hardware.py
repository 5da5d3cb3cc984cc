import math

import pytest

from rl_scaling_callback.rllib.hardware import _cgroup_cpus


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "other/cpu.max": "1000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("4:memory:/m\n3:cpu,cpuacct:/a:b\n", {"cpu/a:b/cpu.cfs_quota_us": "50000", "cpu/a:b/cpu.cfs_period_us": "100000"}, 0.5),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        # Inside a container, the host's path of its group is not visible.
        ("3:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("0::/../outside\n", {"cpu.max": "100000 100000\n"}, 1.0),
        ("junk\n", {"cpu.max": "junk\n"}, math.inf),
    ],
)
def test_smallest_quota_of_the_own_control_groups(tmp_path, own, files, cpus):
    root, own_groups = tmp_path / "fs", tmp_path / "cgroup"
    assert _cgroup_cpus(root, own_groups) == math.inf
    own_groups.write_text(own)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert _cgroup_cpus(root, own_groups) == cpus
