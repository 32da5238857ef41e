"""A teacher that one of two processes purifies; each writes down what it has then."""

import json

import nets

from abd_hub import ChannelLipschitzPruning, DistillConfig, ModelOptions, Zskt
from abd_hub.learning import distributed
from abd_hub.models.weights import weights_sha256
from abd_hub.runs.purified_teacher import purify_teacher
from abd_hub.training.running import make_accelerator


def teacher():
    return nets.randomized(nets.wrn(base_width=4)).freeze()


def purified(folder):
    """The hash of the teacher's weights and the report."""
    config = DistillConfig(
        output_dir=str(folder),
        teacher=ModelOptions(id="from-python"),
        synthesizer=Zskt(),
        purification=ChannelLipschitzPruning(deviations=1.0),
    )
    given = teacher()
    report = purify_teacher(config, given, make_accelerator(config.trainer))
    return weights_sha256(given), report


def main(folder):
    """Leaves ``purified0.json`` and ``purified1.json`` beside the folder of the run."""
    place = folder / "purified"
    place.mkdir(exist_ok=True)
    rank, _ = distributed.world()
    found = [purified(place), purified(place)]  # the second is that of a run that is resumed
    (folder / f"purified{rank}.json").write_text(json.dumps(found))
