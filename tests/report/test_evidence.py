"""What defenses leave to be looked at: numbers against direct computation, exact pixels, strangers' files."""

import copy
import json

import accelerator_state
import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor

from abd_hub import (
    DistillConfig,
    InputError,
    ModelOptions,
    Real,
    SelfRetrospection,
    ShufflingVaccine,
    StudentOptions,
    Trainer,
    TrainerOptions,
    UniversalDirection,
    Zskt,
    create_student,
    distill,
    read_evidence,
)
from abd_hub.core.contracts import Batch
from abd_hub.core.evidence import Divergence, Evidence
from abd_hub.models.weights import weights_sha256
from abd_hub.publish.card_file import read_finished
from abd_hub.publish.uploads import Existing, read_upload
from abd_hub.report.evidence import gather_images, write_evidence
from abd_hub.report.grids import VERMILION

METHOD = Zskt(rounds=5, batch_size=8, student_steps=2, z_dim=8, generator_channels=4, attention_weight=0)
DEFENSES = (
    ShufflingVaccine(check=False, layers=2),
    SelfRetrospection(last_rounds=2, perturbation_steps=2, fixed_point_steps=2),
    UniversalDirection(begin=0.5, batches=2, steps=2, step_images=10),
)
OPTIONS = TrainerOptions(progress=False, checkpoint_every=0, log_every=1)


def make_teacher():
    return nets.randomized(nets.wrn(base_width=4)).freeze()


def textbook(teacher, vaccine, images, draw):
    """KL(T || mean of K copies whose weights are really permuted), and whether both give the same class."""
    permutations = vaccine.shuffled.permutations(vaccine.seed, draw)
    answers = []
    for k in range(vaccine.shuffled.copies):
        model = copy.deepcopy(teacher)
        for layer, permutation in zip(vaccine.shuffled.layers, permutations, strict=True):
            twin = model.get_submodule(layer.name)
            twin.weight.data = twin.weight.data[:, permutation[k]]
        answers.append(model(images))
    shuffled, plain = torch.stack(answers).mean(0), teacher(images)
    kl = F.kl_div(shuffled.log_softmax(1), plain.log_softmax(1), reduction="none", log_target=True).sum(1)
    return kl, shuffled.argmax(1) == plain.argmax(1)


def threshold(kl):
    log_kl = kl.log10()
    return float(10 ** (log_kl.mean() - 3 * log_kl.std()))


def test_the_divergences_are_those_of_copies_with_permuted_weights():
    teacher = nets.plain(nets.randomized(nets.PlainNet())).freeze()
    vaccine = ShufflingVaccine(check=False, layers=2).build(teacher, seed=3)
    images = nets.pixels(130)
    found = vaccine.evidence(images).divergence
    kl, agrees = textbook(teacher, vaccine, images, 0)
    torch.testing.assert_close(torch.tensor(found.kl, dtype=torch.float64), kl.detach())
    assert found.suspicious == tuple(agrees.tolist()) and 0 < sum(found.suspicious) < 130
    assert found.threshold == pytest.approx(threshold(kl))
    assert (found.judged, found.draw, found.used) == (False, 0, True)
    assert vaccine.counted == 0, "looking is not counted as use"


@pytest.mark.parametrize(("share", "used"), [(0.0, True), (0.9, False)])
def test_after_a_check_the_threshold_is_that_of_its_images(share, used):
    teacher = nets.plain(nets.randomized(nets.PlainNet())).freeze()
    settings = ShufflingVaccine(check_batches=6, check_ignored=2, check_tries=3, check_share=share, layers=2)
    first, vaccine = settings.build(teacher, seed=1), settings.build(teacher, seed=1)
    batches = [nets.pixels(64, seed=index) for index in range(6)]
    for images in batches:
        first.penalty(images, teacher(images))
    vaccine.load_state_dict(first.state_dict())
    images = nets.pixels(20, seed=9)
    found = vaccine.evidence(images).divergence
    draw = vaccine.draw if used else vaccine.shares.index(max(vaccine.shares))
    assert (found.judged, found.draw, found.used) == (True, draw, used)
    judged = torch.cat([textbook(teacher, vaccine, batch, draw)[0] for batch in batches[2:]])
    assert found.threshold == pytest.approx(threshold(judged))
    torch.testing.assert_close(
        torch.tensor(found.kl, dtype=torch.float64), textbook(teacher, vaccine, images, draw)[0].detach()
    )


