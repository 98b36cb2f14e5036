"""What `torchrun` runs in tests: trainings one after the other, as each takes less time than the start of a process.

python -m torch.distributed.run --standalone --nproc_per_node=2 trainings_in_turn.py jobs.json, a list of
{"root": a bundle's folder, "options": overrides of its train.json, "port": a free one, ["killed": the step to end at]}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import distributed


class Killed(BaseException):
    pass


def kill(_: object) -> None:
    raise Killed


def train(root: str, options: dict[str, object], killed: int | None = None) -> None:
    sys.path.insert(0, root)
    configs = Path(root) / "configs"
    workflow = ConfigWorkflow(
        [str(configs / "train.json"), str(configs / "multi_gpu_train.json")],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **{"bundle_root": root, **options},
    )
    workflow.initialize()
    if killed is not None:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=killed), kill)
    try:
        workflow.run()
    except Killed:
        distributed.destroy_process_group()
    else:
        workflow.finalize()


if __name__ == "__main__":
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # in it the next group would meet the keys of the last
    for job in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(job.pop("port"))
        train(**job)
