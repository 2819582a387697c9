"""Settings of strategy `flagger`: what is installed, and how Flagger judges a new version of a service.

The words are Flagger's own.  What is made of them is in `core.canaries`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from core.fields import Milliseconds, Model, Positive, Seconds, Truth, Weight

Percent = Annotated[float, Field(gt=0, le=100)]


class Flagger(Model):
    """Which Flagger the stack installs, or finds; `load_tester` is the version of its load tester's chart."""

    version: str = Field(default="1.41.0", pattern=r"^\d+\.\d+\.\d+$")
    install: Truth = True
    chart_source: str = "https://flagger.app"
    load_tester: str = Field(default="0.35.0", pattern=r"^\d+\.\d+\.\d+$")
    timeout: Seconds = 300


class Analysis(Model):
    """How a new version of a service is tried: every `interval` one check of all metrics, and one step if it passes.

    `threshold` failed checks end it.  `success_rate` is the least share of requests without a 5xx, in per cent;
    `request_duration` the longest 99th percentile, in milliseconds.  `load_test` is a command of the load tester.
    """

    interval: Annotated[Seconds, Field(ge=10)] = 60  # Flagger takes anything shorter for ten seconds
    threshold: Positive = 5
    max_weight: Annotated[Weight, Field(ge=1)] = 50
    step_weight: Annotated[Weight, Field(ge=1)] = 5
    step_weights: list[Weight] = Field(default_factory=list)
    success_rate: Percent = 99
    request_duration: Milliseconds = 500
    load_test: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _steps(self) -> Analysis:
        ladder = self.step_weights
        if ladder and {"max_weight", "step_weight"} & self.model_fields_set:
            raise ValueError("stepWeights says all steps; drop stepWeight and maxWeight, or stepWeights")
        if ladder and (ladder[0] == 0 or any(one >= other for one, other in pairwise(ladder))):
            raise ValueError(f"stepWeights has to rise from 1 or more to at most 100, not {ladder}")
        if not ladder and self.step_weight > self.max_weight:
            raise ValueError(f"stepWeight {self.step_weight} is more than maxWeight {self.max_weight}; lower it")
        return self
