"""`python -m multifd`: the same as the `multifd` command."""

import sys

from multifd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
