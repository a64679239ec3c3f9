"""Asks a running server as a client of Triton does, with `tritonclient` from PyPI: live, ready, metadata, infer.

    python oip_check.py rig-state

Sends the first readings of a rig as one tensor. A model with a memory is asked as a device, which is new at each call.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tritonclient.http import InferenceServerClient, InferInput, InferResult

from tidegate_export import BUILD, server_of


def check(holds: bool, what: str) -> None:
    """Prints what was asked; ends where it does not hold."""
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(1)


def infer(client: InferenceServerClient, options: argparse.Namespace, metadata: dict) -> InferResult:
    """Rows of the CSV file in the order of features that the metadata names."""
    given = metadata["inputs"][0]
    table = pd.read_csv(options.csv, nrows=options.rows)
    rows = table[given["parameters"]["features"]].to_numpy(dtype=np.float32)
    tensor = InferInput(given["name"], list(rows.shape), given["datatype"])
    tensor.set_data_from_numpy(rows, binary_data=options.binary)
    stateful = metadata["parameters"]["stateful"]
    parameters = {"device": f"oip-{time.time_ns() // 1_000_000}"} if stateful else None
    return client.infer(options.model, [tensor], model_version=options.version, parameters=parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an endpoint")
    parser.add_argument("--version", default="", help="such as forest-1.1.0")
    parser.add_argument("--url", default=os.environ.get("TIDEGATE_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--csv", type=Path, default=BUILD / "rigs.csv")
    parser.add_argument("--rows", type=int, default=420)
    parser.add_argument("--binary", action="store_true", help="send the tensor as bytes behind the JSON")
    options = parser.parse_args()
    with InferenceServerClient(server_of(options.url)) as client:
        check(client.is_server_live(), "server live")
        check(client.is_server_ready(), "server ready")
        server = client.get_server_metadata()
        print(f"server: {server['name']} {server['version']}, {server['extensions']}")
        check(client.is_model_ready(options.model, options.version), "model ready")
        metadata = client.get_model_metadata(options.model, options.version)
        for key in ("name", "versions", "inputs", "outputs"):
            print(f"model {key}: {metadata[key]}")
        result = infer(client, options, metadata)
        told = result.get_response()["outputs"]
        for output in told:
            print(f"{output['name']} {output['datatype']} {output['shape']}, the last: {result.as_numpy(output['name'])[-1]}")
        check(all(output["shape"][0] == options.rows for output in told), "one answer a row")


if __name__ == "__main__":
    main()
