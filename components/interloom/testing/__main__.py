"""``python -m interloom.testing`` is ``python -m interloom.stages`` with the probe alone."""

import sys

from interloom.stages.__main__ import leave, main
from interloom.testing.probe import REGISTRY

if __name__ == "__main__":
    leave(main(sys.argv[1:], REGISTRY))
