"""`kill -9` and resume, a few times; `python tests/training/kill_resume.py` does it 20 times."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_runs_end_like_the_unbroken_one(checkout):
    command = [
        sys.executable,
        str(checkout / "tests" / "training" / "kill_resume.py"),
        "--count",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 equal" in done.stdout
