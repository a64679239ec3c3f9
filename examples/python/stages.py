"""The server's declared preprocessing, in Python, so that a model is trained on exactly what it will be given.

Each stage turns the readings of one device, oldest first, into rows; `toml` is the stage's table in model.toml. A calibrated
stage gives no row for the readings it learns from, so its output is shorter than its input. Arithmetic is float64.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

Rows = np.ndarray


@dataclass(frozen=True)
class Missing:
    """A missing value repeats the device's last one."""

    def __call__(self, rows: Rows) -> Rows:
        return pd.DataFrame(rows).ffill().to_numpy()

    def toml(self) -> str:
        return 'kind = "missing"\npolicy = "hold"'


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / scale: of fixed numbers, or of each device's own first `calibration` readings."""

    calibration: int = 0
    mean: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    def __call__(self, rows: Rows) -> Rows:
        if not self.calibration:
            return (rows - self.mean) / self.scale
        first = rows[: self.calibration]
        return (rows[self.calibration :] - first.mean(axis=0)) / first.std(axis=0)

    def toml(self) -> str:
        if self.calibration:
            return 'kind = "standardise"\ncalibrated = true'
        return f'kind = "standardise"\nmean = {list(self.mean)}\nscale = {list(self.scale)}'


@dataclass(frozen=True)
class Clip:
    """Values outside `low..high` become the nearer end."""

    low: float
    high: float

    def __call__(self, rows: Rows) -> Rows:
        return rows.clip(self.low, self.high)

    def toml(self) -> str:
        return f'kind = "clip"\nlow = {self.low}\nhigh = {self.high}'


@dataclass(frozen=True)
class Rolling:
    """Means of each value over the last `window` rows, of fewer at the start."""

    window: int

    def __call__(self, rows: Rows) -> Rows:
        return pd.DataFrame(rows).rolling(self.window, min_periods=1).mean().to_numpy()

    def toml(self) -> str:
        return f'kind = "rolling"\nwindow = {self.window}\nof = ["mean"]'


@dataclass(frozen=True)
class Window:
    """The last `length` rows end to end, oldest first; at the start the first row stands in for those not yet there."""

    length: int

    def __call__(self, rows: Rows) -> Rows:
        padded = np.vstack([np.repeat(rows[:1], self.length - 1, axis=0), rows])
        return np.hstack([padded[i : i + len(rows)] for i in range(self.length)])

    def toml(self) -> str:
        return f'kind = "window"\nlength = {self.length}'


Stage = Missing | Standardise | Clip | Rolling | Window


def apply(stages: list[Stage], rows: Rows) -> Rows:
    """One device's readings through all stages, as float32."""
    rows = np.asarray(rows, dtype=np.float64)
    for stage in stages:
        rows = stage(rows)
    return np.ascontiguousarray(rows, dtype=np.float32)


def calibration(stages: list[Stage]) -> int:
    """Readings that go by before the first row."""
    return max((s.calibration for s in stages if isinstance(s, Standardise)), default=0)


def read(manifest: Path) -> list[Stage]:
    """The stages that a model.toml declares."""
    table = tomllib.loads(manifest.read_text())
    stages = table.get("preprocessing", [])
    return [] if stages == "none" else [_stage(stage, table["calibration"]) for stage in stages]


def _stage(table: dict, calibration: int) -> Stage:
    kinds = {"missing": Missing, "standardise": Standardise, "clip": Clip, "rolling": Rolling, "window": Window}
    values = {key: value for key, value in table.items() if key not in ("kind", "policy", "of")}
    if values.pop("calibrated", False):
        values["calibration"] = calibration
    return kinds[table["kind"]](**values)
