"""Validations on the way through a training, and after its last step."""

from __future__ import annotations

from collections.abc import Mapping

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler


class Validation(ValidationHandler):
    """Runs an evaluator every `interval` epochs, and when the training ends, wherever in an epoch it does."""

    def __init__(self, evaluator: Evaluator, interval: int) -> None:
        super().__init__(interval, evaluator)
        self.step = 0

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.output is not None and self.step != engine.state.iteration:
            super().__call__(engine)
            self.step = engine.state.iteration

    def numbers(self) -> tuple[int, Mapping[str, float]]:
        """The step after which the last validation was, and what it found."""
        return self.step, self.validator.state.metrics  # type: ignore[union-attr]
