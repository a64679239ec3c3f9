"""From a trained model to a version folder that Tidegate takes: model.toml, model.onnx, golden.json.

`Version` says what the model is, `write` makes the folder, `add` hands it to the `tidegate` command. The golden run holds readings
with the outputs that Python gave for them; the server refuses a version that answers otherwise. A file in build/reference holds
Python's float64 outputs for 1,000 readings more; compare.py reads it.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import pandas as pd

import stages as st

BUILD = Path(__file__).parent / "build"
RIGS = BUILD / "rigs.csv"
"""What the scripts train on unless they are told another file."""
COMMAND = os.environ.get("TIDEGATE", "tidegate")
SENSORS = [
    "accelerometer_1_rms",
    "accelerometer_2_rms",
    "current",
    "pressure",
    "temperature",
    "thermocouple",
    "voltage",
    "volume_flow_rate_rms",
]
"""The features of the rigs' endpoints, in order."""
LABELS = ["normal", "valve-closing", "cavitation", "imbalance"]
"""What may ail a rig."""

Predict = Callable[[np.ndarray], np.ndarray]
"""One device's rows, oldest first, to one output row each."""


def arguments(purpose: str, **defaults: object) -> argparse.Namespace:
    """The options every script has: where the data is, what to call the version, whether to add it; and `defaults` of its own."""
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=RIGS, help="training data, as rig_csv writes it")
    parser.add_argument("--out", type=Path, default=BUILD, help="folder for the version folder")
    parser.add_argument("--add", type=Path, metavar="DIR", help="add the version to this folder of models")
    for name, value in {"version": "1.0.0", **defaults}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


def rigs_of(path: Path) -> list[pd.DataFrame]:
    """The rigs of a CSV file, each with its readings, oldest first."""
    return [rig for _, rig in pd.read_csv(path).groupby("rig", sort=True)]