def test_the_perturbation_is_the_last_steps_in_pixel_units_and_outlives_a_stop():
    teacher = nets.wrn(seed=1, dtype=torch.float64).freeze()
    student = nets.wrn(dtype=torch.float64).train()
    settings = SelfRetrospection(perturbation_steps=2)
    retrospection, twin, resumed = (settings.build(teacher) for _ in range(3))
    assert retrospection.evidence(nets.pixels(2)) is None
    batches = [nets.pixels(8, seed=index) for index in range(2)]
    for images in batches:
        retrospection.add_gradients(student, Batch(images, teacher(images).detach()))
    resumed.load_state_dict(retrospection.state_dict())
    twin.calls = 1
    with torch.no_grad():
        clean = student(batches[1])
    expected = (
        twin.perturbation(student, batches[1], clean).detach()[0] * torch.tensor(nets.STD)[:, None, None]
    )
    torch.testing.assert_close(resumed.evidence(batches[0]).pattern, expected, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def own_accelerator():
    """Outlives each test, because the trainer of ``run`` does."""
    yield
    accelerator_state.forget()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with all defenses, and a trainer that has done the same without a folder."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    config = DistillConfig(
        output_dir=str(folder),
        teacher=ModelOptions(id="from-python"),
        student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
        synthesizer=METHOD,
        purification="none",
        defenses=DEFENSES,
        trainer=OPTIONS,
    )
    distill(config, make_teacher())
    teacher = make_teacher()
    student = create_student("wrn_10_1", nets.SPEC, nets.MEAN, nets.STD, seed=0, model_args={"base_width": 4})
    trainer = Trainer(teacher, student, METHOD, [d.build(teacher, 0) for d in DEFENSES], OPTIONS)
    trainer.fit()
    return folder, trainer


def tiles(folder, shown):
    with Image.open(folder / "samples" / "synthetic_images.png") as picture:
        assert picture.format == "PNG"
        levels = np.asarray(picture.convert("RGB"))
    for place in range(shown.count):
        top, left = place // shown.columns * shown.height, place % shown.columns * shown.width
        yield levels[top : top + shown.height, left : left + shown.width]


def as_levels(images):
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_a_run_leaves_what_its_defenses_found_and_nothing_else_changes(run):
    folder, trainer = run
    assert weights_sha256(trainer.student) == weights_sha256(read_student(folder))
    images = gather_images(trainer.synthesizer, trainer.defense.drawn, METHOD.rounds, real=False)
    assert images.shape == (40, 3, 8, 8), "all five rounds"
    assert torch.equal(images[:8], trainer.last_images)
    assert len(images.flatten(1).unique(dim=0)) == 40
    left = [defense.evidence(images) for defense in trainer.defenses]
    found = read_evidence(folder)
    assert found.divergence == left[0].divergence
    assert len(found.divergence.kl) == found.images.count == 40
    for tile, image in zip(tiles(folder, found.images), as_levels(images), strict=True):
        assert (tile == image).all()
    assert [pattern.defense for pattern in found.patterns] == ["self_retrospection", "universal_direction"]
    for pattern, made in zip(found.patterns, left[1:], strict=True):
        assert pattern.largest == pytest.approx(float(made.pattern.abs().max()))
        assert pattern.norm == pytest.approx(float(made.pattern.norm()))
        with Image.open(folder / "samples" / f"pattern_{pattern.defense}.png") as picture:
            shown = np.asarray(picture.convert("RGB"))[::16, ::16] / 255
        scaled = made.pattern.permute(1, 2, 0).numpy() / pattern.largest
        assert np.abs(2 * shown - 1 - scaled).max() < 1.01 / 255
    assert found.patterns[1].norm == pytest.approx(1)


@pytest.mark.parametrize(("judged", "used"), [(True, True), (True, False), (False, True)])
def test_only_a_vaccine_that_was_judged_and_used_warns(tmp_path, judged, used):
    images = torch.full((4, 3, 8, 8), 0.5)
    found = Divergence((0.1,) * 4, (True,) * 4, 0.02, judged, 0, used)
    (tmp_path / "samples").mkdir()
    write_evidence(tmp_path, images, [("shuffling_vaccine", Evidence(divergence=found))])
    with Image.open(tmp_path / "samples" / "suspicious.png") as picture:
        levels = np.asarray(picture.convert("RGB"))
    assert bool((levels == ImageColor.getrgb(VERMILION)).all(-1).any()) is (judged and used)
    assert read_evidence(tmp_path).divergence == found, "the numbers stay"


