"""Every command of abd-hub that writes, in a form that takes a few seconds."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from plugin_rows import SYNTHESIZERS
from sweep_files import BASE
from tiny_teacher import save_teacher

SMALL = ("--trainer.checkpoint_every", "1", "--trainer.progress", "false")
MEASURED = {
    "dataset": "digits",
    "limit": 40,
    "triggers": [{"name": "badnet_sq", "target": 0, "options": {"size": 2, "margin": 0}}],
}
STUDENT = {"architecture": "wrn_10_1", "model_args": {"base_width": 4}}
TRAINER = {"log_every": 1, "checkpoint_every": 1, "checkpoint_limit": 2, "progress": False}
MORE = {
    "dafl": {"defenses": ["universal_direction"], "universal_direction": {"batches": 2, "steps": 2}},
    "dfad": {"defenses": ["dhbe"], "dhbe": {"generator_every": 2, "patch_size": 3, "z_dim": 4}},
    "zskt": {
        "defenses": ["shuffling_vaccine", "self_retrospection"],
        "shuffling_vaccine": {"check": False, "layers": 2},
        "self_retrospection": {"last_rounds": 3, "perturbation_steps": 2, "fixed_point_steps": 2},
    },
}
"""Defenses of some methods, which leave evidence."""


@dataclass(frozen=True)
class Scene:
    """Is one command; ``{made}`` in its words is the folder or file that it makes."""

    name: str
    words: tuple[str, ...]
    made: str = "made"
    needs: tuple[str, ...] = ("teacher",)
    settings: dict = field(default_factory=dict)
    """Content of run.yaml."""
    resumes: bool = False
    replaces: bool = False
    """Whether ``made`` is there before, from an earlier command."""
    repository: bool = False
    """Whether the results are in a repository of the Hub."""
    alone: bool = True
    """Whether a second command in the same folder is refused."""
    faults: tuple[str, ...] = ()
    """The faults that it meets; none means all of them."""

    def command(self, made="", resume=False):
        """The words of the command, for this place in place of ``made``."""
        words = [word.format(made=made or self.made) for word in self.words]
        return [*words, "--resume", "true"] if resume else words


def distillation(method, **more):
    """The settings of a short run of a method."""
    own = {"real": {"dataset": "digits"}}.get(method, {})
    settings = {**SYNTHESIZERS[method], **own, "rounds": 5}
    return {
        "teacher": {"id": "local-dir:./teacher"},
        "student": STUDENT,
        "synthesizer": method,
        method: settings,
        "evaluation": MEASURED,
        "trainer": TRAINER,
        **{"purification": "none", **MORE.get(method, {}), **more},
    }


def run_of(name, method, **more):
    """The scene of a distillation."""
    words = ("distill", "--config", "run.yaml", "--output_dir", "{made}")
    return Scene(name, words, settings=distillation(method, **more), resumes=True)


POISON = {
    "data": {"dataset": "digits"},
    "network": STUDENT,
    "poison": {"trigger": "badnet_sq", "options": {"size": 2, "margin": 0}, "target": 3},
    "recipe": "fast",
    "fast": {"epochs": 3, "batch_size": 256, "crop_padding": 0, "flip": False},
    "evaluation": {"dataset": "digits", "limit": 40},
    "trainer": {"checkpoint_every": 1, "progress": False},
}
MISLED = {
    "trigger": "cl",
    "labels": "clean_label",
    "perturbation": 8,
    "perturbation_steps": 2,
    "target": 3,
    "rate": 0.3,
}
TRAIN = ("poison", "--config", "run.yaml", "--output_dir", "{made}")
SWEPT = {
    "output_dir": "made",
    "config": BASE | {"trainer": TRAINER},
    "grid": {"seed": [0, 1]},
    "retries": 5,
    "resources": {"cpus": 1, "gpus": 0},
}
SCENES = {
    scene.name: scene
    for scene in (
        Scene(
            "inspect",
            ("inspect", "local-dir:teacher", "--output_dir", "{made}", "--seed", "1"),
            replaces=True,
            alone=False,
        ),
        Scene("purify", ("purify", "local-dir:teacher", "--output_dir", "{made}", "--force")),
        *(run_of(f"distill {method}", method) for method in SYNTHESIZERS),
        run_of("distill purified", "zskt", purification="trigger_unlearning"),
        Scene("poison", TRAIN, settings=POISON, needs=(), resumes=True),
        Scene("poison misled", TRAIN, settings=POISON | {"poison": MISLED}, needs=(), resumes=True),
        Scene(
            "compare",
            (
                *("compare", "local-dir:teacher", "local-dir:student", "--dataset", "digits"),
                *("--limit", "40", "--trigger", "badnet_sq", "--target", "0", "--picture", "{made}"),
            ),
            made="made.png",
            needs=("teacher", "student"),
            replaces=True,
            alone=False,
        ),
        Scene("card", ("card", "{made}", "--license", "mit"), needs=(), replaces=True, alone=False),
        Scene("export-bank", ("export-bank", "student", "{made}"), needs=("student",)),
        Scene(
            "export", ("export", "local-dir:student", "{made}"), "made.pt2", ("student",), replaces=True,
            alone=False,
        ),
        Scene("push", ("push", "student", "{made}"), "", ("student",), repository=True, alone=False),
        Scene("sweep", ("sweep", "run.yaml"), settings=SWEPT),
        Scene("demo", ("demo", "--output-dir", "{made}"), needs=()),
        Scene("page", ("page", "{made}"), needs=(), faults=("kill", "kill at a write")),
    )
}  # fmt: skip


def make_examples(place, run):
    """What the commands need: a teacher, a finished run with a bank, and results of earlier commands.

    ``run`` carries out a command in a folder, to its end.
    """
    save_teacher(place / "teacher")
    write_settings(place, distillation("cmi"))
    run(["distill", "--config", "run.yaml", "--output_dir", "student"], place)
    run(["inspect", "local-dir:teacher", "--output_dir", "before-inspect"], place)
    shutil.copytree(place / "student", place / "before-card")
    picture = SCENES["compare"].command("before-compare.png")
    run([*picture, "--limit", "30"], place)
    run(["export", "local-dir:teacher", "before-export.pt2"], place)
    for name in ("before-compare.png", "before-export.pt2"):
        (place / name).rename(place / name.partition(".")[0])


def prepare(scene, examples, folder):
    """Puts what the command needs into a new folder."""
    for name in scene.needs:
        shutil.copytree(examples / name, folder / name)
    if scene.settings:
        write_settings(folder, scene.settings)
    if scene.replaces:
        before = examples / f"before-{scene.name}"
        (shutil.copytree if before.is_dir() else shutil.copy)(before, folder / scene.made)


def write_settings(folder, settings):
    """Writes run.yaml."""
    Path(folder, "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
