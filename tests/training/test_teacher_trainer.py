"""Training a teacher: schedule, exact resume, what is left alone."""

import os
import signal

import nets
import pytest
import torch

from abd_hub import FastTeacherRecipe, InputError, Interrupted, TeacherRecipe, TeacherTrainerOptions
from abd_hub.learning import checkpoint
from abd_hub.learning.schedules import cosine, warmup_cosine
from abd_hub.training.teacher_trainer import TeacherTrainer, train_teacher

RECIPE = TeacherRecipe(epochs=12, batch_size=16, learning_rate=0.05, crop_padding=1)
QUIET = TeacherTrainerOptions(progress=False, checkpoint_every=0)


def separable(n=80):
    """Each class is bright in its own row, which neither mirroring nor a small shift hides."""
    labels = torch.arange(n) % 5
    images = (nets.pixels(n) * 60).to(torch.uint8)
    rows = torch.tensor([0, 2, 4, 6])
    for image, label in zip(images, labels.tolist(), strict=True):
        if label < 4:
            image[:, rows[label] : rows[label] + 2] = 220
    return images, labels


def trained(seed=0, recipe=RECIPE):
    torch.manual_seed(0)
    images, labels = separable()
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    return train_teacher(teacher, images, labels, recipe, seed)


def test_the_teacher_learns_and_is_frozen():
    teacher = trained()
    assert not any(module.training for module in teacher.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    images, labels = separable()
    right = teacher(images.float() / 255).argmax(1) == labels
    assert right.float().mean() > 0.95


def test_the_weights_follow_from_the_seed():
    short = TeacherRecipe(epochs=2, batch_size=16, learning_rate=0.05)
    one, same, other = (trained(seed, short).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_images_and_labels_are_left_alone():
    images, labels = separable()
    before = images.clone(), labels.clone()
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    train_teacher(teacher, images, labels, TeacherRecipe(epochs=1, batch_size=16), 0)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


class Signals(torch.nn.Module):
    """Asks the process to stop in its n-th forward pass, as Ctrl-C would; has dropout, which draws."""

    def __init__(self, after):
        super().__init__()
        self.net = nets.PlainNet()
        self.dropout = torch.nn.Dropout(0.3)
        self.left = after

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.net(self.dropout(x))


def trainer(folder, stop_after=0):
    torch.manual_seed(0)
    images, labels = separable()
    recipe = TeacherRecipe(epochs=3, batch_size=16, learning_rate=0.05, crop_padding=1)
    teacher = nets.plain(Signals(stop_after), torch.float32)
    return TeacherTrainer(teacher, images, labels, recipe, QUIET, seed=4, folder=folder)


@pytest.mark.parametrize("stop_after", [1, 7, 10, 14])
def test_stopped_anywhere_and_resumed_gives_the_same_bits(tmp_path, stop_after):
    """Five steps an epoch: in the first step, in the middle, in the last of an epoch, one before the end."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trainer(tmp_path / "whole").fit()
    with pytest.raises(Interrupted, match="stopped in epoch"):
        trainer(tmp_path / "parts", stop_after).fit()
    resumed = trainer(tmp_path / "parts")
    parts = resumed.fit(resume=True)
    assert resumed.step == 0
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    without_time = [[line.split(', "seconds"')[0] for line in log] for log in logs]
    assert without_time[0] == without_time[1]
    assert len(without_time[0]) == 3


def test_checkpoints_are_written_every_so_many_epochs(tmp_path):
    images, labels = separable()
    options = TeacherTrainerOptions(progress=False, checkpoint_every=2, checkpoint_limit=2)
    recipe = TeacherRecipe(epochs=5, batch_size=16)
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    TeacherTrainer(teacher, images, labels, recipe, options, folder=tmp_path).fit()
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert names == ["round-00000020", "round-00000025"], "after the 4th and the last epoch of 5 steps"


def test_a_diverging_run_ends_with_a_remedy():
    images, labels = separable()
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    with pytest.raises(InputError, match="diverged; lower learning_rate"):
        train_teacher(teacher, images, labels, TeacherRecipe(epochs=2, batch_size=16, learning_rate=1e30), 0)


def test_too_few_images_for_a_batch_are_refused():
    images, labels = separable(15)
    with pytest.raises(InputError, match="batch_size: 16 is more than the 15 images"):
        train_teacher(nets.plain(nets.PlainNet(), torch.float32), images, labels, RECIPE, 0)


def test_the_learning_rate_rises_and_falls():
    """Hand-computed: a rise over a fifth of ten epochs to 0.4, half of it in the middle of the fall."""
    rates = [warmup_cosine(0.4, done, 10, 0.2) for done in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0], abs=1e-12)
    assert all(warmup_cosine(0.4, t / 7, 10, 0) == cosine(0.4, t / 7, 10) for t in range(70))


def test_the_fast_recipe_takes_a_tenth_of_the_epochs():
    paper, fast = TeacherRecipe(), FastTeacherRecipe()
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.weight_decay) == (200, 128, 0.1, 5e-4)
    assert (paper.warmup, paper.nesterov, paper.label_smoothing) == (0, False, 0)
    assert fast.epochs * 10 == paper.epochs


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"crop_padding": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"warmup": 1.0},
        {"label_smoothing": -0.1},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TeacherRecipe(**wrong)
