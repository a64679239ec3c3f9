"""Streams 1,000 readings to a running server and compares its answers with onnxruntime and with Python's own.

    python compare.py rig-state/forest/1.0.0 rig-flow/lightgbm/1.0.0 --models build

The server must answer what onnxruntime answers for the same file and the same float32 rows: within 1e-5 x max(1, |y|), the same
label. Python's own float64 prediction may differ a little more, and a tree may take another branch; such rows are listed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import stages as st
from tidegate_export import BUILD, reference_of, server_of

LIMIT = 1e-5
AT_ONCE = 50
"""Readings on the way at a time."""


def served(url: str, endpoint: str, version: str, readings: np.ndarray) -> list[dict]:
    """The server's output for each reading, sent as a new device pinned to the version."""
    device = f"compare-{time.time_ns() // 1_000_000}"
    address = f"ws://{server_of(url)}/v1/stream/{endpoint}?device={device}&version={version}"
    outputs: list[dict] = []
    with connect(address) as socket:
        for seq, values in enumerate(readings):
            socket.send(json.dumps({"seq": seq, "values": [float(str(value)) for value in values]}))
            while (seq + 1) % AT_ONCE == 0 and len(outputs) <= seq:
                take(socket.recv(), outputs)
        while len(outputs) < len(readings):
            take(socket.recv(), outputs)
    return outputs


def take(message: str | bytes, outputs: list[dict]) -> None:
    """Keeps a prediction's output; anything but predictions, acks and the welcome ends the comparison."""
    said = json.loads(message)
    if said["type"] == "prediction":
        outputs.append(said["output"])
    elif said["type"] not in ("welcome", "ack"):
        raise SystemExit(f"the server said {said}")


def numbers(output: dict, labels: list[str]) -> list[float]:
    """An output as one row: probabilities and the label's index, score and threshold and whether it is above, or values."""
    if "score" in output:
        return [output["score"], output["threshold"], float(output["anomaly"])]
    if "probabilities" in output:
        return [*(output["probabilities"][label] for label in labels), labels.index(output["label"])]
    values = output.get("values")
    if values is None:
        raise SystemExit(f"the server answered {output}")
    return list(values.values()) if isinstance(values, dict) else values


def from_onnxruntime(folder: Path, manifest: dict, rows: np.ndarray) -> np.ndarray:
    """The same rows through the same file, one by one, states carried on."""
    session = onnxruntime.InferenceSession(folder / manifest["architecture"]["file"])
    pairs = manifest["architecture"].get("states", [])
    names = [output.name for output in session.get_outputs()]
    shapes = {given.name: given.shape for given in session.get_inputs()}
    state = {pair["input"]: np.zeros(shapes[pair["input"]], dtype=np.float32) for pair in pairs}
    row_input = next(name for name in shapes if name not in state)
    out = []
    for row in rows:
        given = dict(zip(names, session.run(None, {row_input: row[None], **state}), strict=True))
        state = {pair["input"]: given.pop(pair["output"]) for pair in pairs}
        out.append(answer(list(given.values()), manifest["postprocessing"]))
    return np.array(out, dtype=np.float32)


def answer(given: list[np.ndarray], postprocessing: dict) -> np.ndarray:
    """A graph's outputs as one row, after what the server does behind the graph."""
    values = next(output for output in given if output.dtype == np.float32).reshape(-1)
    if postprocessing["kind"] == "score":
        score = postprocessing["sign"] * values[0]
        return np.array([score, postprocessing["threshold"], score > postprocessing["threshold"]])
    if postprocessing["kind"] != "classes":
        return values
    if postprocessing.get("activation") == "softmax":
        values = np.exp(values - values.max())
        values = values / values.sum()
    label = next((output.item() for output in given if output.dtype == np.int64), values.argmax())
    return np.append(values, np.float32(label))


def row_of_table(name: str, got: np.ndarray, want: np.ndarray, labelled: bool) -> bool:
    """Prints the differences; whether all are within the limit and all labels equal."""
    values = slice(None, -1) if labelled else slice(None)
    off = np.abs(got[:, values] - want[:, values])
    relative = (off / np.maximum(1.0, np.abs(want[:, values]))).max(axis=1)
    flipped = np.flatnonzero(got[:, -1] != want[:, -1]) if labelled else np.array([], dtype=int)
    beyond = np.flatnonzero(relative > LIMIT)
    print(f"  {name:24} {off.max():10.2e} {relative.max():12.2e} {len(beyond):8} {len(flipped):8}")
    for title, rows in (("beyond the limit", beyond), ("another label", flipped)):
        if len(rows):
            print(f"    rows {title}: {', '.join(map(str, rows[:20]))}{' ...' if len(rows) > 20 else ''}")
    return len(beyond) == 0 and len(flipped) == 0


def compare(url: str, models: Path, path: str) -> bool:
    """One version's table; whether the server and onnxruntime agree."""
    endpoint, name, version = path.split("/")
    folder = models / path
    manifest = tomllib.loads((folder / "model.toml").read_text())
    reference = json.loads(reference_of(endpoint, name, version).read_text())
    readings = np.array(reference["readings"], dtype=np.float32)
    labels = manifest["postprocessing"].get("labels", [])
    skip = manifest["calibration"]
    got = np.array([numbers(output, labels) for output in served(url, endpoint, f"{name}/{version}", readings)[skip:]])
    print(f"{path}: {len(got)} readings after {skip} of calibration")
    print(f"  {'server against':24} {'largest':>10} {'/ max(1,|y|)':>12} {'> 1e-5':>8} {'labels':>8}")
    agrees, labelled = True, manifest["postprocessing"]["kind"] in ("classes", "score")
    if "file" in manifest["architecture"]:
        rows = st.apply(st.read(folder / "model.toml"), readings)
        agrees = row_of_table("onnxruntime, float32", got, from_onnxruntime(folder, manifest, rows), labelled)
    row_of_table("Python itself, float64", got, np.array(reference["outputs"]), labelled)
    return agrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="+", help="ENDPOINT/MODEL/VERSION")
    parser.add_argument("--models", type=Path, default=BUILD, help="folder that holds them")
    parser.add_argument("--url", default=os.environ.get("TIDEGATE_URL", "http://127.0.0.1:8080"))
    options = parser.parse_args()
    try:
        results = [compare(options.url, options.models, path) for path in options.versions]
    except (OSError, ConnectionClosed) as error:
        raise SystemExit(f"{options.url}: {error}") from None
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
