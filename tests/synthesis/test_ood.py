"""Students of the patches equal a loop written from the paper; records and cards name the pictures."""

import math
import os
import subprocess

import nets
import pytest
import quick_python
import torch
import torch.nn.functional as F
from crop_loop import one_by_one
from noise_pictures import save
from tiny_teacher import save_teacher
from two_processes_ood import trainer

from abd_hub import Classifier, DataSpec, InputError, Ood, Trainer, TrainerOptions
from abd_hub.cli import main
from abd_hub.core import seeding
from abd_hub.core.record_file import read_record
from abd_hub.learning import checkpoint
from abd_hub.synthesis.photographs import load

QUIET = TrainerOptions(progress=False, checkpoint_every=0)


# ------------------------------------------------------------------------------------- the method at work


def paper_batch(patches, method, batch, seed):
    """One batch, image by image and pixel by pixel, from the draws of the seed."""
    sequence = []
    for epoch in range(20):
        draw = seeding.generator(seed, "ood", "epoch", epoch)
        sequence += torch.randperm(len(patches), generator=draw).tolist()
    size = method.batch_size
    images = patches[sequence[batch * size : (batch + 1) * size]].double() / 255
    draw = seeding.generator(seed, "ood", "augment", batch)
    images = one_by_one(images, method.crop_padding, method.flip, draw)
    if not method.cutmix:
        return images
    with seeding.seeded(seed, "ood", "cutmix", batch):
        a = torch.tensor(method.cutmix, dtype=torch.float64)
        share = float(torch.distributions.Beta(a, a).sample())
    middle = [int(torch.randint(side, (), generator=draw)) for side in images.shape[2:]]
    half = [int(side * math.sqrt(share)) // 2 for side in images.shape[2:]]
    mixed = images.clone()
    for row in range(images.shape[2]):
        for column in range(images.shape[3]):
            inside = [m - h <= p < m + h for p, m, h in zip((row, column), middle, half, strict=True)]
            if all(inside):
                mixed[:, :, row, column] = images.flip(0)[:, :, row, column]
    return mixed


@pytest.mark.parametrize("mixing", [0.25, 0.0])
def test_the_papers_student(mixing):
    """Adam on KL at T = 8, not scaled, written from the paper; the rate falls along a cosine."""
    run = trainer(3, torch.float64, rounds=4, cutmix=mixing, crop_padding=2)
    method, teacher = run.method, run.teacher
    twin = nets.wrn(seed=1, base_width=4, dtype=torch.float64).train()
    twin.load_state_dict(run.student.state_dict())
    run.fit()
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for index in range(4):
        adam.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * index / 4))
        for step in range(2):
            pixels = paper_batch(run.synthesizer.patches, method, 2 * index + step, 3)
            # the pixels of the run are float32
            pixels = pixels.float().double()
            with torch.no_grad():
                goal = (teacher(pixels) / 8).softmax(1)
            loss = F.kl_div((twin(pixels) / 8).log_softmax(1), goal, reduction="batchmean")
            adam.zero_grad()
            loss.backward()
            adam.step()
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(run.student.state_dict()[name], tensor, rtol=1e-6, atol=1e-8, msg=name)


def test_default_schedule_is_a_thousand_epochs_of_98_steps():
    method = Ood()
    assert method.rounds * method.student_steps == 1000 * math.ceil(50_000 / 512)
    assert (method.patches, method.batch_size) == (50_000, 512)


def test_shares_of_the_box_have_the_beta_distribution():
    synthesizer = trainer().synthesizer
    shares = torch.tensor([synthesizer._share(batch) for batch in range(1500)])
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.25 + 1)), abs=0.015)


def test_a_batch_depends_only_on_round_and_step():
    one, other = trainer(), trainer()
    seen = {}
    for index in range(3):
        one.synthesizer.begin_round(index)
        for step in range(2):
            seen[index, step] = one.synthesizer.sample(step)
            assert seen[index, step].shape == (6, 3, 8, 8)
            assert seen[index, step].dtype == torch.float32
            assert seen[index, step].min() >= 0 and seen[index, step].max() <= 1
    for index, step in [(2, 1), (0, 0), (2, 1), (1, 0)]:
        other.synthesizer.begin_round(index)
        assert torch.equal(other.synthesizer.sample(step), seen[index, step])
    assert len({tensor.numpy().tobytes() for tensor in seen.values()}) == 6


# ----------------------------------------------------------------------------------- pictures and records


