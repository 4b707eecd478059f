"""The command ``tritgemm``, as ``python -m tritgemm``: the program that the crate
tritgemm-cli installs."""

from __future__ import annotations

import sys

from ._tritgemm import run_command


def main() -> int:
    """Runs it with the arguments of this process."""
    return run_command(["tritgemm", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
