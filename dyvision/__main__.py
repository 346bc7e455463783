"""``python -m dyvision``: the same as the ``dyvision`` command."""

import sys

from dyvision.cli import main

if __name__ == "__main__":
    sys.exit(main())
