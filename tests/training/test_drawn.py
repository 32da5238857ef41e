"""No network ever sees an image that the defenses have not: not in synthesis, not in the student's steps."""

import pytest
import torch
from plugin_rows import ROUNDS, make, names

from abd_hub.core.contracts import DefensePlugin
from abd_hub.core.records import DefenseReport

MARK = 7.0
WITHOUT_STUDENT = {"dafl"}
"""Methods whose images learn from the teacher alone."""


def is_marked(pixels):
    return (pixels[:, 0, 0, 0] == MARK).tolist()


class Marker(DefensePlugin):
    """Puts a value that no image has into the corner of every image, once."""

    name = "marker"

    def __init__(self):
        self.penalties = []
        """Whether each image of each penalty was marked."""

    def drawn(self, pixels):
        assert not any(is_marked(pixels)), "the images have been through the defenses before"
        marked = pixels.clone()
        marked[:, 0, 0, 0] = MARK
        return marked

    def penalty(self, pixels, teacher_logits, finished=True):
        self.penalties += is_marked(pixels)
        return super().penalty(pixels, teacher_logits, finished)

    def report(self):
        return DefenseReport(self.name, True, "marked")


def watched(name):
    """A short run, and for each network whether its images were marked, by part of the round."""
    trainer = make(name, [])
    marker = Marker()
    trainer.defenses.append(marker)
    seen = {"synthesis": {"teacher": [], "student": []}, "steps": {"teacher": [], "student": []}}
    part = {"now": "steps"}
    for network in ("teacher", "student"):
        classifier = getattr(trainer, network)

        def note(_, inputs, classifier=classifier, network=network):
            pixels = inputs[0] * classifier.std + classifier.mean
            seen[part["now"]][network] += is_marked(pixels.round(decimals=4))

        classifier.model.register_forward_pre_hook(note)
    update = trainer.synthesizer.update

    def noted(networks):
        part["now"] = "synthesis"
        figures = update(networks)
        part["now"] = "steps"
        return figures

    trainer.synthesizer.update = noted
    return trainer, marker, seen


@pytest.mark.parametrize("name", names("synthesizers"))
def test_every_pass_sees_images_that_went_through_the_defenses_once(name):
    trainer, marker, seen = watched(name)
    trainer.fit()
    assert trainer.round == ROUNDS
    passes = {(part, network): marks for part, found in seen.items() for network, marks in found.items()}
    assert all(all(marks) for marks in passes.values()), {
        place: f"{marks.count(False)} of {len(marks)} images unmarked" for place, marks in passes.items()
    }
    assert passes["steps", "teacher"] and passes["steps", "student"]
    learns = trainer.method.learns_images
    assert bool(passes["synthesis", "teacher"]) == learns
    assert bool(passes["synthesis", "student"]) == (learns and name not in WITHOUT_STUDENT)
    assert all(marker.penalties) and bool(marker.penalties) == learns
    assert torch.tensor(is_marked(trainer.last_images)).all()
