"""The benchmark: both sides compute the same in float64, and what it writes down."""

import copy
import json
import statistics
import subprocess
import sys
from pathlib import Path

import nets
import pytest
import quick_python
import runs
import torch
from torch import nn

from abd_hub import Cmi, Dfq, Fast, Ood, SelfRetrospection, ShufflingVaccine, Trainer, Zskt
from abd_hub.core import seeding
from abd_hub.learning.augment import draw_box
from abd_hub.synthesis import views

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import benchmark  # noqa: E402
import round_costs  # noqa: E402
import round_sides  # noqa: E402
import round_sizes  # noqa: E402
import textbook_cmi  # noqa: E402
import textbook_dfq  # noqa: E402
import textbook_fast  # noqa: E402
import textbook_loops  # noqa: E402
import textbook_ood  # noqa: E402

VACCINE = ShufflingVaccine(check=False, layers=2, coefficient=2.0)


def networks():
    teacher = nets.randomized(nets.wrn(base_width=4)).double().freeze()
    return teacher, nets.wrn(seed=1, dtype=torch.float64, base_width=4)


def textbook_zskt(trainer, teacher, student, vaccinated, settings):
    """The textbook loop with the draws of ``trainer``, whose run has not begun."""
    method = trainer.method
    generator = textbook_loops.textbook_generator(
        method.z_dim, method.generator_channels, 8, nn.BatchNorm2d(3)
    ).double()
    generator.load_state_dict(trainer.synthesizer.generator.layers.state_dict())
    shuffled = trainer.defenses[0].shuffled if vaccinated else None
    drawn = zip(shuffled.layers, shuffled.permutations(0, 0), strict=True) if vaccinated else ()
    permutations = {layer.name: rows for layer, rows in drawn}

    def noise(index):
        chance = seeding.generator(0, "zskt", "z", index)
        return torch.randn(method.batch_size, method.z_dim, generator=chance).double()

    def start(calls):
        return torch.randn(1, 3, 8, 8, generator=seeding.generator(0, "self_retrospection", calls)).double()

    return textbook_loops.TextbookZskt(
        teacher,
        student,
        generator,
        method,
        noise,
        vaccine=VACCINE if vaccinated else None,
        copies=textbook_loops.shuffled_copies(teacher, permutations) if vaccinated else (),
        retrospection=settings,
        start=start,
    )


@pytest.mark.parametrize(
    ("vaccinated", "source"), [(False, None), (True, None), (True, "teacher"), (True, "student")]
)
def test_zskt_and_its_defenses_compute_what_the_textbook_loop_does(vaccinated, source):
    method = Zskt(rounds=4, batch_size=6, student_steps=3, z_dim=8, generator_channels=8)
    teacher, student = networks()
    twin_teacher, twin = copy.deepcopy(teacher), copy.deepcopy(student)
    settings = None
    if source:
        settings = SelfRetrospection(
            last_rounds=2, source=source, perturbation_steps=3, perturbed_share=0.4, learning_rate=1e-3
        )
    defenses = [VACCINE.build(teacher, 0)] if vaccinated else []
    defenses += [settings.build(teacher, 0)] if settings else []
    trainer = Trainer(teacher, student, method, defenses, runs.QUIET)
    trainer.synthesizer.generator.double()
    textbook = textbook_zskt(trainer, twin_teacher, twin, vaccinated, settings)
    trainer.fit()
    for index in range(method.rounds):
        textbook.round(index)
    assert textbook.retrospective_steps == (6 if source else 0)
    close(dict(student.named_parameters()), dict(twin.named_parameters()))
    statistics = dict(twin.named_buffers())
    close({name: found for name, found in student.named_buffers() if "running" in name}, statistics)
    theirs = {f"layers.{name}": weight for name, weight in textbook.generator.named_parameters()}
    close(nets.learned_weights(trainer.synthesizer.generator), theirs)


def close(mine, theirs):
    """Each tensor within 1e-9 of its length: Adam makes more of the rounding of a gradient near 1e-8."""
    for name, tensor in mine.items():
        apart = (tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3)
        assert apart <= 1e-9, f"{name}: {apart:.1e}"


