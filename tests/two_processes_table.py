"""Run by torchrun in test_processes.py: the table of test_plugins.py on two processes, stopped between."""

import json
import sys
from pathlib import Path

import test_plugins
import torch

from abd_hub import checkpoint, distributed
from abd_hub.weights import weights_sha256

torch.set_num_threads(1)
folder = Path(sys.argv[1])
facts = {}
for synthesizer in test_plugins.names("synthesizers"):
    for defenses in test_plugins.PAIRS:
        row = "+".join([synthesizer, *defenses])
        whole = test_plugins.make(synthesizer, defenses)
        whole.fit()
        first, second = (test_plugins.make(synthesizer, defenses) for _ in range(2))
        first.student.train()
        for index in range(test_plugins.STOP):
            first._round(index)
        if first.accelerator.is_main_process:
            checkpoint.save(folder / row, test_plugins.STOP, first.state_dict(), 1)
        first.accelerator.wait_for_everyone()
        second.round, state = checkpoint.load(checkpoint.checkpoints(folder / row)[0])
        second.load_state_dict(state)
        second.fit()
        facts[row] = {
            "world": whole.accelerator.num_processes,
            "student": weights_sha256(whole.student),
            "continued": weights_sha256(second.student),
            "active": [defense.report().active for defense in whole.defenses],
        }
(folder / f"rank{distributed.world()[0]}.json").write_text(json.dumps(facts))
