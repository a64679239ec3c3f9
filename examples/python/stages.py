"""The server's declared preprocessing, in Python, so that a model is trained on exactly what it will be given.

Each stage turns the readings of one device, oldest first, into as many rows; `toml` is the stage's table in model.toml.
The arithmetic follows the server's step by step, so that a decision tree sees the same side of each threshold.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

Rows = np.ndarray
F32, F64 = np.float32, np.float64


@dataclass(frozen=True)
class Missing:
    """A missing value repeats the device's last one; before the first it is 0."""

    def __call__(self, rows: Rows) -> Rows:
        return pd.DataFrame(rows).ffill().fillna(0.0).to_numpy(dtype=rows.dtype)

    def toml(self) -> str:
        return 'kind = "missing"\npolicy = "hold"'


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / scale: of fixed numbers, or of each device's own first `calibration` readings."""

    calibration: int = 0
    mean: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    def __call__(self, rows: Rows) -> Rows:
        if self.calibration:
            return _self_calibrated(rows, self.calibration)
        return ((rows.astype(F64) - self.mean) / self.scale).astype(rows.dtype)

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
        return rows.clip(rows.dtype.type(self.low), rows.dtype.type(self.high))

    def toml(self) -> str:
        return f'kind = "clip"\nlow = {self.low}\nhigh = {self.high}'


@dataclass(frozen=True)
class Rolling:
    """The mean of each value over the last `window` rows, of fewer at the start."""

    window: int

    def __call__(self, rows: Rows) -> Rows:
        total = np.zeros(rows.shape, dtype=F64)
        for age in reversed(range(min(self.window, len(rows)))):
            total[age:] += rows[: len(rows) - age]
        held = np.arange(1, len(rows) + 1).clip(max=self.window)
        return (total / held[:, None]).astype(rows.dtype)

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


def apply(stages: list[Stage], readings: Rows, kind: type = F32) -> Rows:
    """What the model is given of one device: its readings through all stages, without those of the calibration.

    The server works in float32; with `kind` float64 these are the rows that a Python program would have.
    """
    rows = np.asarray(readings, dtype=kind)
    for stage in stages:
        rows = stage(rows)
    return np.ascontiguousarray(rows[calibration(stages) :])


def calibration(stages: list[Stage]) -> int:
    """Readings that a device's calibration takes."""
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


def _self_calibrated(rows: Rows, calibration: int) -> Rows:
    """Standardised by Welford's recurrence over the first rows, relative to the very first, in float32 as the server does.

    From the 33rd row on a value counts for at most six standard deviations, so that one spike does not blind the device.
    """
    kind, origin, out = rows.dtype.type, rows[0], np.empty_like(rows)
    mean, squares, scale = (np.zeros(rows.shape[1], dtype=kind) for _ in range(3))
    for index, row in enumerate(rows[:calibration]):
        seen = kind(index + 1)
        delta = row - origin - mean
        if seen > 32:
            most = kind(6.0) * np.sqrt(squares / seen)
            delta = np.where(most > 0, delta.clip(-most, most), delta)
        step = delta / seen
        mean = mean + step
        squares = (delta.astype(F64) * (delta - step) + squares).astype(kind)
        least = np.maximum(kind(1e-4) * np.abs(origin + mean), kind(1e-6))
        scale = np.maximum(np.sqrt(squares / seen), least)
        out[index] = (row - origin - mean) / scale
    out[calibration:] = (rows[calibration:] - origin - mean) / scale
    return out
