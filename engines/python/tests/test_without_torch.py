"""What the package is where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

import tritgemm


def run(code: str) -> str:
    """What a new interpreter prints that finds no torch."""
    code = f"import sys; sys.modules['torch'] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_of_torch_are_not_there():
    assert run("import tritgemm; print(hasattr(tritgemm, 'BitLinear'))") == "False"
    assert run("from tritgemm import *; print('Packed' in globals(), 'BitLinear' in globals())") == "True False"


def test_the_hint_says_what_to_install():
    code = "import tritgemm\ntry: tritgemm.replace_linear\nexcept AttributeError as e: print(e)"
    assert run(code) == "tritgemm.replace_linear needs PyTorch: pip install 'tritgemm[torch]'"


def test_other_names_are_no_matter_of_torch():
    assert not hasattr(tritgemm, "bitlinear")
