"""The small trained checkpoint of ../testdata. Skipped without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("tritgemm.hf")

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = Path(__file__).parents[2] / "testdata" / "small-bitnet"


@pytest.mark.parametrize("activations", ["int8_torch", "int8"])
def test_it_writes_what_transformers_writes(activations):
    expected = json.loads((SMALL / "greedy.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(SMALL)
    model = hf.from_pretrained(
        SMALL, activations=activations, dtype=torch.float32, progress=False
    )
    assert len(model.hf_quantizer.report.replaced) == 7 * model.config.num_hidden_layers
    prompt = tokenizer(expected["prompt"], return_tensors="pt")
    assert prompt.input_ids[0].tolist() == expected["prompt_tokens"]
    made = model.generate(**prompt, max_new_tokens=len(expected["tokens"]), do_sample=False)
    made = made[0, prompt.input_ids.shape[1] :].tolist()
    assert made == expected["tokens"]
    assert tokenizer.decode(made) == expected["text"]
