"""PyTorch: a recurrent network that forecasts a rig's engine temperature. It has a memory: one reading in, its state carried on.

    python torch_gru.py --add my-models
    python torch_gru.py --form onnx --add my-models

`--form native` writes the weights as safetensors, which the server runs with its own GRU; `--form onnx` writes a graph whose state
goes in as `h` and comes out as `hn`, as model.toml says. Both give the same numbers. Learns from chunks of 192 readings.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import nn

from stages import Missing, Standardise
from tidegate_export import SENSORS, Version, add, arguments, rigs_of, split, without_traces

TARGET = SENSORS.index("temperature")
HORIZON = [10, 30, 60, 120]
CHUNK, WARM = 192, 32
SPREAD = torch.tensor([0.15, 0.2, 0.35, 0.6])
"""How far the temperature usually moves within each horizon, degC."""


class Forecaster(nn.Module):
    """Standardised readings (batch, time, 8) and a state to standardised temperatures (batch, time, 4) and the next state.

    What the network learns is the change from the temperature as it is (`relative` in model.toml).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(len(SENSORS), hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(HORIZON))

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        y, hn = self.gru(x, h)
        return self.head(y) + x[..., TARGET : TARGET + 1], hn


class Step(nn.Module):
    """One reading (1, 8) and the state to temperatures in degC (1, 4) and the next state: what the server runs."""

    def __init__(self, model: Forecaster, mean: torch.Tensor, scale: torch.Tensor, raw: bool) -> None:
        """`raw` says whether the reading comes as it is or standardised."""
        super().__init__()
        self.model, self.raw = model, raw
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = (x - self.mean) / self.scale if self.raw else x
        y, hn = self.model(z.unsqueeze(1), h)
        return y.squeeze(1) * self.scale[TARGET] + self.mean[TARGET], hn


def tensor_of(rigs: list[pd.DataFrame]) -> torch.Tensor:
    """(rig, time, 8)."""
    return torch.tensor(np.stack([rig[SENSORS].to_numpy(np.float32) for rig in rigs]))


def futures(x: torch.Tensor) -> torch.Tensor:
    """The target at each horizon, for every time that has all of them."""
    last = x.shape[1] - max(HORIZON)
    return torch.stack([x[:, h : h + last, TARGET] for h in HORIZON], dim=-1)


def train_on(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, hidden: int, steps: int) -> Forecaster:
    """Random chunks of random rigs; the first readings of a chunk warm the state and are not scored."""
    model = Forecaster(hidden)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rig, start = torch.randint(0, len(x), (32,)), torch.randint(0, y.shape[1] - CHUNK, (32,))
        take = lambda of: torch.stack([of[r, s : s + CHUNK] for r, s in zip(rig, start, strict=True)])  # noqa: B023, E731
        error = (model(take(x))[0] - take(y))[:, WARM:] * (scale[TARGET] / SPREAD)
        optimiser.zero_grad()
        error.square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def report(model: Forecaster, x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Root mean square error a horizon beside that of 'it stays as it is'."""
    truth = futures(x)[:, CHUNK:]
    with torch.no_grad():
        guess = model((x - mean) / scale)[0][:, CHUNK : CHUNK + truth.shape[1]] * scale[TARGET] + mean[TARGET]
    still = x[:, CHUNK : CHUNK + truth.shape[1], TARGET : TARGET + 1]
    for name, values in (("GRU", guess), ("unchanged", still)):
        print(
            f"{name:10}",
            ", ".join(f"{h} s: {e:.3f} degC" for h, e in zip(HORIZON, (values - truth).square().mean((0, 1)).sqrt(), strict=True)),
        )


@torch.no_grad()
def run(step: Step, rows: np.ndarray, kind: torch.dtype) -> np.ndarray:
    """A device's rows one by one, the state carried on."""
    step, h = step.to(kind), torch.zeros(1, 1, step.model.gru.hidden_size, dtype=kind)
    out = []
    for row in torch.tensor(rows, dtype=kind):
        y, h = step(row[None], h)
        out.append(y[0])
    step.to(torch.float32)
    return torch.stack(out).numpy()


def files_of(step: Step, form: str) -> dict[str, bytes]:
    """What the version folder holds beside model.toml and golden.json."""
    if form == "native":
        gru, head = step.model.gru.state_dict(), step.model.head
        return {"weights.safetensors": save({**gru, "head0.weight": head.weight, "head0.bias": head.bias})}
    buffer = io.BytesIO()
    example = (torch.zeros(1, len(SENSORS)), torch.zeros(1, 1, step.model.gru.hidden_size))
    torch.onnx.export(step, example, buffer, input_names=["x", "h"], output_names=["y", "hn"], external_data=False)
    return {"model.onnx": without_traces(buffer.getvalue())}


def version_of(options: argparse.Namespace, mean: torch.Tensor, scale: torch.Tensor) -> Version:
    """In the native form the server standardises; in the ONNX form the graph does."""
    native = options.form == "native"
    return Version(
        endpoint="rig-forecast",
        name="gru" if native else "gru-onnx",
        version=options.version,
        stages=[Missing(), Standardise(mean=mean.tolist(), scale=scale.tolist())] if native else [Missing()],
        architecture=f'kind = "gru"\nhidden = {options.hidden}\nhead = [{len(HORIZON)}]\nactivations = ["none"]'
        if native
        else 'kind = "onnx"\nfile = "model.onnx"\noutputs = ["y"]\nstates = [{ input = "h", output = "hn" }]',
        postprocessing=f'kind = "forecast"\nhorizon = {HORIZON}\ntarget = "temperature"'
        + ("\nrelative = true\nrestore = true" if native else ""),
        intended_use="Forecasts a rig's engine temperature within two minutes; trained on simulated rigs only.",
        data=options.csv,
        memory=CHUNK,
        tolerance=1e-5,
    )


def main() -> None:
    options = arguments(__doc__, form="native", hidden=24, steps=3000, seed=1, version="2.0.0")
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    train, test = split(rigs_of(options.csv))
    x = tensor_of(train)
    mean, scale = x.mean((0, 1)), x.std((0, 1))
    model = train_on((x - mean) / scale, (futures(x) - mean[TARGET]) / scale[TARGET], scale, options.hidden, options.steps)
    report(model, tensor_of(test), mean, scale)

    version = version_of(options, mean, scale)
    step = Step(model, mean, scale, raw=options.form == "onnx")
    predict, exact = (lambda rows, kind=kind: run(step, rows, kind) for kind in (torch.float32, torch.float64))
    folder = version.write(options.out, files_of(step, options.form), test[0], predict, exact)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
