"""Plugs the two defenses into a loop of your own, without a trainer or a configuration of this package.

The bare loop follows DFQ (Choi et al., CVPRW 2020). A generator makes images on which the student disagrees
with the teacher. They fit the statistics of the teacher's BatchNorm layers and show all classes equally
often. The student then follows the teacher. Only the eight lines marked "# plug-in" are new.

    python recipes/own_loop.py hf-hub:org/name [ROUNDS]
"""

import sys

import timm
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Batch, SelfRetrospection, ShufflingVaccine, load_classifier  # plug-in


def main(teacher_id: str, rounds: int) -> None:
    torch.manual_seed(0)
    teacher = load_classifier(teacher_id)
    size, classes = teacher.spec.height, teacher.spec.num_classes
    student = timm.create_model("resnet18", num_classes=classes)
    generator = nn.Sequential(nn.Linear(64, 3 * size * size), nn.Unflatten(1, (3, size, size)), nn.Sigmoid())
    g_adam = torch.optim.Adam(generator.parameters(), lr=1e-3)
    s_adam = torch.optim.Adam(student.parameters(), lr=1e-3)
    statistics = watch_batch_norm(teacher)
    vaccine = ShufflingVaccine(check_batches=rounds // 2, check_ignored=1).build(teacher)  # plug-in
    retrospection = SelfRetrospection().build(teacher)  # plug-in

    for index in range(rounds):
        images = generator(torch.randn(16, 64))
        statistics.clear()
        logits = teacher(images)
        loss = 10 * sum(statistics) - divergence(logits, student(images)) + 20 * imbalance(logits)
        loss = loss + vaccine.penalty(images, logits)  # plug-in
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()

        images, logits = images.detach(), logits.detach()
        s_adam.zero_grad()
        divergence(logits, student(images)).backward()
        if index >= rounds - 2:  # plug-in: late in the run
            retrospection.add_gradients(student, Batch(images, logits))  # plug-in
        s_adam.step()
        print(f"round {index + 1}: {loss.item():.4f}")

    for plugin in (vaccine, retrospection):  # plug-in: the report names a defense that did nothing
        print(plugin.report().sentence)  # plug-in


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def imbalance(logits: torch.Tensor) -> torch.Tensor:
    mean = logits.softmax(1).mean(0)
    return (mean * mean.log()).sum()


def watch_batch_norm(teacher: nn.Module) -> list[torch.Tensor]:
    """Makes each pass add every BatchNorm layer's distance of the batch from the running statistics."""
    found: list[torch.Tensor] = []

    def note(layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        found.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(note)
    return found


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or not all(word.isdecimal() for word in sys.argv[2:]):
        sys.exit("usage: python recipes/own_loop.py TEACHER [ROUNDS], where ROUNDS is a whole number")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
