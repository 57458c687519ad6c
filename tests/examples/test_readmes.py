"""What the examples' READMEs say is true: their commands are run and their output compared."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.examples.readme import EXAMPLES, TIMEOUT_S, arguments, commands, environment, run

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def test_every_example_has_a_readme_that_is_tested() -> None:
    """Each folder of examples has a README, and this module knows it."""
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders == {"chaos", "counter", "fundmover", "hello", "kvstore", "minnietwitter", "todo"}
    assert all((EXAMPLES / name / "README.md").is_file() for name in folders)


@pytest.mark.parametrize("name", ["counter", "fundmover", "hello", "kvstore", "minnietwitter"])
def test_example_prints_what_its_readme_says(name: str) -> None:
    """The examples that bring their own cluster print what their README shows."""
    shown = list(commands(EXAMPLES / name / "README.md"))
    assert shown
    for command, output in shown:
        assert run(command) == output


def test_todo_works_as_its_readme_says() -> None:
    """The commands of the todo example do on a running cluster what the README shows; killing a server changes nothing."""
    (up, _), *shown = commands(EXAMPLES / "todo" / "README.md")
    assert up.startswith("amino up")
    running = subprocess.Popen(
        [*arguments(up), "--port", "0"],
        cwd=EXAMPLES,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        lines = [running.stdout.readline().split() for _ in range(3)]
        address = lines[0][1]
        pids = {line[0]: int(line[-1]) for line in lines}
        for command, output in shown:
            printed = run(command, AMINO_ADDRESS=address)
            if output:
                assert printed == output, command
        command, output = shown[-1]
        os.kill(pids["s2"], signal.SIGKILL)
        assert run(command, AMINO_ADDRESS=address) == output
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=TIMEOUT_S)


def test_the_classes_work_without_a_cluster() -> None:
    """MinnieTwitter's classes are plain: they run with objects where refs would be."""
    code = (
        "from minnietwitter.users import *; from minnietwitter.tweets import *\n"
        "timeline, followers = Timeline('ada'), Followers()\n"
        "ada = User('ada', timeline, followers, None)\n"
        "assert ada.post('hello').number == 1\n"
        "profile = Profile('ada', ada, timeline, followers)\n"
        "grace = User('grace', Timeline('grace'), Followers(), None)\n"
        "assert grace.follow(profile) and not grace.follow(profile)\n"
        "assert [tweet.text for tweet in grace.home()] == ['hello'] and followers.all() == ['grace']\n"
    )
    done = subprocess.run(
        [*arguments("python"), "-c", code], cwd=EXAMPLES, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_chaos_suite_of_minnietwitter_passes() -> None:
    """The suite that the guide to chaos shows runs as it stands, with the plugin of the test kit."""
    options = [
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-p",
        "no:amino",
        "-p",
        "amino.testing.plugin",
        "-p",
        "no:randomly",
    ]
    command = [*arguments("python"), "-m", "pytest", *options, "minnietwitter/test_chaos.py"]
    more = environment(PYTHONPATH=os.pathsep.join([environment()["PYTHONPATH"], str(EXAMPLES)]))
    done = subprocess.run(command, cwd=EXAMPLES, env=more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
