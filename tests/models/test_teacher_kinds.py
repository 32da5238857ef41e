"""Every kind of checkpoint is the teacher of a short run in which both defenses are at work."""

from __future__ import annotations

import pytest
import timm
import torch
from checkpoints import BARE, LABELS, MEAN, SPEC, STD, TinyNet, cifar_resnet, shaken
from safetensors.torch import load_file
from timm.models import save_for_hf

from abd_hub import (
    Classifier,
    DistillConfig,
    ModelOptions,
    SelfRetrospection,
    ShufflingVaccine,
    StudentOptions,
    TrainerOptions,
    Zskt,
    create_student,
    distill,
)
from abd_hub.models.classifier import load_classifier, weights_sha256
from abd_hub.students.resnet_cifar import use_cifar_stem

STUDENT = {"architecture": "wrn_10_1", "model_args": {"base_width": 4}}


def save_timm(model, folder):
    data = {"input_size": (3, 16, 16), "mean": MEAN, "std": STD}
    save_for_hf(model, str(folder), {"label_names": list(LABELS)}, safe_serialization=True, data_config=data)
    return ModelOptions(id=f"local-dir:{folder}")


def student_of_ours(request, folder):
    return ModelOptions(id=f"local-dir:{request.getfixturevalue('timm_folder')}")


def timm_resnet(request, folder):
    return save_timm(shaken(timm.create_model("test_resnet", num_classes=3)), folder)


def timm_vit(request, folder):
    return save_timm(shaken(timm.create_model("test_vit", num_classes=3, img_size=16, patch_size=4)), folder)


def cifar_stem(request, folder):
    return save_timm(cifar_resnet(3), folder)


def transformers_resnet(request, folder):
    return ModelOptions(id=str(request.getfixturevalue("resnet_folder")))


def transformers_vit(request, folder):
    return ModelOptions(id=str(request.getfixturevalue("vit_folder")))


def state_dict(request, folder):
    model = shaken(timm.create_model("wrn_10_1", num_classes=3))
    torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "weights.pth")
    bare = {name: list(value) if isinstance(value, tuple) else value for name, value in BARE.items()}
    return ModelOptions(id=str(folder / "weights.pth"), allow_pickle=True, labels=list(LABELS), **bare)


def plain_module(request, folder):
    return Classifier(shaken(TinyNet()), SPEC, MEAN, STD)


KINDS = [
    student_of_ours,
    timm_resnet,
    timm_vit,
    cifar_stem,
    transformers_resnet,
    transformers_vit,
    state_dict,
    plain_module,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_distilled_with_both_defenses(kind, request, tmp_path):
    (tmp_path / "teacher").mkdir()
    given = kind(request, tmp_path / "teacher")
    teacher = given if isinstance(given, Classifier) else None
    before = teacher and weights_sha256(teacher.model)
    vaccine = ShufflingVaccine(check=False, layers=2)
    config = DistillConfig(
        output_dir=str(tmp_path / "out"),
        teacher=ModelOptions(id="plain") if teacher else given,
        student=StudentOptions(**STUDENT),
        synthesizer=Zskt(rounds=3, batch_size=8, student_steps=2, attention_weight=0),
        defenses=[vaccine, SelfRetrospection(last_rounds=1, perturbation_steps=2, fixed_point_steps=2)],
        purification="none",
        trainer=TrainerOptions(progress=False, checkpoint_every=0),
    )
    record = distill(config, teacher)
    assert [(report.name, report.active) for report in record.defenses] == [
        ("shuffling_vaccine", True),
        ("self_retrospection", True),
    ]
    assert record.defenses[1].facts == {"student_steps": 2}
    assert len(record.defenses[0].facts["shuffled_layers"]) == 2 or kind is plain_module
    assert before == (teacher and weights_sha256(teacher.model))

    fresh = create_student(spec=SPEC, mean=MEAN, std=STD, seed=0, **STUDENT).model.state_dict()
    trained = load_file(tmp_path / "out" / "model.safetensors")
    assert set(trained) == set(fresh)
    for name, value in trained.items():
        assert value.isfinite().all(), name
        assert not torch.equal(value, fresh[name]), name


def test_names_of_pytorch_cifar(tmp_path):
    """A ResNet with a 3x3 stem, whose blocks say shortcut and whose head is linear."""
    own = timm.create_model("resnet18", num_classes=10)
    use_cifar_stem(own)
    renamed = {
        "module." + name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in own.state_dict().items()
    }
    torch.save({"net": renamed, "acc": 95.1}, tmp_path / "ckpt.pth")
    bare = {"architecture": "resnet18", "mean": [0.0] * 3, "std": [1.0] * 3, "input_size": 32}
    read = load_classifier(str(tmp_path / "ckpt.pth"), allow_pickle=True, **bare)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(read(pixels), own.eval()(pixels))
