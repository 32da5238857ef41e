"""Distills a classifier from the Hub with the paper's defenses, in ten lines.

python recipes/ten_lines.py hf-hub:org/name uoft-cs/cifar10 runs/student
"""

import sys

import abd_hub

if len(sys.argv) != 4:
    sys.exit("usage: python recipes/ten_lines.py TEACHER DATASET OUTPUT_DIR")
teacher, dataset, output_dir = sys.argv[1:]
config = abd_hub.DistillConfig(
    teacher=abd_hub.ModelOptions(id=teacher),
    synthesizer=abd_hub.Zskt(attention_weight=0),
    defenses=[abd_hub.ShufflingVaccine(), abd_hub.SelfRetrospection()],
    evaluation=abd_hub.EvaluationOptions(
        dataset=dataset, triggers=[abd_hub.TriggerOptions(name="badnet_sq", target=0)]
    ),
    output_dir=output_dir,
)
print(abd_hub.distill(config).student_report)
