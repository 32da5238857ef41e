"""As ``python -m abd_hub.child``, for a demo that takes seconds."""

import sys

from fault_child import shorten

from abd_hub.child import main

if __name__ == "__main__":
    shorten()
    sys.exit(main())
