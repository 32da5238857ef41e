"""``abd-hub purify`` on a teacher with a planted backdoor, and the folder that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import accelerator_state
import pytest
import torch
from card_parts import front_matter, front_matter_end, split_fences
from huggingface_hub import ModelCard
from PIL import Image
from planted import planted_timm
from short_inspection import shorten

from abd_hub import (
    TriggerInversion,
    TriggerUnlearning,
    load_classifier,
    load_images,
    purify_model,
    save_timm_folder,
)
from abd_hub.cli import main
from abd_hub.config.purifying import parse_purify
from abd_hub.core.record_file import read_purified_record
from abd_hub.models.weights import file_sha256, weights_sha256
from abd_hub.publish.own_parts import FREE_BEGINS, is_untouched

FAST = ["--trigger_unlearning.steps=8", "--trigger_unlearning.candidates=40"]
DATA = ["--images", "digits", "--split", "train"]
FILES = {"README.md", "config.json", "model.safetensors", "purification.json"}


@pytest.fixture(autouse=True)
def own_accelerator():
    """Each command makes an accelerator of its own, as in a process of its own."""
    yield
    accelerator_state.forget()


@pytest.fixture(scope="module", autouse=True)
def short_inspections():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr, patch.setitem)
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The folder of a timm model of the digits that reads a purple corner as 7."""
    folder = tmp_path_factory.mktemp("models") / "planted"
    save_timm_folder(planted_timm(0, poisoned=True), folder)
    return folder


