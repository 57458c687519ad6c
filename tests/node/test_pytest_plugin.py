"""The pytest plugin, as a project that uses Amino has it."""

import os
from pathlib import Path

import pytest

import amino

pytestmark = pytest.mark.real

MODULE = """
from amino.testing import LocalCluster

amino_cluster = {"servers": 1, "session_ttl_s": 2, "cluster": "plugin", "etcd_endpoints": [%r]}

class Greeter:
    def hello(self, who):
        return f"hello {who}"

def test_first(cluster):
    assert isinstance(cluster, LocalCluster)
    import amino
    with cluster.connect() as client:
        assert client.new(amino.spec(Greeter, name="greeter")).hello("world") == "hello world"

def test_second_has_the_same(cluster):
    with cluster.connect() as client:
        assert client.get("greeter").hello("again") == "hello again"
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A project with this plugin and no other, whether Amino is installed here or run from its sources."""
    home = str(Path(amino.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def test_the_fixture_gives_a_module_one_running_cluster(project, etcd_endpoints):
    """Two tests of a module share a cluster of the module's choosing, which ends with the module."""
    project.makepyfile(MODULE % etcd_endpoints[0])
    result = project.runpytest_subprocess("-q", "-p", "amino.testing.plugin", timeout=100)
    result.assert_outcomes(passed=2)


def test_without_an_etcd_the_tests_are_skipped(project):
    """Where no etcd can be had, the reason of the skip is the remedy."""
    module = MODULE.replace(', "etcd_endpoints": [%r]', ', "etcd_binary": "no-such-etcd"')
    project.makepyfile(module)
    result = project.runpytest_subprocess("-q", "-rs", "-p", "amino.testing.plugin", timeout=100)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*no-such-etcd does not exist*check the path*"])
