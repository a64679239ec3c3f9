"""XGBoost: gradient-boosted trees that say what ails a pump rig.

    python xgboost_classifier.py --add my-models

Each rig is seen relative to its own first 400 readings, so one model serves rigs with different levels. Exported by onnxmltools.
"""

from __future__ import annotations

import numpy as np
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import classification_report
from xgboost import XGBClassifier

from stages import Clip, Missing, Rolling, Standardise
from tidegate_export import LABELS, Version, add, arguments, labels_of, rigs_of, rows_of, split, with_label


def main() -> None:
    options = arguments(__doc__, trees=60, depth=4, seed=1)
    stages = [Missing(), Standardise(calibration=400), Clip(-8.0, 8.0), Rolling(8)]
    train, test = split(rigs_of(options.csv))
    model = XGBClassifier(n_estimators=options.trees, max_depth=options.depth, learning_rate=0.2, random_state=options.seed)
    model.fit(rows_of(train, stages), labels_of(train, stages))
    rows = rows_of(test, stages)
    print(classification_report(labels_of(test, stages), model.predict(rows), target_names=LABELS, digits=3))

    version = Version(
        endpoint="rig-state",
        name="xgboost",
        version=options.version,
        stages=stages,
        postprocessing=f'kind = "classes"\nlabels = {LABELS}'.replace("'", '"'),
        intended_use="Names a fault of a rig that was healthy during its calibration; trained on simulated rigs only.",
        data=options.csv,
        memory=8,
        labelled=True,
    )
    graph = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, rows.shape[1]]))])

    def predict(x: np.ndarray) -> np.ndarray:
        return with_label(model.predict_proba(x))

    folder = version.write(options.out, {"model.onnx": graph.SerializeToString()}, test[0], predict, predict)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
