"""The lab: a real API server, Envoy and Pulumi engine in one private network namespace."""

import sys

# Before anything newer is even parsed: `python3 -m lab.setup` runs on whatever Python the machine has.
if sys.version_info < (3, 11):  # noqa: UP036 - the very check
    sys.exit(
        "lab: {} is Python {}.{}; 3.11 or newer is needed (make PYTHON=/path/to/python3.11 ...)".format(
            sys.executable, *sys.version_info[:2]
        )
    )
