"""The command in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import tritgemm


def script() -> list[str]:
    """The installed command."""
    found = shutil.which("tritgemm", path=sysconfig.get_path("scripts"))
    assert found is not None
    return [found]


@pytest.fixture(params=["script", "module"])
def command(request: pytest.FixtureRequest) -> list[str]:
    return script() if request.param == "script" else [sys.executable, "-m", "tritgemm"]


def run(command: list[str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *args], capture_output=True, text=True)


def test_it_is_the_program_of_the_crate(command, tmp_path):
    done = run(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"tritgemm {tritgemm.__version__}\n")
    rng = np.random.default_rng(0)
    layer = tritgemm.Linear(tritgemm.Packed.quantize(rng.standard_normal((70, 256), dtype=np.float32), "tensor"))
    tritgemm.save_model(tmp_path / "model.panels", {"up": layer})
    done = run(command, "inspect", str(tmp_path / "model.panels"))
    assert done.returncode == 0 and "up" in done.stdout and "256" in done.stdout, done.stderr
    out = tmp_path / "größe.gguf"
    done = run(command, "convert", str(tmp_path / "model.panels"), str(out), "--to", "tq2_0", "--round-scales")
    assert done.returncode == 0, done.stderr
    again = tritgemm.open(out)["up"].weights
    assert again.to_packed().tobytes() == layer.weights.to_packed().tobytes()


def test_what_goes_wrong(command):
    done = run(command, "inspect", str(Path("no") / "such.gguf"))
    assert done.returncode == 1 and done.stdout == "" and "error:" in done.stderr and "such.gguf" in done.stderr
    done = run(command, "inspekt")
    assert done.returncode == 2 and "inspect" in done.stderr
