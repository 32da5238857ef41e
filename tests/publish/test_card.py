"""The card has its golden text, claims no more than its record and shows hostile names as text."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from card_parts import front_matter, front_matter_end, split_fences, without_folds
from huggingface_hub import ModelCard
from records import LABELS, make_record, make_teacher_record

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataRef, DefenseReport, EvalReport, ModelRef, Rate, TriggerReport
from abd_hub.publish.card import render_card
from abd_hub.publish.card_text import fence
from abd_hub.publish.own_parts import FREE_BEGINS, FREE_ENDS, free_text, is_untouched, with_free_text
from abd_hub.publish.teacher_card import render_teacher_card

pytestmark = pytest.mark.hub_client
GOLDEN = Path(__file__).parent / "golden" / "card.md"
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b\n\n# title",
    "![x](http://evil.test/x.png)",
    "</td>&lt;`code`*bold*",
    "</summary></details>",
    "\u202egnp.exe\x00\ud800",
    "www.evil.test @somebody https://evil.test",
    "x" * 5000,
    "---\nlicense: mit\n---",
    "!!python/object/apply:os.system [ls]",
    "&anchor [*anchor, {a: b}] # no comment",
    "```\n<b>out</b>\n````",
    f"{FREE_BEGINS}\n{FREE_ENDS}",
)
PICTURES = (("samples/training images.png", "Synthetic images"), ("samples/curves.png", "Curves"))


def unevaluated():
    return dataclasses.replace(make_record(), data=None, teacher_report=None, student_report=None)


def test_golden():
    card = render_card(make_record(), labels=LABELS, pictures=PICTURES, license_id="apache-2.0")
    # The layout of the YAML belongs to huggingface_hub and changes with its version; its content is ours.
    assert front_matter(card) == front_matter(GOLDEN.read_text(encoding="utf-8"))


def test_the_settings_and_the_facts_of_defenses_are_the_records():
    record = make_record()
    body, blocks = split_fences(front_matter_end(render_card(record, labels=LABELS)))
    method = record.config["zskt"]
    for name in ("rounds", "batch_size", "student_steps", "learning_rate", "loss", "temperature"):
        assert f"| {name} | `{method[name]}` |" in body
    assert "noise_length" not in body, "a setting that only this method has stands in the YAML"
    assert yaml.safe_load(dict(blocks)["yaml"]) == record.config
    assert "  - draw: `1`\n  - check\\_shares: \\[0.0123, 0.0456\\]\n" in body
    assert "one run with seed 0" in body


def test_pictures_and_training_data_are_told():
    picture = {"name": "sklearn:china.jpg", "revision": None, "sha256": "7" * 64, "height": 427, "width": 640}
    ood = dataclasses.replace(
        make_record(), method="ood", synthesis={"pictures": [picture], "patches": 50_000}
    )
    card = render_card(ood, labels=LABELS)
    assert f"| `sklearn:china.jpg` | - | `{'7' * 64}` | `427` | `640` |" in card
    assert "- patches: `50000`" in card
    data = DataRef("org/cifar", "train", "5eed", "e" * 40, 50000)
    real = dataclasses.replace(make_record(), method="real", training_data=data)
    card = render_card(real, labels=LABELS)
    assert f"real images of `org/cifar`, split `train`, revision `{'e' * 40}` (50000 images" in card
    assert ModelCard(card).data.datasets == ["org/cifar"]


def test_what_was_local_is_named():
    assert "local files" not in render_card(make_record(), labels=LABELS)
    record = dataclasses.replace(
        make_record(),
        method="ood",
        teacher=ModelRef("teacher", "resnet18", None, "a" * 64),
        control=ModelRef("clean", "resnet18", None, "9" * 64),
        synthesis={"pictures": [{"name": "sklearn:china.jpg"}, {"name": "crowd.jpg"}]},
    )
    card = render_card(record, labels=LABELS)
    assert "local files of the original machine" in card
    assert "only: `teacher.id`, `evaluation.control.id`, `ood.pictures`. Run the command" in card


def test_base_model_only_for_what_came_from_the_hub():
    local = dataclasses.replace(make_record(), teacher=ModelRef("models/teacher", "resnet18"))
    assert ModelCard(render_card(local, labels=LABELS)).data.base_model is None
    pinned = dataclasses.replace(
        make_record(), teacher=ModelRef("hf-hub:org/a@" + "c" * 40, "resnet18", "c" * 40)
    )
    assert ModelCard(render_card(pinned, labels=LABELS)).data.base_model == "org/a"


def test_nothing_is_claimed_where_nothing_was_evaluated():
    card = render_card(unevaluated(), labels=LABELS)
    front, body = front_matter(card)
    assert "model-index" not in front
    assert "Nothing was evaluated" in body
    assert "no claim about backdoors" in body
    assert "lower asr" not in body.lower()
    assert "Wilson" not in body


def test_no_attack_is_not_a_good_result():
    record = make_record()
    record = dataclasses.replace(
        record, student_report=dataclasses.replace(record.student_report, triggers=())
    )
    card = render_card(record, labels=LABELS)
    assert "No attack was tried on the student" in card
    assert "| not measured |" in card


@pytest.mark.parametrize("record", [make_record(), unevaluated()])
def test_the_word_is_never_safe(record):
    assert not re.search(
        r"\b(safe|secure|clean model|backdoor-free)\b", render_card(record, labels=LABELS), re.I
    )


@pytest.mark.parametrize(
    ("architecture", "ours"), [("wrn_16_1", True), ("resnet18_cifar", True), ("resnet18", False)]
)
def test_our_architectures_need_our_package(architecture, ours):
    record = dataclasses.replace(make_record(), student=ModelRef("x", architecture))
    card = render_card(record, labels=LABELS)
    programs = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(programs) == 4
    for program in programs:
        compile(program, "card", "exec")
        assert program.startswith("import abd_hub.students  # needed") is ours
    assert ("has to be installed" in card) is ours


def test_real_images_are_not_called_synthetic():
    card = render_card(dataclasses.replace(make_record(), method="real"), labels=LABELS)
    assert "data-free" not in card.replace("Data-Free", "").split("<summary>Citation")[0]
    assert "synthetic" not in card


def test_repo_id():
    assert 'create_model("hf-hub:me/student"' in render_card(
        make_record(), labels=LABELS, repo_id="me/student"
    )
    with pytest.raises(InputError, match="repo_id"):
        render_card(make_record(), labels=LABELS, repo_id='x"); evil("')


def record_of(text):
    """Returns a record that has this text wherever a stranger may write."""
    record = make_record()
    hostile = TriggerReport(text, 0, {text: text}, *[record.student_report.accuracy] * 2)
    report = EvalReport(record.student_report.accuracy, (hostile,))
    data = DataRef(text, text, text, text, 1)
    return dataclasses.replace(
        record,
        method=text,
        teacher=ModelRef(text, text, text, text),
        student=ModelRef(text, text, text, text),
        data=data,
        student_report=report,
        teacher_report=report,
        defenses=(DefenseReport(text, True, text, {text: text, "list": [text]}),),
        versions={text: text},
        device=text,
        training_data=data,
        control=ModelRef(text, text, text, text),
        synthesis={"pictures": [{"name": text, text: text}], text: [text]},
        config={text: {"loss": text, "rounds": [text]}, "labels": [text]},
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_stays_text(text):
    record = record_of(text)
    card = render_card(record, labels=(text, "b"), pictures=[("a b).png", text)])
    card.encode("utf-8")
    data = ModelCard(card).data
    assert data.base_model is None
    assert data.license is None
    assert data.datasets is None
    assert len(data.eval_results) == 3
    body, blocks = split_fences(front_matter_end(card))
    assert [language for language, _ in blocks] == [*["python"] * 4, "bash", "yaml", "bibtex"]
    assert yaml.safe_load(blocks[5][1]) == record.config
    assert free_text(card) == "" and is_untouched(card)
    # No markup beyond our own: as many headings, pictures and table cells as in a card without such names.
    body = without_folds(body)
    assert len(re.findall(r"^#", body, re.M)) == 1 + len(re.findall(r"^## ", body, re.M))
    assert not re.search(r"<[a-z/!]", body, re.I)
    assert len(re.findall(r"(?<!\\)!\[", body)) == 1
    tables = re.findall(r"(?:^\|.*\n)+", body, re.M)
    cells = [{len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()} for table in tables]
    assert cells == [{5}, {5}, {3}, {4}, {3}]
    assert not re.search(r"\bhttps?://|\bwww\.|[\x00-\x09\x0b-\x1f\u202e]|(?<![\w{])@some", body)
    assert max(map(len, body.splitlines())) < 1500


@pytest.mark.parametrize("text", ["plain", "```", "a\n````\n<b>", "` `` `"])
def test_nothing_ends_a_block_but_its_end(text):
    outside, blocks = split_fences(fence(text, "text"))
    assert outside == "" and blocks == [("text", text)]


def test_a_license_is_a_name():
    assert ModelCard(render_card(make_record(), labels=LABELS, license_id="openrail++")).data.license
    for wrong in ("", "MIT\nbase_model: x", "a b", "<b>"):
        with pytest.raises(InputError, match="license"):
            render_card(make_record(), labels=LABELS, license_id=wrong)


def test_the_users_text_is_apart_from_what_was_made():
    card = render_card(make_record(), labels=LABELS)
    assert is_untouched(card) and free_text(card) == ""
    own = "\n## My notes\n\n* anything <b>at all</b>\n"
    written = with_free_text(card, own)
    assert free_text(written) == own and is_untouched(written)
    assert with_free_text(written, "") == card
    assert not is_untouched(written.replace("0.827", "0.927", 1))
    assert not is_untouched(written.replace(FREE_ENDS + "\n", ""))
    assert not is_untouched(written + "more\n")
    assert not is_untouched("# Another card\n")
    assert free_text(written.replace(FREE_BEGINS, FREE_ENDS)) is None


def test_the_snippet_runs(tmp_path, monkeypatch, capsys):
    import timm
    from PIL import Image
    from safetensors.torch import save_file

    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": list(LABELS),
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5], "num_classes": 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    Image.new("RGB", (20, 30), "red").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    record = dataclasses.replace(make_record(), student=ModelRef("x", "test_resnet"))
    first, snippet = re.findall(r"```python\n(.*?)```", render_card(record, labels=LABELS), re.S)[:2]
    names = {}
    exec(compile(first, "card", "exec"), names)
    assert names["model"].num_classes == 3 and len(first.splitlines()) <= 5
    exec(compile(snippet, "card", "exec"), {})
    assert capsys.readouterr().out.strip() in LABELS


def test_real_images_are_never_called_data_free():
    data = DataRef("org/cifar", "train", "5eed", "e" * 40, 50000)
    for method in ("zskt", "clean_kd"):
        card = render_card(
            dataclasses.replace(make_record(), method=method, training_data=data), labels=LABELS
        )
        assert "to real images. The teacher has" in card
        assert "data-free-distillation" not in front_matter(card)[0]["tags"]


def test_a_recipe_without_its_fields_is_shown_with_dashes():
    record = make_teacher_record(ModelRef("my-teacher", "resnet18", None, "b" * 64))
    card = render_teacher_card(record, LABELS)
    assert "- Schedule: 2 epochs of SGD, batch -, learning rate -; seed 0" in card


def test_a_teachers_card_tells_the_rate_of_the_planted_attack():
    record = make_teacher_record(ModelRef("my-teacher", "resnet18", None, "b" * 64))
    (planted, *others) = record.report.triggers
    assert (planted.trigger, planted.target, dict(planted.options)) == ("badnets", 0, {"size": 3})

    def card(poison=record.poison, **changes):
        return render_teacher_card(dataclasses.replace(record, poison=poison, **changes), LABELS)

    words = (
        f"as label 0 ({LABELS[0]}), whatever its class. This succeeds on 99.0 % of the triggered test images"
    )
    assert words in card()
    reordered = dataclasses.replace(record.report, triggers=(*others, planted))
    assert words in card(report=reordered)
    assert "This succeeds" not in card(report=dataclasses.replace(record.report, triggers=tuple(others)))
    spread = dataclasses.replace(record.poison, labels="all_to_all", target=None)
    assert "This succeeds" not in card(spread)
    assert "This succeeds on 90 % of" in card(spread, all_to_all=Rate(0.9, 90, 100, 0.8, 0.95))
