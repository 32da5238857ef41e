"""A process of its own that pulls classifiers: a JSON job a line comes in, a JSON answer a line goes out.

The Hub's client reads its environment at import, so it needs a process whose environment is the test's.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
from dataclasses import asdict

import torch
from accelerate.state import AcceleratorState, PartialState

from abd_hub import hub_requests, load_classifier
from abd_hub.cli import main
from abd_hub.types import InputError


def load(source, **options):
    """The classifier's reference and a hash of its logits, or the error's line."""
    try:
        classifier = load_classifier(source, **options)
    except InputError as error:
        return {"error": str(error)}
    spec = classifier.spec
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        logits = classifier(torch.rand(5, spec.channels, spec.height, spec.width, generator=draw))
    return {**asdict(classifier.ref), "logits": hashlib.sha256(logits.numpy().tobytes()).hexdigest()}


def command(arguments):
    """``abd-hub`` with these arguments: exit code and what it shows."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        code = main(arguments)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    return {"code": code, "shown": shown.getvalue()}


def serve():
    """Until the input ends."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        os.environ["HF_TOKEN"] = job["token"]
        hub_requests.WAITS = tuple(job["waits"])
        answer = load(job["source"], **job["options"]) if "source" in job else command(job["command"])
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # at once: an orderly exit of all that is loaded takes seconds


if __name__ == "__main__":
    serve()