def split(rigs: list[pd.DataFrame]) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """Rigs to train on, and other rigs to test on."""
    test = max(1, len(rigs) // 4)
    return rigs[:-test], rigs[-test:]


def rows_of(rigs: list[pd.DataFrame], stages: list[st.Stage], features: list[str] = SENSORS) -> np.ndarray:
    """What the model is given of these rigs, rig after rig."""
    return np.vstack([st.apply(stages, rig[features]) for rig in rigs])


def labels_of(rigs: list[pd.DataFrame], stages: list[st.Stage]) -> np.ndarray:
    """The index in LABELS of the true label of each of these rows."""
    truth = pd.concat([rig.label.iloc[st.calibration(stages) :] for rig in rigs])
    return pd.Categorical(truth, categories=LABELS).codes.astype(np.int64)


def server_of(url: str) -> str:
    """HOST:PORT of a server, given with or without its scheme."""
    return url.rsplit("://", 1)[-1].rstrip("/")


@dataclass
class Version:
    """What model.toml says of a version. `architecture` and `postprocessing` are TOML lines."""

    endpoint: str
    name: str
    version: str
    stages: list[st.Stage]
    postprocessing: str
    intended_use: str
    data: Path
    architecture: str = 'kind = "onnx"\nfile = "model.onnx"'
    features: list[str] = field(default_factory=lambda: SENSORS)
    memory: int = 0
    labelled: bool = False
    """Whether an output row ends with the index of the chosen label."""
    tolerance: float = 1e-4
    author: str = field(default_factory=lambda: os.environ.get("TIDEGATE_AUTHOR", getpass.getuser()))
    created: str = field(default_factory=lambda: os.environ.get("TIDEGATE_CREATED", date.today().isoformat()))
    licence: str = field(default_factory=lambda: os.environ.get("TIDEGATE_LICENCE", "LicenseRef-unstated"))

    def folder(self, out: Path) -> Path:
        """`out/endpoint/name/version`, as in a models folder."""
        return out / self.endpoint / self.name / self.version

    def manifest(self) -> str:
        """The text of model.toml."""
        digest = hashlib.sha256(self.data.read_bytes()).hexdigest()
        head = [
            f'name = "{self.name}"\nversion = "{self.version}"',
            f"memory = {self.memory}\ncalibration = {st.calibration(self.stages)}\nmax_gap_s = 600.0",
            f'author = "{self.author}"\ncreated = "{self.created}"',
            f'intended_use = "{self.intended_use}"\nlicence = "{self.licence}"',
        ]
        if not self.stages:
            head.append('preprocessing = "none"')
        head.append(f"features = {json.dumps(self.features)}")
        simulated = self.data.resolve() == RIGS.resolve()
        origin = ": simulated rigs, written by models/examples/rig_csv.rs" if simulated else ""
        training = f'[training]\ndata = {json.dumps(self.data.name + origin)}\nhash = "{digest}"'
        steps = [f"[[preprocessing]]\n{stage.toml()}" for stage in self.stages]
        tail = [f"[architecture]\n{self.architecture}", f"[postprocessing]\n{self.postprocessing}"]
        return "\n".join(head) + "\n\n" + "\n\n".join([training, *steps, *tail]) + "\n"

    def write(self, out: Path, files: dict[str, bytes], rig: pd.DataFrame, predict: Predict, exact: Predict) -> Path:
        """Writes the folder. `predict` gives Python's float32 outputs, `exact` its float64 ones, for the rig's rows."""
        folder = self.folder(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.toml").write_text(self.manifest())
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / "golden.json").write_text(self.golden(rig, predict))
        reference = reference_of(self.endpoint, self.name, self.version)
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(self.reference(rig, exact))
        print(f"{folder}: {sum(f.stat().st_size for f in folder.iterdir()) // 1024} KiB")
        return folder

    def golden(self, rig: pd.DataFrame, predict: Predict, count: int = 40) -> str:
        """A run through the calibration and over `count` readings more, around the rig's first fault."""
        skip = st.calibration(self.stages)
        values = rig[self.features].to_numpy(dtype=np.float32)
        fault = int((rig.label != "normal").to_numpy().argmax())
        start = max(skip, fault - count // 4)
        readings = np.vstack([values[:skip], values[start : start + count]])
        outputs = predict(st.apply(self.stages, readings))
        calibrating = [[float(seen), float(skip)] for seen in range(1, skip + 1)]
        run = {
            "seed": 0,
            "generated": 0,
            "tolerance": self.tolerance,
            "readings": _numbers(readings),
            "outputs": calibrating + _numbers(outputs),
        }
        if self.labelled:
            run["labels"] = True
        if classes := tomllib.loads(self.postprocessing).get("labels"):
            run["classes"] = classes
        return json.dumps(run, separators=(",", ":")) + "\n"

    def reference(self, rig: pd.DataFrame, exact: Predict, count: int = 1000) -> str:
        """The first readings of `rig`, `count` of them after the calibration, and Python's float64 outputs for these."""
        values = rig[self.features].iloc[: count + st.calibration(self.stages)].to_numpy(dtype=np.float32)
        outputs = exact(st.apply(self.stages, values, np.float64))
        run = {"readings": _numbers(values), "outputs": outputs.tolist()}
        return json.dumps(run, separators=(",", ":")) + "\n"


def reference_of(endpoint: str, name: str, version: str) -> Path:
    """Where Python's float64 outputs of a version are kept."""
    return BUILD / "reference" / f"{endpoint}-{name}-{version}.json"


def with_label(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities followed by the index of the largest, as a labelled output row."""
    return np.column_stack([probabilities, probabilities.argmax(axis=1)])


def without_traces(graph: bytes) -> bytes:
    """An exported PyTorch graph without the lines of Python, paths included, that its nodes came from."""
    model = onnx.load_from_string(graph)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    return model.SerializeToString()


def write_endpoint(out: Path, version: Version, task: str, description: str, rigs: list[pd.DataFrame]) -> None:
    """An endpoint.toml for a task of your own; a feature's usual range is what the data shows, a little wider."""
    text = f'name = "{version.endpoint}"\ndescription = "{description}"\nrevision = 1\ntask = "{task}"\n'
    text += f'default = "{version.name}/{version.version}"\n'
    for name in version.features:
        values = pd.concat([rig[name] for rig in rigs])
        margin = 0.1 * float(values.max() - values.min())
        usual = f"[{values.min() - margin:.4g}, {values.max() + margin:.4g}]"
        text += f'\n[[features]]\nname = "{name}"\nunit = ""\nrange = {usual}\n'
    path = out / version.endpoint / "endpoint.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add(folder: Path, version: Version, models_dir: Path) -> None:
    """`tidegate model add FOLDER --endpoint E --models-dir DIR`; TIDEGATE may name another command, such as target/release/tidegate."""
    call = [COMMAND, "model", "add", folder, "--endpoint", version.endpoint, "--models-dir", models_dir]
    schema = folder.parent.parent / "endpoint.toml"
    if schema.exists():
        call += ["--schema", schema]
    # The command has said why in one line.
    if status := subprocess.run(call, check=False).returncode:
        raise SystemExit(status)


def _numbers(rows: np.ndarray) -> list[list[float]]:
    """As short decimal numbers that read back as the same float32."""
    return [[float(str(value)) for value in row] for row in np.asarray(rows, dtype=np.float32)]
