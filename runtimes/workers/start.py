# Starts worker.py, from its compiled form where the engine keeps one beside it. Python compiles the file that it is
# started with every time, which takes longer for worker.py than all else that a short call does.
#
# The compiled form only counts if it is by this version of Python and of this worker.py; otherwise the source does.

import sys
from _frozen_importlib_external import SourceFileLoader

if __name__ == "__main__":
    # A process that loads the main module again, as those of multiprocessing do, shall find the worker in it.
    __file__ = __file__[: -len("start.py")] + "worker.py"
    exec(SourceFileLoader(__name__, __file__).get_code(__name__))
