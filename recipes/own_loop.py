"""The two defences as plug-ins of a loop of one's own: no trainer, no configuration of ours.

The loop is a bare data-free one: a generator seeks images on which the student disagrees, the student follows
the teacher. Only the lines with a comment are new.

    python recipes/own_loop.py hf-hub:org/name [ROUNDS]
"""

import sys

import timm
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Batch, SelfRetrospection, ShufflingVaccine, load_classifier


def main(teacher_id: str, rounds: int) -> None:
    torch.manual_seed(0)
    teacher = load_classifier(teacher_id)
    size, classes = teacher.spec.height, teacher.spec.num_classes
    student = timm.create_model("resnet18", num_classes=classes)
    generator = nn.Sequential(nn.Linear(64, 3 * size * size), nn.Unflatten(1, (3, size, size)), nn.Sigmoid())
    g_adam = torch.optim.Adam(generator.parameters(), lr=1e-3)
    s_adam = torch.optim.Adam(student.parameters(), lr=1e-3)
    vaccine = ShufflingVaccine(check_batches=rounds // 2, check_ignored=1).build(teacher)  # the vaccine
    retrospection = SelfRetrospection().build(teacher)  # the retrospection

    for index in range(rounds):
        images = generator(torch.randn(16, 64))
        logits = teacher(images)
        loss = -F.l1_loss(student(images), logits)
        loss = loss + vaccine.penalty(images, logits)  # the vaccine
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()

        images = images.detach()
        logits = logits.detach()
        s_adam.zero_grad()
        F.l1_loss(student(images), logits).backward()
        if index >= rounds - 2:  # late in the run
            retrospection.add_gradients(student, Batch(images, logits))  # the retrospection
        s_adam.step()
        print(f"round {index + 1}: {float(loss):.4f}")

    for plugin in (vaccine, retrospection):  # one that did nothing says so
        print(plugin.report().sentence)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
