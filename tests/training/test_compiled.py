"""Student steps through torch.compile."""

import nets
import pytest
import torch
from torch._dynamo.utils import counters

from abd_hub import SelfRetrospection, ShufflingVaccine, Trainer, TrainerOptions, Zskt
from abd_hub.training.trainer import forward


def learn(backend, attention_weight):
    teacher = nets.randomized(nets.wrn("wrn_10_1", base_width=4)).double().freeze()
    student = nets.wrn("wrn_10_1", seed=1, dtype=torch.float64, base_width=4)
    method = Zskt(
        rounds=3,
        batch_size=8,
        student_steps=2,
        generator_channels=8,
        z_dim=4,
        attention_weight=attention_weight,
    )
    defenses = [
        ShufflingVaccine(check=False, layers=2).build(teacher),
        SelfRetrospection(last_rounds=1, perturbation_steps=2).build(teacher),
    ]
    options = TrainerOptions(progress=False, checkpoint_every=0, dynamo_backend=backend)
    trainer = Trainer(teacher, student, method, defenses, options)
    trainer.synthesizer.generator.double()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    learned = trainer.fit().state_dict()
    assert any(not torch.equal(before[name], tensor) for name, tensor in learned.items())
    assert all(report.active for report in (defense.report() for defense in defenses))
    return learned


@pytest.mark.parametrize("attention_weight", [0.0, 250.0])
def test_a_compiled_student_learns_the_same(attention_weight):
    expected = learn("no", attention_weight)
    counters.clear()
    found = learn("aot_eager", attention_weight)
    assert counters["stats"]["unique_graphs"] >= 2, "of teacher and student"
    assert counters["aot_autograd"]["ok"] >= 2
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-11, msg=name)


def test_the_teachers_answers_outlive_the_next_pass():
    """A backend of graphs writes the results of every pass into the same memory."""
    teacher = nets.randomized(nets.wrn("wrn_10_1", base_width=4)).freeze()
    student = nets.wrn("wrn_10_1", seed=1, base_width=4)
    options = TrainerOptions(progress=False, checkpoint_every=0, dynamo_backend="aot_eager")
    trainer = Trainer(teacher, student, Zskt(rounds=1, batch_size=8), options=options)
    memory = torch.empty(4, teacher.spec.num_classes)

    def reusing(model, pixels, with_blocks):
        logits, blocks = forward(model, pixels, with_blocks)
        return memory.copy_(logits), blocks

    trainer._forward = reusing
    pixels = torch.rand(4, 3, teacher.spec.height, teacher.spec.width)
    batch = trainer._batch(pixels)
    with torch.no_grad():
        reusing(student, pixels, False)
    assert torch.equal(batch.teacher_logits, teacher(pixels))
    assert not torch.equal(batch.teacher_logits, memory)
