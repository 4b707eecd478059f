"""Layers whose weights torch's FSDP shards, on two processes of this machine. Skipped where
torch is missing, or has no ``fully_shard``."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

import tritgemm

torch = pytest.importorskip("torch")
if not hasattr(torch.distributed, "ProcessGroupGloo"):
    pytest.skip("this torch has no gloo", allow_module_level=True)
try:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
except ImportError:
    pytest.skip("this torch has no fully_shard", allow_module_level=True)
nn = torch.nn


def made(kind):
    torch.manual_seed(0)
    options = {"activations": kind, "train_activations": kind}
    return nn.Sequential(
        tritgemm.RMSNorm(32),
        tritgemm.BitLinear(32, 64, **options),
        nn.ReLU(),
        tritgemm.BitLinear(64, 32, bias=False, granularity="tensor", **options),
    )


def sharded_by_layers(model, **options):
    for layer in model:
        if isinstance(layer, tritgemm.BitLinear):
            fully_shard(layer, **options)
    return fully_shard(model, **options)


WAYS = {
    "by layers": sharded_by_layers,
    "whole": lambda model: fully_shard(model),
    "kept": lambda model: sharded_by_layers(model, reshard_after_forward=False),
    "FSDP1": lambda model: FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True
    ),
}


def losses(model):
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    found = []
    for _ in range(4):
        # Both processes have the same tokens, so that the mean of their gradients is one's.
        loss = model(torch.randn(8, 32)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            found += [loss.item(), model(torch.ones(2, 32)).sum().item()]
    return found


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("error", message=".*returned a view tensor")
    torch.distributed.init_process_group("gloo")
    torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for kind in ("f32", "int8"):
        expected = losses(made(kind))
        for name, shard in WAYS.items():
            assert losses(shard(made(kind))) == expected, (kind, name)
    model = fully_shard(made("f32"))
    for call in (lambda: tritgemm.freeze(model), model[1].prepare_for_inference, model[1].to_native):
        with pytest.raises(TypeError, match="weight: expected a plain tensor, got a DTensor"):
            call()
    torch.distributed.destroy_process_group()


def test_sharded_layers_train_as_whole_ones_do():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*torchrun, __file__],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


if __name__ == "__main__":
    main()
