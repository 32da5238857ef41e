"""This module writes the code of a card that loads the model with timm, with transformers and by hand."""

from __future__ import annotations

from abd_hub.core import registry
from abd_hub.publish.card_text import Markdown, as_code, fence

_TIMM = """import timm
from PIL import Image

model = timm.create_model("{place}", pretrained=True).eval()
channels = model.pretrained_cfg["input_size"][0]
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
image = Image.open("image.png").convert("L" if channels == 1 else "RGB")
label = int(model(transform(image)[None]).argmax())
print(model.pretrained_cfg["label_names"][label])"""

_FIRST = """import timm

model = timm.create_model("{place}", pretrained=True).eval()"""

_TRANSFORMERS = """from PIL import Image
from transformers import pipeline

classify = pipeline("image-classification", model="{place}")
print(classify(Image.open("image.png"))[0]["label"])"""

_GRAY = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{place}")
model = AutoModelForImageClassification.from_pretrained("{place}").eval()
inputs = processor(Image.open("image.png").convert("L"), return_tensors="pt")
with torch.no_grad():
    label = int(model(**inputs).logits.argmax())
print(model.config.id2label[label])"""

_BY_HAND = """import json

import timm
from PIL import Image
from safetensors.torch import load_file

{folder}
config = json.load(open(f"{{folder}}/config.json", encoding="utf-8"))
images = config["pretrained_cfg"]
channels = images["input_size"][0]
sizes = {{"num_classes": config["num_classes"], "in_chans": channels}}
model = timm.create_model(config["architecture"], **sizes | config.get("model_args", {{}})).eval()
model.load_state_dict(load_file(f"{{folder}}/model.safetensors"))
transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=images))
image = Image.open("image.png").convert("L" if channels == 1 else "RGB")
print(config["label_names"][int(model(transform(image)[None]).argmax())])"""

_DOWNLOAD = 'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo_id}")'


def snippets(architecture: str, repo_id: str | None, channels: int = 3) -> Markdown:
    """Returns three programs that load the model, each complete.

    Args:
        architecture: timm's name, or a registered student's name.
        repo_id: the model's repository on the Hub; None for code that runs in its folder.
        channels: the channels of its input; 1 needs longer code, as transformers' pipeline makes RGB images.
    """
    first = _registers(architecture)
    folder = _DOWNLOAD.format(repo_id=repo_id) if repo_id else 'folder = "."'
    programs = {
        "With timm:": _TIMM.format(place=f"hf-hub:{repo_id}" if repo_id else "local-dir:."),
        "With transformers:": (_TRANSFORMERS if channels == 3 else _GRAY).format(place=repo_id or "."),
        "By hand, from the two files `config.json` and `model.safetensors`:": _BY_HAND.format(folder=folder),
    }
    folder_note = [] if repo_id else ["Run this code in the folder of this card, next to an `image.png`."]
    blocks = [f"{title}\n\n{fence(first + code, 'python')}" for title, code in programs.items()]
    return Markdown("\n\n".join([*folder_note, *blocks, _needed_packages(architecture, bool(first))]))


def first_lines(architecture: str, repo_id: str | None) -> Markdown:
    """Returns the lines that load the model with timm, without an image; arguments as above."""
    code = _FIRST.format(place=f"hf-hub:{repo_id}" if repo_id else "local-dir:.")
    note = [] if repo_id else ["Run this code in the folder of this card."]
    return Markdown("\n\n".join([*note, fence(_registers(architecture) + code, "python")]))


def transformers_snippet(repo_id: str | None, channels: int = 3) -> Markdown:
    """Returns a program that loads a model that transformers alone can build; arguments as above."""
    code = (_TRANSFORMERS if channels == 3 else _GRAY).format(place=repo_id or ".")
    note = [] if repo_id else ["Run this code in the folder of this card, next to an `image.png`."]
    return Markdown("\n\n".join([*note, fence(code, "python")]))


def _registers(architecture: str) -> str:
    """Returns the line that registers the architecture with timm; "" for timm's own architectures."""
    home = {entry.name: entry.module for entry in registry.catalog("students")}.get(
        architecture.partition(".")[0]
    )
    if home is None:
        return ""
    ours = home.startswith("abd_hub.")
    package = "the package abd-hub" if ours else "this module"
    return f"import {'abd_hub.students' if ours else home}  # needed: {package} adds the architecture\n"


def _needed_packages(architecture: str, registered: bool) -> str:
    if not registered:
        return f"timm and transformers include {as_code(architecture)}, so no other package is needed."
    return (
        f"timm does not include {as_code(architecture)}, so the first line of each program imports it. "
        "That package has to be installed. A model of timm's own architectures, such as `resnet18`, loads "
        "without it."
    )
