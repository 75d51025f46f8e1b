"""`python -m pointsman.integrations.cli`."""

import sys

from pointsman.integrations.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
