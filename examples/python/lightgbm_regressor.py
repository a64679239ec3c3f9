"""LightGBM: a soft sensor, the volume flow of a pump rig estimated from its other sensors, as a share of its normal.

    python lightgbm_regressor.py --add my-models

It has an endpoint of its own, `rig-flow`, of the seven features that are not the flow. Exported by onnxmltools.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import mean_absolute_error, r2_score

from stages import Clip, Missing, Rolling, Standardise, calibration
from tidegate_export import SENSORS, Version, add, arguments, rigs_of, rows_of, split, write_endpoint

FEATURES, FLOW = SENSORS[:-1], SENSORS[-1]


def target(rigs: list[pd.DataFrame], skip: int) -> np.ndarray:
    """The flow after the calibration over its mean within it."""
    return np.concatenate([rig[FLOW].iloc[skip:] / rig[FLOW].iloc[:skip].mean() for rig in rigs])


def main() -> None:
    options = arguments(__doc__, trees=80, leaves=15, seed=1)
    stages = [Missing(), Standardise(calibration=400), Clip(-8.0, 8.0), Rolling(8)]
    train, test = split(rigs_of(options.csv))
    model = LGBMRegressor(n_estimators=options.trees, num_leaves=options.leaves, random_state=options.seed, verbose=-1)
    model.fit(rows_of(train, stages, FEATURES), target(train, calibration(stages)))
    guess, truth = model.predict(rows_of(test, stages, FEATURES)), target(test, calibration(stages))
    print(f"R2 {r2_score(truth, guess):.3f}, mean error {mean_absolute_error(truth, guess):.4f} (of 1 = normal flow)")

    version = Version(
        endpoint="rig-flow",
        name="lightgbm",
        version=options.version,
        stages=stages,
        postprocessing='kind = "values"\nnames = ["flow_share"]',
        intended_use="Estimates a rig's flow where the flow meter is broken; trained on simulated rigs only.",
        data=options.csv,
        features=FEATURES,
        memory=8,
    )
    graph = convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, len(FEATURES)]))])

    def predict(x: np.ndarray) -> np.ndarray:
        return model.predict(x).reshape(-1, 1)

    write_endpoint(options.out, version, "regression", "How much water flows, as a share of the normal flow?", train)
    folder = version.write(options.out, {"model.onnx": graph.SerializeToString()}, test[0], predict, predict)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
