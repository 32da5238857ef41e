"""Serves the bundled models as a Space does; on a Space the address comes from the environment."""

import os

from abd_hub_app import launch

if __name__ == "__main__":
    launch(host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
