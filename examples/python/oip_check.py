"""Asks a running server as a client of Triton does, with `tritonclient` from PyPI: live, ready, metadata, infer.

python oip_check.py rig-state --url 127.0.0.1:8080
"""

from __future__ import annotations

import argparse

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}


def infer(client: InferenceServerClient, model: str, version: str, metadata: dict, rows: int, device: str) -> None:
    """Sends `rows` rows of zeros in the shape that the metadata names and prints what comes back."""
    given = metadata["inputs"][0]
    shape = [rows, *(abs(size) for size in given["shape"][1:])]
    tensor = InferInput(given["name"], shape, given["datatype"])
    tensor.set_data_from_numpy(np.zeros(shape, dtype=TYPES[given["datatype"]]), binary_data=False)
    parameters = {"device": device} if device else None
    result = client.infer(model, [tensor], model_version=version, parameters=parameters)
    for output in result.get_response()["outputs"]:
        print(f"  {output['name']} {output['datatype']} {output['shape']}: {result.as_numpy(output['name'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--version", default="")
    parser.add_argument("--url", default="127.0.0.1:8080")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--device", default="", help="for a model with a memory")
    options = parser.parse_args()
    with InferenceServerClient(options.url) as client:
        assert client.is_server_live(), "the server is not live"
        assert client.is_server_ready(), "the server is not ready"
        print("server:", client.get_server_metadata())
        assert client.is_model_ready(options.model, options.version), "the model is not ready"
        metadata = client.get_model_metadata(options.model, options.version)
        print("model:", metadata)
        print("infer:")
        infer(client, options.model, options.version, metadata, options.rows, options.device)
    print("all passed")


if __name__ == "__main__":
    main()