class OurBankDraws:
    """The draws of a trainer's method with a bank, for the textbook loop."""

    def __init__(self, trainer):
        self.synthesizer, self.method = trainer.synthesizer, trainer.method

    def chance(self, index, *purpose):
        return seeding.generator(0, type(self.method).__name__, index, *purpose)

    def classes(self, index):
        self.synthesizer.begin_round(index)
        return self.synthesizer.drawn_classes()

    def crops(self, index, count):
        n = self.method.batch_size
        for step in range(self.method.student_steps):
            places = torch.randperm(count, generator=self.chance(index, "draw", step))[:n]
            chance = self.chance(index, "augment", step, 0)
            rows, columns = torch.randint(2 * self.method.crop_padding + 1, (2, n), generator=chance)
            mirrored = torch.rand(n, generator=chance) < 0.5
            yield list(zip(*[t.tolist() for t in (places, rows, columns, mirrored)], strict=True))


class OurCmiDraws(OurBankDraws):
    def generator(self, index):
        self.synthesizer.begin_round(index)
        ours, noise = self.synthesizer._fresh()
        made = textbook_loops.textbook_generator(
            self.method.z_dim, self.method.generator_channels, 8, nn.Sigmoid()
        ).double()
        made.load_state_dict(ours.layers.state_dict())
        return made, noise

    def views(self, index, step, pixels):
        chance = self.chance(index, "views", step, 0)
        whole = views.cropped(pixels, self.method.crop_padding, True, chance)
        return whole, views.resized(pixels, self.method.local_area, True, chance)

    def negatives(self, index, step, count):
        places = torch.randperm(count, generator=self.chance(index, "negatives", step))
        return places[: self.method.negatives]


class OurFastDraws(OurBankDraws):
    def noise(self, index):
        n, z_dim = self.method.synthesis_batch_size, self.method.z_dim
        return torch.randn(n, z_dim, generator=self.chance(index, "z")).double()

    def view(self, index, step, pixels):
        """Each image is cut out of its padded form by itself."""
        n, _, height, width = pixels.shape
        chance = self.chance(index, "view", step, 0)
        down, right = torch.randint(2 * self.method.crop_padding + 1, (2, n), generator=chance).tolist()
        mirrored = torch.rand(n, generator=chance) < 0.5
        padded = nn.functional.pad(pixels, (self.method.crop_padding,) * 4)
        cut = [padded[i, :, down[i] : down[i] + height, right[i] : right[i] + width] for i in range(n)]
        return torch.stack(
            [one.flip(2) if mirror else one for one, mirror in zip(cut, mirrored, strict=True)]
        )


def test_cmi_computes_what_the_textbook_loop_does(tmp_path):
    method = Cmi(
        rounds=2,
        batch_size=4,
        student_steps=3,
        generator_steps=2,
        synthesis_batch_size=6,
        z_dim=5,
        generator_channels=4,
        embedding_dim=3,
        negatives=8,
        feature_bank_size=40,
        bank_size=20,
    )
    teacher, student = networks()
    twin_teacher, twin = copy.deepcopy(teacher), copy.deepcopy(student)
    trainer = Trainer(teacher, student, method, [], runs.QUIET)
    at_work = trainer.synthesizer
    earlier = torch.rand(2, 9, at_work.statistics.width, dtype=torch.float64)
    at_work.features.add(*earlier)
    head = copy.deepcopy(at_work.head)
    textbook = textbook_cmi.TextbookCmi(
        *(twin_teacher, twin, head, method, OurCmiDraws(trainer), tmp_path, 0, tuple(earlier))
    )
    for index in range(method.rounds):
        textbook.round(index)
    trainer.fit()
    close(dict(student.named_parameters()), dict(twin.named_parameters()))
    close(at_work.head.state_dict(), head.state_dict())
    assert len(list(tmp_path.iterdir())) == len(at_work.bank()) == 12


