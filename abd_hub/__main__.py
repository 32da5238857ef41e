"""``python -m abd_hub`` runs the command ``abd-hub``."""

import sys

from abd_hub.cli import main

sys.exit(main())
