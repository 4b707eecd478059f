"""The example of tensor parallelism, on several processes of this machine. Skipped where
torch is missing, or has no torch.distributed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not hasattr(torch.distributed, "ProcessGroupGloo"):
    pytest.skip("this torch has no gloo", allow_module_level=True)

EXAMPLE = Path(__file__).parents[1] / "examples" / "tensor_parallel.py"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_have_the_bits_of_one_process(ranks):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*torchrun, "--nproc_per_node", str(ranks), EXAMPLE],
        env={"OMP_NUM_THREADS": "1", "TRITGEMM_NUM_THREADS": "2", **os.environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = [f"rank {rank} of {ranks}: the same bits as one process" for rank in range(ranks)]
    assert sorted(result.stdout.splitlines()) == lines
