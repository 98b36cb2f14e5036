"""What `torchrun` runs in tests: trainings one after the other, as each takes less time than the start of a process.

python -m torch.distributed.run --standalone --nproc_per_node=2 trainings_in_turn.py jobs.json, a list of
{"root": a bundle's folder, "options": overrides of its train.json, ["killed": the step to end at]}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

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


def in_turn(jobs: list[dict[str, Any]]) -> None:
    """Each in a store of its own: in that of `torchrun` a group would meet the keys of the one before.

    The first process opens it, at a port that the system gives, and says in that of `torchrun` which.
    """
    agent = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    opened = []  # kept to the end: the other process may be in one still
    for turn, job in enumerate(jobs):
        if os.environ["RANK"] == "0":
            opened += [distributed.TCPStore(os.environ["MASTER_ADDR"], 0, is_master=True, wait_for_workers=False)]
            agent.set(f"port {turn}", str(opened[-1].port))
        os.environ["MASTER_PORT"] = agent.get(f"port {turn}").decode()
        train(**job)


if __name__ == "__main__":
    in_turn(json.loads(Path(sys.argv[1]).read_text()))
