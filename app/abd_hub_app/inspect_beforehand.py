"""Inspects the first of the bundled models, for the page to show before anybody has inspected one.

``python -m abd_hub_app.inspect_beforehand`` replaces the folder ``models/inspected``. Run it after the
bundled models have changed: an inspection of other weights is not shown.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from abd_hub_app import inspect_work
from abd_hub_app.bench import BEFOREHAND
from abd_hub_app.examples import load_examples
from abd_hub_app.inspect_request import USUAL_STEPS, InspectRequest, write_pictures
from abd_hub_app.run_job import INSPECT
from abd_hub_app.shelf import load_shelf
from abd_hub_app.sources import first_choice, from_shelf


def main() -> None:
    """Inspects, and replaces the folder."""
    shelf = load_shelf()
    name = first_choice(shelf).name
    asked = InspectRequest(steps=USUAL_STEPS, seed=0, minutes=1)
    settings = {"id": from_shelf(shelf, name).id, "seed": asked.seed, "steps": asked.steps}

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pictures([example.picture for example in load_examples(shelf)], place)
        inspect_work.inspect(settings, place)
        shutil.rmtree(BEFOREHAND, ignore_errors=True)
        shutil.copytree(place / INSPECT.folder, BEFOREHAND)
    print(f"wrote {BEFOREHAND}")


if __name__ == "__main__":
    main()