def test_fast_computes_what_the_textbook_loop_does(tmp_path):
    method = Fast(
        rounds=4,
        warmup_rounds=1,
        batch_size=4,
        student_steps=3,
        generator_steps=3,
        synthesis_batch_size=6,
        z_dim=5,
        generator_channels=4,
        bank_size=24,
        reset_first_layer_round=0,
    )
    teacher, student = networks()
    twin_teacher, twin = copy.deepcopy(teacher), copy.deepcopy(student)
    trainer = Trainer(teacher, student, method, [], runs.QUIET)
    trainer.synthesizer.generator.double()
    generator = textbook_loops.textbook_generator(5, 4, 8, nn.Sigmoid()).double()
    generator.load_state_dict(trainer.synthesizer.generator.layers.state_dict())
    draws = OurFastDraws(trainer)
    textbook = textbook_fast.TextbookFast(twin_teacher, twin, generator, method, draws, tmp_path, 0)
    for index in range(method.rounds):
        textbook.round(index)
    trainer.fit()
    close(dict(student.named_parameters()), dict(twin.named_parameters()))
    theirs = {f"layers.{name}": weight for name, weight in generator.named_parameters()}
    close(nets.learned_weights(trainer.synthesizer.generator), theirs)
    assert len(list(tmp_path.iterdir())) == len(trainer.synthesizer.bank()) == 24


def test_dfq_computes_what_the_textbook_loop_does():
    method = Dfq(rounds=3, batch_size=6, student_steps=2, z_dim=5, generator_channels=4)
    teacher, student = networks()
    twin_teacher, twin = copy.deepcopy(teacher), copy.deepcopy(student)
    trainer = Trainer(teacher, student, method, [], runs.QUIET)
    trainer.synthesizer.generator.double()
    generator = textbook_loops.textbook_generator(5, 4, 8, nn.Sigmoid()).double()
    generator.load_state_dict(trainer.synthesizer.generator.layers.state_dict())

    def noise(*place):
        purpose = "student z" if len(place) == 2 else "z"
        chance = seeding.generator(0, "dfq", purpose, *place)
        return torch.randn(6, 5, generator=chance).double()

    textbook = textbook_dfq.TextbookDfq(twin_teacher, twin, generator, method, noise)
    for index in range(method.rounds):
        textbook.round(index)
    trainer.fit()
    close(dict(student.named_parameters()), dict(twin.named_parameters()))
    theirs = {f"layers.{name}": weight for name, weight in generator.named_parameters()}
    close(nets.learned_weights(trainer.synthesizer.generator), theirs)


def test_ood_computes_what_the_textbook_loop_does(tmp_path):
    method = Ood(rounds=3, batch_size=4, student_steps=2, patches=10, crop_padding=2)
    teacher, student = networks()
    twin_teacher, twin = copy.deepcopy(teacher), copy.deepcopy(student)
    trainer = Trainer(teacher, student, method, [], runs.QUIET)
    at_work = trainer.synthesizer

    def drawn(index, step):
        batch = 2 * index + step
        chance = seeding.generator(0, "ood", "augment", batch)
        rows, columns = torch.randint(5, (2, 4), generator=chance)
        mirrored = torch.rand(4, generator=chance) < 0.5
        crops = [column.tolist() for column in (at_work.epochs.batch(batch), rows, columns, mirrored)]
        return list(zip(*crops, strict=True)), draw_box(8, 8, at_work._share(batch), chance)

    textbook = textbook_ood.TextbookOod(
        twin_teacher,
        twin,
        method,
        at_work.patches,
        lambda index: [drawn(index, step)[0] for step in range(2)],
        lambda index, step: drawn(index, step)[1],
        tmp_path,
        0,
    )
    for index in range(method.rounds):
        textbook.round(index)
    trainer.fit()
    close(dict(student.named_parameters()), dict(twin.named_parameters()))


TINY = {
    "teacher": "wrn_10_1",
    "student": "wrn_10_1",
    "batch_size": 4,
    "synthesis_batch_size": 4,
    "student_steps": 2,
    "image_size": 8,
    "retrospective_steps": 1,
    "cmi_generator_steps": 1,
    "bank_student_steps": 2,
    "fast_generator_steps": 2,
    "negatives": 8,
    "workers": 1,
}