def test_resume_with_another_picture_under_the_same_name_is_refused(tmp_path):
    place = save(tmp_path / "a.png")
    run = trainer(pictures=(place,))
    state = checkpoint.load(checkpoint.save(tmp_path / "checkpoints", 0, run.state_dict(), 1))[1]
    trainer(pictures=(place,)).load_state_dict(state)
    save(tmp_path / "a.png", seed=1)
    with pytest.raises(InputError, match=r"ood\.pictures: the run began with pictures of another content"):
        trainer(pictures=(place,)).load_state_dict(state)


def test_the_record_tells_the_pictures_and_the_card_what_they_are(tmp_path):
    teacher = save_teacher(tmp_path / "teacher")
    place = save(tmp_path / "street.png", 90, 70)
    output = tmp_path / "run"
    typed = [
        "distill",
        f"--output_dir={output}",
        f"--teacher.id=local-dir:{teacher}",
        "--student.architecture=wrn_10_1",
        '--student.model_args={"base_width": 4}',
        "--synthesizer=ood",
        f"--ood.pictures=[{place}, sklearn:flower.jpg]",
        "--ood.patches=40",
        "--ood.batch_size=8",
        "--ood.rounds=2",
        "--ood.student_steps=2",
        "--purification=none",
        "--trainer.progress=false",
    ]
    assert main(typed) == 0
    found = read_record(output)
    assert found.method == "ood"
    first, second = found.synthesis["pictures"]
    assert (first["name"], first["height"], first["width"]) == ("street.png", 90, 70)
    assert first["sha256"] == load("x", place).sha256
    assert (second["name"], second["height"], second["width"]) == ("sklearn:flower.jpg", 427, 640)
    assert found.synthesis["patches"] == 40
    assert str(tmp_path) not in (output / "metrics.json").read_text()
    card = (output / "README.md").read_text()
    assert "patches of photographs" in card and "synthetic" not in card
    assert "asano2023augmented" in card


def test_a_picture_from_the_hub_is_pinned_to_its_commit(tmp_path):
    """From the cache that the Hub's client keeps, without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "datasets--acme--streets"
    (repository / "snapshots" / commit / "busy").mkdir(parents=True)
    save(repository / "snapshots" / commit / "busy" / "one.png")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "from abd_hub.synthesis.photographs import load\n"
        "from abd_hub.core.errors import InputError\n"
        f"for revision in ('', '@main', '@{commit}'):\n"
        "    found = load('ood.pictures', f'hf://datasets/acme/streets{revision}/busy/one.png')\n"
        f"    assert found.revision == '{commit}', found.revision\n"
        "    print(found.sha256, tuple(found.pixels.shape))\n"
        "try:\n"
        "    load('ood.pictures', 'hf://datasets/acme/streets/busy/two.png')\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [quick_python.executable(), "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *rows, refusal = done.stdout.splitlines()
    assert len(rows) == 3 and len(set(rows)) == 1 and rows[0].endswith("(3, 80, 100)")
    assert refusal.startswith("ood.pictures: hf://datasets/acme/streets/busy/two.png cannot be fetched: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pictures": ()}, r"ood\.pictures: names no picture"),
        ({"pictures": "photo.jpg"}, r"ood\.pictures: must be a list"),
        ({"pictures": ("",)}, r"ood\.pictures: '' is empty"),
        ({"pictures": ("a.png", "a.png")}, r"ood\.pictures: 'a.png' is named twice"),
        ({"pictures": ("sklearn:dog.jpg",)}, "use sklearn:china.jpg or sklearn:flower.jpg"),
        ({"pictures": ("hf://datasets/org/name",)}, "names no file"),
        ({"pictures": ("hf://datasets",)}, r"ood\.pictures: "),
        ({"pictures": ("hf://buckets/org/name/a.png",)}, "names no file"),
        ({"patches": 0}, r"ood\.patches: must be at least 1, got 0"),
        ({"memory_limit": 0.0}, r"ood\.memory_limit: must be positive"),
        ({"crop_padding": -1}, r"ood\.crop_padding: must not be negative"),
        ({"cutmix": -0.1}, r"ood\.cutmix: must not be negative"),
        ({"temperature": 0}, r"ood\.temperature: must be positive"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(InputError, match=words):
        Ood(**settings)


def plain_teacher(channels, side):
    return Classifier(
        nets.PlainNet(), DataSpec(channels, side, side, tuple("abcde")), [0] * channels, [1] * channels
    ).freeze()


@pytest.mark.parametrize(("channels", "side", "words"), [(3, 224, "use at most 14266,"), (2, 8, "takes 2")])
def test_teachers_whose_patches_do_not_fit(channels, side, words):
    teacher = plain_teacher(channels, side)
    with pytest.raises(InputError, match=words):
        Trainer(teacher, nets.wrn(), Ood(), [], QUIET)
