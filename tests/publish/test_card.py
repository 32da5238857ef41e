"""The card: golden text, metadata that the Hub's library reads back, hostile names shown as text."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from records import LABELS, make_record

from abd_hub.core import files, paper, registry
from abd_hub.core.errors import InputError
from abd_hub.core.record_file import read_record, record_to_json
from abd_hub.core.records import (
    DataRef,
    DefenseReport,
    EvalReport,
    ModelRef,
    Rate,
    SplitReport,
    TriggerReport,
)
from abd_hub.publish.card import render_card, run_pictures
from abd_hub.publish.card_text import fence
from abd_hub.publish.own_parts import FREE_BEGINS, FREE_ENDS, free_text, is_untouched, with_free_text

pytestmark = pytest.mark.hub_client
GOLDEN = Path(__file__).parent / "golden" / "card.md"
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b\n\n# title",
    "![x](http://evil.test/x.png)",
    "</td>&lt;`code`*bold*",
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


def front_matter(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_golden():
    card = render_card(make_record(), labels=LABELS, pictures=PICTURES, license_id="apache-2.0")
    # The layout of the YAML belongs to huggingface_hub and changes with its version; its content is ours.
    assert front_matter(card) == front_matter(GOLDEN.read_text(encoding="utf-8"))


def test_the_metadata_comes_back_without_losing_a_trigger():
    record = make_record()
    data = ModelCard(render_card(record, labels=LABELS)).data
    assert data.base_model == "org/poisoned_resnet"
    assert data.license is None
    assert "data-free-distillation" in data.tags
    again = ModelCardData(**yaml.safe_load(data.to_yaml()))
    found = {
        (r.dataset_config, r.metric_type, (r.metric_args or {}).get("target")): r.metric_value
        for r in again.eval_results
    }
    expected = {(None, "accuracy", None): record.student_report.accuracy.value}
    for report in record.student_report.triggers:
        expected[report.trigger, "attack_success_rate", report.target] = report.asr.value
        expected[report.trigger, "robust_accuracy", report.target] = report.robust_accuracy.value
    assert found == expected
    assert len(again.eval_results) == 7
    assert {
        r.metric_args["options"]["size"] for r in again.eval_results if r.dataset_config == "badnets"
    } == {3}


def test_every_number_of_the_table_is_the_records():
    record = make_record()
    rows = [line for line in render_card(record, labels=LABELS).splitlines() if ", n = " in line]
    shown = [re.findall(r"(\d\.\d{4}) \((\d\.\d{4}) to (\d\.\d{4})\), n = (\d+)", row) for row in rows]
    pairs = [(record.teacher_report.accuracy, record.student_report.accuracy)]
    for old, new in zip(record.teacher_report.triggers, record.student_report.triggers, strict=True):
        pairs += [(old.asr, new.asr), (old.robust_accuracy, new.robust_accuracy)]
    expected = [[(*(f"{v:.4f}" for v in (r.value, r.low, r.high)), str(r.n)) for r in pair] for pair in pairs]
    assert shown == expected


def controlled():
    record = make_record()
    rates = {("badnets", 0): 0.021, ("badnets", 1): 0.112, ("blend", 0): 0.033}

    def beside(report):
        found = tuple(
            dataclasses.replace(t, control=Rate(rates[t.trigger, t.target], 1, 9000, 0.0, 0.2))
            for t in report.triggers
        )
        split = SplitReport(DataRef("uoft-cs/cifar10", "fog_5", "f00d", "d" * 40, 10000), report.accuracy)
        accuracy = Rate(0.9191, 9191, 10000, 0.9136, 0.9243)
        return dataclasses.replace(report, triggers=found, control_accuracy=accuracy, corrupted=(split,))

    return dataclasses.replace(
        record,
        teacher_report=beside(record.teacher_report),
        student_report=beside(record.student_report),
        control=ModelRef("org/clean", "resnet18", "e" * 40, "9" * 64),
    )


def test_the_control_has_a_column():
    card = render_card(controlled(), labels=LABELS)
    rows = [[cell.strip() for cell in line.split("|")] for line in card.splitlines() if line.startswith("| ")]
    rows = rows[next(i for i, row in enumerate(rows) if row[-2] == "control") :]
    assert {len(row) for row in rows} == {6}
    column = [row[4].partition(" ")[0] for row in rows]
    assert column == ["control", "0.9191", "-", "0.0210", "-", "0.1120", "-", "0.0330", "-"]
    assert rows[2][1:3] == ["accuracy, split `fog_5`", "0.9382 (0.9333 to 0.9427), n = 10000"]
    assert "`org/clean`" in card and "9" * 64 in card
    assert "ontrol" not in render_card(make_record(), labels=LABELS)


def rich():
    """Two attacks that differ in their options only, two targets, a control, real images."""
    record = controlled()

    def twice(report, asr):
        other = dataclasses.replace(report.triggers[0], options={"size": 5}, asr=asr)
        return dataclasses.replace(report, triggers=(*report.triggers, other))

    return dataclasses.replace(
        record,
        teacher_report=twice(record.teacher_report, Rate(0.77, 6930, 9000, 0.7612, 0.7786)),
        student_report=twice(record.student_report, Rate(0.0667, 600, 9000, 0.0617, 0.072)),
    )


def shown_rates(card):
    """Row name to the rates in its cells, as they stand in the table of results."""
    section = card.partition("## Results")[2].partition("\n## ")[0]
    rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    pattern = r"(\S+) \((\S+) to (\S+)\), n = (\d+)"
    return {row[0]: [re.fullmatch(pattern, cell) for cell in row[1:]] for row in rows}


def test_every_rate_of_the_card_is_in_metrics_json(tmp_path):
    files.write_json(tmp_path / "metrics.json", record_to_json(rich()))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    card = render_card(read_record(tmp_path), labels=LABELS)
    rows = shown_rates(card)
    results = [metrics["results"][who] for who in ("teacher", "student")]
    expected = {"accuracy": [*(r["accuracy"] for r in results), results[0]["control_accuracy"]]}
    expected["accuracy, split `fog_5`"] = [*(r["corrupted"][0]["accuracy"] for r in results), None]
    for pair in zip(*(r["triggers"] for r in results), strict=True):
        name = f"`{pair[0]['trigger']}` to label {pair[0]['target']}"
        name += f", {json.dumps(pair[0]['options'])}" if pair[0]["options"] else ""
        expected[f"{name}: ASR"] = [*(t["asr"] for t in pair), pair[0]["control"]]
        expected[f"{name}: robust accuracy"] = [*(t["robust_accuracy"] for t in pair), None]
    assert set(rows) == {"", *expected}
    for name, rates in expected.items():
        for found, rate in zip(rows[name], rates, strict=True):
            if rate is None:
                assert found is None
                continue
            value, low, high, n = found.groups()
            assert (value, low, high) == tuple(f"{rate[key]:.4f}" for key in ("value", "low", "high"))
            assert int(n) == rate["n"]


def test_the_metadata_holds_the_numbers_of_metrics_json_and_loses_no_trigger(tmp_path):
    metrics = json.loads(json.dumps(record_to_json(rich())))["results"]["student"]
    front, _ = front_matter(render_card(rich(), labels=LABELS))
    name, results = model_index_to_eval_results(front["model-index"])
    again = ModelCardData(**yaml.safe_load(ModelCardData(model_name=name, eval_results=results).to_yaml()))
    assert again.eval_results == results
    found = {}
    for r in again.eval_results:
        attack = json.dumps([r.metric_args.get(k) for k in ("target", "options")])
        numbers = [r.metric_args.get(k) for k in ("n", "low", "high", "control")]
        found[r.metric_type, r.dataset_config, attack] = [r.metric_value, *numbers]
    keys = ("value", "n", "low", "high")
    expected = {("accuracy", None, "[null, null]"): [*(metrics["accuracy"][k] for k in keys), None]}
    for t in metrics["triggers"]:
        attack = json.dumps([t["target"], t["options"]])
        for kind, rate in (("attack_success_rate", t["asr"]), ("robust_accuracy", t["robust_accuracy"])):
            expected[kind, t["trigger"], attack] = [*(rate[k] for k in keys), t["control"]["value"]]
    assert found == expected
    assert len(expected) == len(again.eval_results) == 1 + 2 * 4
    assert len({r.metric_name for r in again.eval_results}) == len(again.eval_results)


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
    assert "lower ASR" not in body.lower()
    assert "Wilson" not in body


def test_no_attack_is_not_a_good_result():
    record = make_record()
    record = dataclasses.replace(
        record, student_report=dataclasses.replace(record.student_report, triggers=())
    )
    card = render_card(record, labels=LABELS)
    assert "No attack was tried on the student" in card
    assert "not evaluated" in card


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
    assert len(programs) == 3
    for program in programs:
        compile(program, "card", "exec")
        assert program.startswith("import abd_hub.students  # needed") is ours
    assert ("stock timm student" in card) is ours


def test_students_of_others_are_imported_from_their_own_module(monkeypatch):
    monkeypatch.setitem(registry._registered["students"], "theirs", make_record)
    record = dataclasses.replace(make_record(), student=ModelRef("x", "theirs.tag"))
    programs = re.findall(r"```python\n(.*?)```", render_card(record, labels=LABELS), re.S)
    assert all(program.startswith(f"import {make_record.__module__}  # needed") for program in programs)


def test_real_images_are_not_called_synthetic():
    card = render_card(dataclasses.replace(make_record(), method="real"), labels=LABELS)
    assert "data-free" not in card.replace("Data-Free", "").split("## Citation")[0]
    assert "synthetic" not in card


def test_repo_id():
    assert 'create_model("hf-hub:me/student"' in render_card(
        make_record(), labels=LABELS, repo_id="me/student"
    )
    with pytest.raises(InputError, match="repo_id"):
        render_card(make_record(), labels=LABELS, repo_id='x"); evil("')


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_stays_text(text):
    record = make_record()
    hostile = TriggerReport(text, 0, {text: text}, *[record.student_report.accuracy] * 2)
    report = EvalReport(record.student_report.accuracy, (hostile,))
    data = DataRef(text, text, text, text, 1)
    record = dataclasses.replace(
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
    card = render_card(record, labels=(text, "b"), pictures=[("a b).png", text)])
    card.encode("utf-8")
    data = ModelCard(card).data
    assert data.base_model is None
    assert data.license is None
    assert data.datasets is None
    assert len(data.eval_results) == 3
    body, blocks = split_fences(front_matter_end(card))
    assert [language for language, _ in blocks] == [*["python"] * 3, "bash", "yaml", "bibtex"]
    assert yaml.safe_load(blocks[4][1]) == record.config
    assert free_text(card) == "" and is_untouched(card)
    # No markup beyond our own: as many headings, pictures and table cells as in a card without such names.
    body = re.sub("^<!-- [A-Z].*? -->$", "", body, flags=re.M)
    assert len(re.findall(r"^#", body, re.M)) == 1 + len(re.findall(r"^## ", body, re.M))
    assert not re.search(r"<[a-z/!]", body, re.I)
    assert len(re.findall(r"(?<!\\)!\[", body)) == 1
    tables = re.findall(r"(?:^\|.*\n)+", body, re.M)
    cells = [{len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()} for table in tables]
    assert cells == [{4}, {3}, {3}, {5}]
    assert not re.search(r"\bhttps?://|\bwww\.|[\x00-\x09\x0b-\x1f\u202e]|(?<![\w{])@some", body)
    assert max(map(len, body.splitlines())) < 1500


def split_fences(body):
    """The text outside blocks of code, and (language, content) of each, by Markdown's own rule: a block ends
    with a line of at least as many ticks and nothing else."""
    outside, blocks, open_block = [], [], None
    for line in body.split("\n"):
        ticks = re.fullmatch(r" {0,3}(`{3,})([^`]*)", line)
        if open_block is None and ticks:
            open_block = (len(ticks[1]), ticks[2], [])
        elif open_block is None:
            outside.append(line)
        elif ticks and len(ticks[1]) >= open_block[0] and not ticks[2].strip():
            blocks.append((open_block[1], "\n".join(open_block[2])))
            open_block = None
        else:
            open_block[2].append(line)
    assert open_block is None
    return "\n".join(outside), blocks


@pytest.mark.parametrize("text", ["plain", "```", "a\n````\n<b>", "` `` `"])
def test_nothing_ends_a_block_but_its_end(text):
    outside, blocks = split_fences(fence(text, "text"))
    assert outside == "" and blocks == [("text", text)]


def front_matter_end(card):
    return card[ModelCard(card).content.index("\n---\n", 4) + 5 :]


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
    assert not is_untouched(written.replace("0.8271", "0.9271", 1))
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
    snippet = re.search(r"```python\n(.*?)```", render_card(record, labels=LABELS), re.S)[1]
    exec(compile(snippet, "card", "exec"), {})
    assert capsys.readouterr().out.strip() in LABELS


def test_every_method_is_cited():
    for entry in registry.catalog("synthesizers"):
        card = render_card(dataclasses.replace(make_record(), method=entry.name), labels=LABELS)
        cited = dict(split_fences(front_matter_end(card))[1])["bibtex"]
        assert cited == f"{paper.CITATION}\n\n{registry.get('synthesizers', entry.name).citation}"


class TheirMethod:
    """A method of somebody else's."""

    images = "pictures of clouds"
    citation = "@misc{theirs}"