def read_student(folder):
    from abd_hub import load_classifier

    return load_classifier(f"local-dir:{folder}")


def test_card_and_push_take_it_along(run):
    folder, _ = run
    card = (folder / "README.md").read_text()
    for name in ("suspicious", "divergence", "pattern_self_retrospection", "pattern_universal_direction"):
        assert f"(samples/{name}.png)" in card
    assert "pattern_shuffling_vaccine" not in card
    assert "synthetic_images" not in card, "a sheet for programs"
    upload = read_upload(folder)
    samples = {file.name for file in (folder / "samples").iterdir()}
    assert {name for name in upload.files if name.startswith("samples/")} == {f"samples/{n}" for n in samples}
    assert read_finished(folder).render(None, None, card) == card


def test_evidence_of_an_earlier_run_goes_from_the_hub(run, tmp_path):
    upload = read_upload(run[0])
    without = {name: file for name, file in upload.files.items() if not name.startswith("samples/")}
    record = (run[0] / "metrics.json").read_text()
    stale = copy.copy(upload)
    object.__setattr__(stale, "files", without)
    gone = stale.stale(Existing(record=record, names=[*upload.files, "samples/mine.png"]))
    assert set(gone) == set(upload.files) - set(without)


def test_of_somebodys_images_few_are_kept():
    teacher = make_teacher()
    method = Real(dataset="x", rounds=9, batch_size=16, student_steps=1, crop_padding=0)
    images = (nets.pixels(160) * 255).to(torch.uint8)
    trainer = Trainer(teacher, nets.wrn(seed=1), method, [], OPTIONS, images=images)
    kept = gather_images(trainer.synthesizer, trainer.defense.drawn, 9, real=True)
    assert kept.shape == (32, 3, 8, 8)


def test_without_defenses_nothing_is_left(tmp_path):
    config = DistillConfig(
        output_dir=str(tmp_path / "run"),
        teacher=ModelOptions(id="from-python"),
        student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
        synthesizer=METHOD,
        purification="none",
        trainer=OPTIONS,
    )
    distill(config, make_teacher())
    assert read_evidence(tmp_path / "run") is None
    names = {file.name for file in (tmp_path / "run" / "samples").iterdir()}
    assert names == {"curves.png", "training_images.png"}


def changed(data, place, value):
    data = copy.deepcopy(data)
    *path, last = place
    inner = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    return json.dumps(data)


BAD = {
    "another version": (["schema_version"], 2, "schema_version"),
    "no number": (["divergence", "kl", 0], "0.1", "kl"),
    "infinity": (["divergence", "kl", 0], 10**400, "kl"),
    "a length that differs": (["divergence", "suspicious"], [True], "suspicious"),
    "too many": (["divergence", "kl"], [0.1] * 5000, "kl"),
    "a negative divergence": (["divergence", "kl", 0], -1, "divergence"),
    "a threshold of nowhere": (["divergence", "threshold"], 1e300, "divergence"),
    "no images": (["images"], None, "images"),
    "more images than were judged": (["images", "count"], 41, "images"),
    "no column": (["images", "columns"], 0, "images"),
    "a huge image": (["images", "height"], 10**9, "images"),
    "a path for a name": (["patterns", 0, "defense"], "../../x", "patterns"),
    "a name twice": (["patterns", 0, "defense"], "universal_direction", "patterns"),
    "an unknown field": (["file"], "/etc/passwd", "file"),
    "a list for everything": ([], [], "object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_strangers_evidence_is_refused(run, tmp_path, case):
    place, value, said = BAD[case]
    data = json.loads((run[0] / "samples" / "evidence.json").read_text())
    (tmp_path / "samples").mkdir()
    text = changed(data, place, value) if place else json.dumps(value)
    (tmp_path / "samples" / "evidence.json").write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        read_evidence(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", '{"divergence": NaN}', "[" * 100_000, " " * 1_000_001])
def test_what_is_no_json_or_too_large_is_refused(tmp_path, text):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "evidence.json").write_text(text)
    with pytest.raises(InputError, match=r"evidence\.json"):
        read_evidence(tmp_path)
