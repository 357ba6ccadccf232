"""The ids of the errors that a process makes, in a file of the folder RAISED_IDS: Python runs this when it starts.

tests/conftest.py puts this folder on PYTHONPATH, for workers of pytest and for commands that tests start.
"""

import contextlib
import os
import sys
from importlib.util import find_spec


def record(errors):
    """Note the id of each error of rnn_export.errors, once."""
    made, plain = set(), errors.RnnExportError.__init__

    def noted(self, message="", *, id=""):
        plain(self, message, id=id)
        if id and id not in made:
            made.add(id)
            with (
                contextlib.suppress(KeyError, OSError),
                open(os.path.join(os.environ["RAISED_IDS"], str(os.getpid())), "a") as file,
            ):
                file.write(f"{id}\n")

    errors.RnnExportError.__init__ = noted


class OfErrors:
    """Records once the module is imported, and imports nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name != "rnn_export.errors":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            record(module)

        spec.loader.exec_module = exec_module
        return spec


if "RAISED_IDS" in os.environ:
    sys.meta_path.insert(0, OfErrors())