def run(*arguments):
    tiny = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return subprocess.run(
        [
            quick_python.executable(),
            str(RECIPES / "benchmark.py"),
            *("--device", "cpu", "--turns", "2"),
            *tiny,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_command_gives_a_table_and_a_json(tmp_path):
    file = tmp_path / "facts.json"
    done = run("--only", "zskt+sv", "--precisions", "float32", "--output", str(file))
    assert done.returncode == 0, done.stderr
    facts = json.loads(file.read_text())
    (row,) = facts["results"]
    assert row["name"] == "zskt+sv" and row["name"] in done.stdout
    assert f"x{row['ratio']:.2f}" in done.stdout
    for side in ("textbook", "ours"):
        assert len(row[f"{side}_turns_s"]) == 2
        assert abs(statistics.median(row[f"{side}_turns_s"]) / row[f"{side}_s"] - 1) < 1e-3
        assert 0 < row[f"{side}_share_of_peak"] < 1.5
        assert 1 < row[f"{side}_peak_mb"] < 2000
        assert abs(row[f"{side}_images_per_second"] * row[f"{side}_s"] / 8 - 1) < 1e-2
    assert abs(row["textbook_s"] / row["ours_s"] / row["ratio"] - 1) < 1e-2
    assert row["textbook_gflop"] > 2 * row["ours_gflop"]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--only", "zskt", "zskt+vs"],
            "--only: no method is named 'zskt+vs'; use zskt, zskt+sv, zskt+sv+sr, zskt+sv+sr-student, cmi, "
            "fast, dfq, ood",
        ),
        (["--turns", "0"], "--turns: must be at least 1, got 0"),
        (["--output", "nowhere/facts.json"], "--output: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(arguments, words, capsys):
    assert benchmark.main(arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err and not printed.out


@pytest.mark.parametrize(
    ("units", "arguments", "measured"),
    [
        (True, [], ["float32", "bf16"]),
        (False, [], ["float32"]),
        (False, ["--precisions", "bf16"], ["bf16"]),
        (True, ["--precisions", "float32"], ["float32"]),
    ],
)
def test_a_precision_that_is_emulated_is_measured_on_demand_only(
    units, arguments, measured, tmp_path, capsys, monkeypatch
):
    peaks, rows = [], []
    monkeypatch.setattr(round_sizes, "has_bf16", lambda device: units)
    monkeypatch.setattr(benchmark, "measured_peaks", lambda found: peaks.extend(found) or {})
    monkeypatch.setattr(benchmark, "compared", lambda name, size, found, *_: rows.extend(found) or [])
    file = tmp_path / "facts.json"
    assert benchmark.main(["--only", "zskt", "--output", str(file), *arguments]) == 0
    assert rows == measured
    assert set(peaks) == {"float32", *measured}, "the textbook is compared with the peak of float32"
    facts = json.loads(file.read_text())
    assert sorted([*facts["left_out"], *measured]) == ["bf16", "float32"]
    said = capsys.readouterr().out
    assert ("bf16 is left out" in said) == (not units and not arguments)


def test_an_accelerator_has_units_for_bf16():
    assert round_sizes.has_bf16(torch.device("meta"))
    assert isinstance(round_sizes.has_bf16(torch.device("cpu")), bool)


@pytest.mark.parametrize("name", ["dfq", "ood"])
def test_a_short_round_is_timed_whole(name):
    size = round_sizes.Size(**TINY)
    operations = []
    for precision in (None, "float32", "bf16"):
        loop = round_sides.side(name, size, precision)
        assert loop.turn().processor_seconds > 0
        operations.append(loop.operations())
    theirs, *ours = operations
    # Only DFQ's generator step wastes FLOPs: gradients of weights that nobody uses.
    assert all(0 < found < theirs for found in ours) if name == "dfq" else ours == [theirs, theirs]


@pytest.mark.parametrize("name", ["zskt+sv+sr", "cmi", "fast"])
def test_a_few_steps_are_scaled_to_the_papers_round(name):
    size = round_sizes.Size(**TINY)
    counts = {"zskt+sv+sr": (1, 2), "cmi": (200, 400), "fast": (10, 400)}[name]
    for precision in (None, "float32", "bf16"):
        loop = round_sides.side(name, size, precision)
        spent = loop.turn()
        assert spent.processor_seconds > 0
        assert loop.operations() > 0
        if name in round_sides.BANKS:
            steps = [spent.parts["synthesis_step"], spent.parts["student_step"]]
            expected = sum(n * step for n, step in zip(counts, steps, strict=True)) + spent.parts["once"]
            assert abs(spent.seconds / expected - 1) < 1e-6
    if name in round_sides.BANKS:
        return
    early, late = (
        {"method": "zskt+sv" + more, "precision": "bf16", "textbook_s": slow, "ours_s": 1.0}
        for more, slow in (("", 2.0), ("+sr", 82.0))
    )
    (whole,) = round_costs.whole_run([early, late])
    assert whole == {"precision": "bf16", "textbook_s": 2.6, "ours_s": 1.0, "ratio": 2.6}
