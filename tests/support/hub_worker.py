"""A process of its own that talks to a Hub: a JSON job a line comes in, a JSON answer a line goes out.

The Hub's client reads its environment at import, so it needs a process whose environment is the test's.
"""

import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import accelerator_state
import pytest
import quick_python
import torch
from missing import NO_SMALL_DISK

from abd_hub import load_classifier, load_images, push_to_hub
from abd_hub.cli import main
from abd_hub.core.errors import InputError
from abd_hub.hub import requests as hub_requests

ROOT = Path(__file__).parents[2]
SHORT = (0.05, 0.05, 0.05)
"""Seconds between tries, in place of those that a person would wait."""


class Worker:
    """A child process with an environment of its own, see ``serve``."""

    def __init__(self, environment, prefix=()):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*prefix, sys.executable if prefix else quick_python.executable(), __file__],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, token="", waits=SHORT, **job):
        """Does not wait for the answer."""
        self.process.stdin.write(json.dumps({"token": token, "waits": waits, **job}) + "\n")
        self.process.stdin.flush()

    def ask(self, token="", waits=SHORT, **job):
        """The answer."""
        self.begin(token, waits, **job)
        answer = self.process.stdout.readline()
        assert answer, self.process.stderr.read()
        assert not token or token not in answer
        return json.loads(answer)

    def load(self, source, token="", waits=SHORT, **options):
        return self.ask(token, waits, source=source, options=options)

    def refuses(self, *args, **options):
        """The one line that says why."""
        answer = self.load(*args, **options)
        assert set(answer) == {"error"}, answer
        assert "\n" not in answer["error"] and "http" not in answer["error"]
        return answer["error"]

    def close(self):
        """Ends the process; gives what it wrote to its error stream."""
        return self.process.communicate(timeout=300)[1]


def small_disk(place, size):
    """Makes ``place``; gives the words that start a process which sees a disk of this size there."""
    place.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(place))}" + ' && exec "$@"'
    prefix = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip(NO_SMALL_DISK)
    return prefix


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


def through_others(repo_id, revision):
    """A hash of the logits by timm, transformers and its pipeline, each loading by itself, and the labels."""
    import timm
    from transformers import AutoModelForImageClassification, pipeline

    import abd_hub.students  # noqa: F401

    place = f"hf-hub:{repo_id}" + (f"@{revision}" if revision else "")
    models = {
        "timm": timm.create_model(place, pretrained=True),
        "auto": AutoModelForImageClassification.from_pretrained(repo_id, revision=revision),
        "pipeline": pipeline("image-classification", model=repo_id, revision=revision, device="cpu").model,
    }
    settings = models["timm"].pretrained_cfg
    channels, height, width = settings["input_size"]
    pixels = torch.rand(5, channels, height, width, generator=torch.Generator().manual_seed(7))
    mean, std = (torch.tensor(settings[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    found = {}
    for name, model in models.items():
        # A copy, because weights in a mapped file are not aligned, and oneDNN then rounds differently.
        with torch.no_grad():
            answer = copy.deepcopy(model).eval()((pixels - mean) / std)
        logits = getattr(answer, "logits", answer)
        found[name] = hashlib.sha256(logits.numpy().tobytes()).hexdigest()
    labels = models["auto"].config.id2label
    return {**found, "labels": [labels[index] for index in sorted(labels)]}


def images(dataset, split, **options):
    """A hash of what ``load_images`` reads, the label names and the commit, or the error's line."""
    try:
        data = load_images(dataset, split, **options)
    except InputError as error:
        return {"error": str(error)}
    digest = hashlib.sha256(data.images.numpy().tobytes()).hexdigest()
    return {"sha256": digest, "names": data.names, "commit": data.ref.revision, "count": len(data)}


def command(arguments):
    """``abd-hub`` with these arguments: exit code and what it shows."""
    shown = io.StringIO()
    logging.getLogger().handlers.clear()  # or the log would go where the first command's went
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        code = main(arguments)
    accelerator_state.forget()
    return {"code": code, "shown": shown.getvalue()}


def push(folder, repo_id, token):
    """``push_to_hub`` with a token of its own: the commit, or the error's line."""
    try:
        return {"commit": push_to_hub(folder, repo_id, token=token).commit}
    except InputError as error:
        return {"error": str(error)}


def serve():
    """Until the input ends."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        os.environ["HF_TOKEN"] = job["token"]
        hub_requests.WAITS = tuple(job["waits"])
        if "source" in job:
            answer = load(job["source"], **job["options"])
        elif "others" in job:
            answer = through_others(*job["others"])
        elif "push" in job:
            answer = push(*job["push"])
        elif "images" in job:
            answer = images(*job["images"], **job.get("options", {}))
        else:
            answer = command(job["command"])
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # at once: an orderly exit of all that is loaded takes seconds


if __name__ == "__main__":
    serve()
