"""Long runs that are no tests of the suite: `python -m tests.soak NAME [options]`.

Each module of this package is one: DESCRIPTION, add_arguments(parser), run(arguments) -> exit status.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

# `support` and `soak` are top-level for the tests (pythonpath in pyproject.toml), so they are here, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_HELPERS = {"__main__", "mounted", "trend"}


def main() -> int:
    """Run the soak that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.name not in _HELPERS:
            module = importlib.import_module(f"soak.{found.name}")
            command = commands.add_parser(found.name.replace("_", "-"), help=module.DESCRIPTION)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
