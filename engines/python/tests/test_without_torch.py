"""What the package is where torch is not installed, or does not work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tritgemm

HINT = "tritgemm.torch needs PyTorch: pip install 'tritgemm[torch]'"


def run(code: str, path: str = "", absent: bool = True) -> str:
    """What a new interpreter prints that finds no torch, or one in `path`."""
    code = f"import sys; sys.modules.update(dict(torch=None) if {absent} else {{}})\n{code}"
    path = os.pathsep.join([path, *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def message_of(statement: str) -> str:
    """The type and the text of what a statement raises."""
    return run(f"try: {statement}\nexcept Exception as e: print(type(e).__name__, e)")


def test_names_of_torch_are_not_there():
    assert run("import tritgemm; print(hasattr(tritgemm, 'BitLinear'))") == "False"
    assert run("from tritgemm import *; print('Packed' in globals(), 'BitLinear' in globals())") == "True False"


def test_the_hint_says_what_to_install():
    asked = message_of("import tritgemm; tritgemm.replace_linear")
    assert asked == f"AttributeError tritgemm.replace_linear: {HINT}"
    assert message_of("from tritgemm import BitLinear") == f"ImportError tritgemm.BitLinear: {HINT}"
    for statement in ("import tritgemm.torch", "from tritgemm import torch", "from tritgemm.torch import stack"):
        assert message_of(statement) == f"ModuleNotFoundError {HINT}"


@pytest.mark.parametrize("broken", ["", "raise OSError('no libcudart')", "raise ImportError('half')"])
def test_a_torch_that_does_not_work(tmp_path, broken):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(broken)
    code = "import tritgemm; from tritgemm import *; print(hasattr(tritgemm, 'BitLinear'), Packed is tritgemm.Packed)"
    assert run(code, str(tmp_path), absent=False) == "False True"


def test_importing_all_does_not_import_torch():
    assert run("from tritgemm import *; import sys; print('torch' in sys.modules)", absent=False) == "False"


def test_other_names_are_no_matter_of_torch():
    assert not hasattr(tritgemm, "bitlinear")
    with pytest.raises(ImportError, match="cannot import name 'bitlinear'"):
        from tritgemm import bitlinear  # noqa: F401
