"""Checkpoints that state more than they hold are refused before memory or time is taken for it."""

from __future__ import annotations

import io
import json
import resource
import zipfile

import pytest
import torch
from checkpoints import BARE, edit
from safetensors.torch import load_file, save_file

from abd_hub.core.errors import InputError
from abd_hub.hub.pull import MAX_TEXT
from abd_hub.models.bounds import MOST_WHOLE, SPARE_TENSORS, no_larger_than
from abd_hub.models.classifier import load_classifier


def refused(source, words, **options):
    """The refusal, for which less than 500 MB were taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=words) as caught:
        load_classifier(str(source), **options)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("wrn_10_1", {"base_width": 10_000}, "states far more numbers than its weights file"),
        ("wrn_10_1", {"depth": 16_006}, "depth makes 16,006 blocks"),
        ("test_vit", {"depth": 950}, "states far more tensors than its weights file"),
        ("wrn_10_1", {"base_width": 10**9}, "base_width is 1,000,000,000; use a number up to 16,384"),
        ("resnet18", {"layers": [1, 1, [10**30], 1]}, "layers is 1,000,000,000,000,000"),
        ("test_vit", {"num_heads": 0}, "cannot be built"),
        ("test_vit", {"embed_dim": [8]}, "cannot be built"),
        ("resnet18", {"block": "x"}, "cannot be built"),
    ],
)
def test_networks_of_timm_that_no_file_holds(timm_folder, architecture, arguments, words):
    edit(timm_folder / "config.json", architecture=architecture, model_args=arguments)
    refused(timm_folder, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 20_000}, "states far more numbers than its weights file"),
        ({"num_hidden_layers": 900}, "states far more tensors than its weights file"),
        ({"num_hidden_layers": 10**9}, f"states num_hidden_layers 1000000000, and {MOST_WHOLE:,}"),
    ],
)
def test_networks_of_transformers_that_no_file_holds(vit_folder, changes, words):
    edit(vit_folder / "config.json", **changes)
    refused(vit_folder, words)


def test_a_network_of_the_size_of_its_file_is_built():
    sizes = [3 * 64, 64]
    with no_larger_than(sizes):
        torch.nn.Linear(3, 64)
    with pytest.raises(InputError, match="far more tensors"), no_larger_than(sizes):
        for _ in range(SPARE_TENSORS):
            torch.nn.Linear(1, 1)
    torch.nn.Linear(1, 1)  # the count ends with the block


def test_a_large_configuration(timm_folder):
    (timm_folder / "config.json").write_bytes(b'{"a": "' + b"x" * MAX_TEXT + b'"}')
    refused(timm_folder, "config.json has more than 20 MB")


def saved(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors | changes, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


ODD = {
    "sparse": lambda: torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (3, 64)),
    "without numbers": lambda: torch.empty(3, 64, device="meta"),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_of_another_form(timm_folder, kind):
    saved(timm_folder, **{"fc.weight": ODD[kind]()})
    refused(
        timm_folder,
        "fc.weight in pytorch_model.bin is sparse, quantized or empty of numbers",
        allow_pickle=True,
    )


def test_one_number_for_a_billion(timm_folder):
    saved(timm_folder, **{"fc.weight": torch.ones(1).expand(2**15, 2**15)})
    refused(timm_folder, r"has 0\.\d MB and unpacks to 4,295 MB", allow_pickle=True)


def test_an_archive_that_is_far_larger_in_memory(timm_folder):
    file = saved(timm_folder, **{"fc.weight": torch.zeros(1_000_000)})
    packed = io.BytesIO()
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    file.write_bytes(packed.getvalue())
    refused(timm_folder, r"pytorch_model.bin has 0\.\d MB and unpacks to 4 MB", allow_pickle=True)


def test_a_head_of_one_number(timm_folder, tmp_path):
    tensors = load_file(timm_folder / "model.safetensors") | {"fc.weight": torch.zeros(())}
    save_file(tensors, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "num_classes: x.safetensors does not give it", **BARE)


def test_weights_and_statistics_without_finite_answers(timm_folder):
    tensors = load_file(timm_folder / "model.safetensors")
    save_file({name: value * 1e20 for name, value in tensors.items()}, timm_folder / "model.safetensors")
    refused(timm_folder, "gives NaN or infinity for a black image")
    save_file(tensors, timm_folder / "model.safetensors")
    refused(timm_folder, "gives NaN or infinity for a black image", std=[1e-300] * 3)


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_whole_numbers_of_400_digits(resnet_folder, number):
    file = resnet_folder / "preprocessor_config.json"
    whole = json.loads(file.read_text())
    for name, words in (("image_mean", "mean: "), ("rescale_factor", "rescale_factor of ")):
        file.write_text(json.dumps(whole | {name: [number] * 3 if name == "image_mean" else number}))
        refused(resnet_folder, words)


def test_a_deep_configuration(vit_folder):
    file = vit_folder / "config.json"
    whole = file.read_text().strip().removesuffix("}")
    file.write_text(whole + ', "x": ' + '{"a": ' * 900 + "1" + "}" * 901)
    refused(vit_folder, "transformers' own code .* cannot load vit: maximum recursion depth")
    file.write_text(whole + ', "x": ' + '{"a": ' * 900 + '{"attn_implementation": ["a/b"]}' + "}" * 901)
    refused(vit_folder, "names a kernel of the Hub, which is code and never run")


def test_a_mean_that_overflows_a_margin(timm_folder):
    file = timm_folder / "config.json"
    whole = json.loads(file.read_text())
    whole["pretrained_cfg"] |= {"mean": [1.7e308] * 3, "crop_mode": "border"}
    file.write_text(json.dumps(whole))
    refused(timm_folder, "gives NaN or infinity for a black image")
