"""PyTorch: a small network over a window of readings that says what ails a pump rig.

    python torch_mlp.py --add my-models
    python torch_mlp.py --form native --name mlp-native --add my-models

The graph gives logits; the softmax is the server's (`activation` in model.toml). `--form onnx` is exported by torch.onnx; `--form
native` writes the weights as safetensors, which the server's own dense layers run: the same numbers, faster.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from safetensors.torch import save
from sklearn.metrics import classification_report
from torch import nn

from stages import Clip, Missing, Standardise, Window
from tidegate_export import LABELS, Version, add, arguments, labels_of, rigs_of, rows_of, split, with_label, without_traces

ARCHITECTURES = {
    "onnx": 'kind = "onnx"\nfile = "model.onnx"',
    "native": 'kind = "mlp"\nlayers = [32, 32, 4]\nactivations = ["relu", "relu", "none"]',
}


def train_on(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """A network of two hidden layers, trained with classes weighted alike."""
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, len(LABELS)))
    loss = nn.CrossEntropyLoss(weight=len(y) / torch.bincount(y).float() / len(LABELS))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        some = torch.randint(0, len(x), (512,))
        optimiser.zero_grad()
        loss(model(x[some]), y[some]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def files_of(model: nn.Module, form: str) -> dict[str, bytes]:
    """The weights alone, or as a graph."""
    if form == "native":
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        named = {f"layer{k}.{name}": t for k, layer in enumerate(layers) for name, t in layer.state_dict().items()}
        return {"weights.safetensors": save(named)}
    graph = io.BytesIO()
    example = (torch.zeros(1, model[0].in_features),)
    torch.onnx.export(model, example, graph, input_names=["x"], output_names=["logits"], external_data=False)
    return {"model.onnx": without_traces(graph.getvalue())}


def main() -> None:
    options = arguments(__doc__, steps=3000, seed=1, form="onnx")
    torch.manual_seed(options.seed)
    stages = [Missing(), Standardise(calibration=400), Clip(-8.0, 8.0), Window(8)]
    train, test = split(rigs_of(options.csv))
    model = train_on(torch.tensor(rows_of(train, stages)), torch.tensor(labels_of(train, stages)), options.steps)

    def predict(x: np.ndarray, kind: torch.dtype = torch.float32) -> np.ndarray:
        with torch.no_grad():
            return with_label(model.to(kind)(torch.tensor(x, dtype=kind)).softmax(dim=1).numpy())

    print(classification_report(labels_of(test, stages), predict(rows_of(test, stages))[:, -1], target_names=LABELS, digits=3))
    version = Version(
        endpoint="rig-state",
        # Two forms of one network are two models: a version never changes.
        name="mlp" if options.form == "onnx" else "mlp-native",
        architecture=ARCHITECTURES[options.form],
        version=options.version,
        stages=stages,
        postprocessing=f'kind = "classes"\nactivation = "softmax"\nlabels = {LABELS}'.replace("'", '"'),
        intended_use="Names a fault of a rig that was healthy during its calibration; trained on simulated rigs only.",
        data=options.csv,
        memory=8,
        labelled=True,
    )
    exact = lambda x: predict(x, torch.float64)  # noqa: E731
    folder = version.write(options.out, files_of(model, options.form), test[0], predict, exact)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