class TheirDefense:
    """A defense of somebody else's."""

    citation = "@misc{defense}"
    evidence_captions = (("samples/theirs.png", "What theirs found"),)


def theirs():
    report = DefenseReport("their_defense", True, "It works.")
    return dataclasses.replace(make_record(), method="their_method", defenses=(report,))


def test_a_card_follows_plug_ins_of_others(monkeypatch):
    monkeypatch.setitem(registry._registered["synthesizers"], "their_method", TheirMethod)
    monkeypatch.setitem(registry._registered["defenses"], "their_defense", TheirDefense)
    card = render_card(theirs(), labels=LABELS)
    assert "to pictures of clouds, without the teacher's training data. A teacher" in card
    assert dict(split_fences(front_matter_end(card))[1])["bibtex"].endswith("@misc{theirs}\n\n@misc{defense}")
    assert ("samples/theirs.png", "What theirs found") in run_pictures(theirs(), LABELS)


def test_plug_ins_that_tell_nothing_are_shown_with_defaults(monkeypatch):
    monkeypatch.setitem(registry._registered["synthesizers"], "their_method", type("Bare", (), {}))
    monkeypatch.setitem(registry._registered["defenses"], "their_defense", lambda: None)
    card = render_card(theirs(), labels=LABELS)
    assert "to synthetic images, without the teacher's training data. A teacher" in card
    assert dict(split_fences(front_matter_end(card))[1])["bibtex"] == paper.CITATION
    assert "samples/pattern_their_defense.png" in dict(run_pictures(theirs(), LABELS))


def test_nothing_is_claimed_about_plug_ins_that_are_not_installed():
    card = render_card(theirs(), labels=LABELS)
    assert "to images. A teacher" in card and "synthetic" not in card
    assert "data-free-distillation" not in front_matter(card)[0]["tags"]
    assert "samples/pattern_their_defense.png" in dict(run_pictures(theirs(), LABELS))


def test_real_images_are_never_called_data_free():
    data = DataRef("org/cifar", "train", "5eed", "e" * 40, 50000)
    for method in ("zskt", "clean_kd"):
        card = render_card(
            dataclasses.replace(make_record(), method=method, training_data=data), labels=LABELS
        )
        assert "to real images. A teacher" in card
        assert "data-free-distillation" not in front_matter(card)[0]["tags"]