@pytest.fixture(scope="module")
def purified(planted, tmp_path_factory):
    """What ``abd-hub purify`` writes for it."""
    folder = tmp_path_factory.mktemp("purified") / "copy"
    assert main(["purify", str(planted), "--output_dir", str(folder), *DATA, *FAST]) == 0
    accelerator_state.forget()
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of the same model without the corner."""
    folder = tmp_path_factory.mktemp("models") / "clean"
    save_timm_folder(planted_timm(0, poisoned=False), folder)
    return folder


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def refused(capsys, *typed):
    capsys.readouterr()
    assert main([str(word) for word in typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_folder(planted, purified):
    record = read_purified_record(purified)
    report = record.purification
    assert report["changed"] and report["suspects"] == [7] and report["inspected"]["flagged"]
    drawn = {
        f"samples/trigger_{one['family']}_{one['label']}.png"
        for one in report["inspected"]["triggers"]
        if one["size"] is not None
    }
    assert names(purified) == FILES | drawn and drawn
    assert (record.teacher.id, record.model.id) == ("planted", "copy")
    assert record.settings["steps"] == 8 and record.library == "timm" and not record.forced
    assert [file.name for file in purified.parent.iterdir()] == ["copy"], "nothing temporary is left"


def test_the_copy_has_a_reference_of_its_own(planted, purified):
    record = read_purified_record(purified)
    copy, teacher = load_classifier(str(purified)), load_classifier(str(planted))
    assert record.model.sha256 == file_sha256([purified / "model.safetensors"]) == copy.ref.sha256
    assert record.teacher.sha256 == teacher.ref.sha256 != copy.ref.sha256
    assert copy.spec == teacher.spec
    pixels = load_images("digits", "test").pixels()[:50]
    assert not torch.equal(copy(pixels), teacher(pixels))


def test_the_card(purified):
    card = (purified / "README.md").read_text()
    assert is_untouched(card)
    data = ModelCard(card).data
    assert data.tags == ["image-classification", "timm", "purified", "abd-hub"]
    assert data.base_model is None, "the teacher is no model of the Hub"
    report = read_purified_record(purified).purification
    body, blocks = split_fences(front_matter_end(card))
    assert "# copy, a purified copy of planted\n" in body
    assert "- The inspection `trigger\\_inversion`" not in body, "names are code"
    assert "The inspection `trigger_inversion` of the teacher flagged class 7 (7): " in body
    assert "The purification `trigger_unlearning` made a changed copy of the teacher: " in body
    assert f"class to {100 * report['agreement']:.1f} % of images that were held back" in body
    again = report["reinspected"]
    said = "flagged class 7 (7)" if again["flagged"] else "flagged no class"
    assert f"The same inspection of the copy {said}: " in body
    assert "does not show that the copy is clean" in body
    assert "Nothing was measured on test data" in body
    assert "(samples/trigger_mask_7.png)" in body
    cited = dict(blocks)["bibtex"]
    assert cited.count("@inproceedings{wang2019neuralcleanse") == 1
    assert "model-index" not in front_matter(card)[0]


def test_abd_hub_card_makes_it_again(purified, capsys):
    file = purified / "README.md"
    made = file.read_text()
    own = f"{FREE_BEGINS}\nMine.\n"
    file.write_text(made.replace(f"{FREE_BEGINS}\n", own))
    try:
        assert main(["card", str(purified), "--repo-id", "me/copy", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["kind"], told["own_text"]) == ("purified model", True)
        assert 'create_model("hf-hub:me/copy"' in file.read_text()
        assert main(["card", str(purified)]) == 0
        assert file.read_text() == made.replace(f"{FREE_BEGINS}\n", own)
        file.write_text(made.replace("seed 0", "seed 1"))
        assert "--force" in refused(capsys, "card", purified)
    finally:
        file.write_text(made)


def test_the_same_seed_gives_the_same_bits(planted, purified, tmp_path):
    assert main(["purify", str(planted), "--output-dir", str(tmp_path / "copy"), *DATA, *FAST]) == 0
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (
        purified / "model.safetensors"
    ).read_bytes()


def test_what_is_not_flagged_is_left_alone(clean, tmp_path, capsys):
    command = ["purify", str(clean), "--output_dir", str(tmp_path / "copy"), *DATA, *FAST]
    assert main(command) == 0
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert line.startswith("no copy was written: ") and "--force" in line
    assert list(tmp_path.iterdir()) == []
    accelerator_state.forget()
    assert main([*command, "--force", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["changed"] and not report["inspected"]["flagged"]
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "of the teacher flagged no class: " in card
    assert "to be purified whether or not it was flagged" in card


def test_a_purification_without_an_inspection(planted, tmp_path, capsys):
    pruned = ["--purification", "channel_lipschitz_pruning", "--channel_lipschitz_pruning.deviations=1"]
    assert main(["purify", str(planted), "--output_dir", str(tmp_path / "copy"), *pruned, *DATA]) == 0
    assert capsys.readouterr().out.startswith("channel_lipschitz_pruning: ")
    assert names(tmp_path / "copy") == FILES
    record = read_purified_record(tmp_path / "copy")
    assert record.images == "digits, split train" and record.purification["inspected"] is None
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "- The teacher was not inspected.\n" in card and "- The copy was not inspected.\n" in card
    assert "zheng2022clp" in card and "wang2019" not in card
    accelerator_state.forget()

    gentle = ["--purification=channel_lipschitz_pruning", "--channel_lipschitz_pruning.deviations=99"]
    assert main(["purify", str(planted), "--output_dir", str(tmp_path / "none"), *gentle]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no copy was written: ") and "--force" not in line
    assert not (tmp_path / "none").exists()


def test_in_python_the_copy_is_named_apart(planted):
    teacher = load_classifier(str(planted))
    before = weights_sha256(teacher.model)
    images = load_images("digits", "train").images[:200]
    settings = {
        "purification": TriggerUnlearning(steps=2, candidates=10),
        "inspection": TriggerInversion(steps=3),
    }
    copy, report = purify_model(teacher, images=images, force=True, **settings)
    assert report.changed and weights_sha256(teacher.model) == before
    assert (copy.ref.id, copy.ref.sha256) == ("planted-purified", weights_sha256(copy.model))
    assert teacher.ref.id == "planted" and copy.ref.sha256 != teacher.ref.sha256


WRONG = {
    "no folder": ([], "output_dir: is missing"),
    "a folder that exists": (["--output_dir", "{tmp}"], "exists already; use another --output_dir"),
    "a file": (["--output_dir", __file__], "is a file"),
    "a near name": (
        ["--output_dir", "{tmp}/x", "--purification", "trigger_unlearn"],
        "purification: 'trigger_unlearn' is unknown; did you mean trigger_unlearning",
    ),
    "settings of another": (
        ["--output_dir", "{tmp}/x", "--channel_lipschitz_pruning.deviations=2"],
        "is set, but purification is trigger_unlearning",
    ),
    "no step": (
        ["--output_dir", "{tmp}/x", "--trigger_unlearning.steps=0"],
        "trigger_unlearning.steps: must be at least 1, got 0",
    ),
    "a near setting": (
        ["--output_dir", "{tmp}/x", "--trigger_unlearning.step=3"],
        "trigger_unlearning.steps",
    ),
    "a split alone": (["--output_dir", "{tmp}/x", "--split", "train"], "split: it belongs to a data set"),
    "no such model": (["--output_dir", "{tmp}/x", "--mean=[0]"], "model: "),
}


@pytest.mark.parametrize(("typed", "said"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(typed, said, tmp_path, capsys):
    words = [word.replace("{tmp}", str(tmp_path)) for word in typed]
    assert said in refused(capsys, "purify", "/nowhere/model", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    """Its stem is replaced, and no name of timm builds it."""
    import timm
    from checkpoints import LABELS, cifar_resnet
    from timm.models import save_for_hf

    model = cifar_resnet(3)
    model.pretrained_cfg["architecture"] = "resnet10t"
    monkeypatch.setattr("abd_hub.runs.purify.purify_model", lambda *_, **__: pytest.fail("it was begun"))
    monkeypatch.setattr(timm, "is_model", lambda name, real=timm.is_model: "cifar" not in name and real(name))
    data = {"input_size": (3, 16, 16), "mean": (0.1,) * 3, "std": (0.4,) * 3}
    folder = tmp_path / "model"
    save_for_hf(model, str(folder), {"label_names": list(LABELS)}, safe_serialization=True, data_config=data)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "resnet18"}))
    line = refused(capsys, "purify", folder, "--output_dir", tmp_path / "copy")
    assert "model: model cannot be written" in line and "abd_hub.purify_model in Python" in line
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_was_changed_is_refused(purified, tmp_path, capsys):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(purified, folder)
    record = json.loads((folder / "purification.json").read_text())
    for change, said in (
        ({"model": record["model"] | {"sha256": "0" * 64}}, "purification.json, so the numbers belong"),
        ({"kind": "else"}, "kind: this is no record of a copy"),
        ({"more": 1}, "more"),
        ({"purification": record["purification"] | {"agreement": "high"}}, "purification.agreement"),
        ({"purification": {}}, "purification.name"),
        ({"purification": record["purification"] | {"inspected": [1]}}, "purification.inspected"),
    ):
        (folder / "purification.json").write_text(json.dumps(record | change))
        assert said in refused(capsys, "card", folder, "--force"), said


def test_examples_of_the_screen(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["purify", "--help"])
    assert ended.value.code == 0
    examples = capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()
    assert [parse_purify(line.split()[2:]).output_dir for line in examples] == ["purified", "pruned"]


def test_a_model_of_transformers_stays_one(tmp_path, capsys):
    from checkpoints import LABELS, MEAN, STD, shaken
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = ResNetConfig(**sizes, id2label=dict(enumerate(LABELS)))
    shaken(ResNetForImageClassification(config)).save_pretrained(tmp_path / "teacher")
    processor = ConvNextImageProcessor(size={"shortest_edge": 24}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path / "teacher")

    pruned = ["--purification", "channel_lipschitz_pruning", "--channel_lipschitz_pruning.deviations=1"]
    copy = tmp_path / "copy"
    assert main(["purify", str(tmp_path / "teacher"), "--output_dir", str(copy), *pruned]) == 0
    assert names(copy) == FILES | {"preprocessor_config.json"}
    record = read_purified_record(copy)
    assert (record.library, record.model.architecture) == ("transformers", "ResNetForImageClassification")
    assert load_classifier(str(copy)).ref.sha256 == record.model.sha256
    card = (copy / "README.md").read_text()
    assert "import timm" not in card and ModelCard(card).data.library_name == "transformers"
    (program,) = [text for language, text in split_fences(front_matter_end(card))[1] if language == "python"]
    picture = f"{tmp_path}/image.png"
    Image.new("RGB", (20, 30), "red").save(picture)
    program = program.replace('model="."', f'model="{copy}"').replace("image.png", picture)
    capsys.readouterr()
    exec(compile(program, "card", "exec"), {})
    assert capsys.readouterr().out.strip() in LABELS
    assert main(["card", str(copy)]) == 0 and (copy / "README.md").read_text() == card
