"""scikit-learn: a random forest, or extra trees, that says what ails a pump rig.

    python sklearn_forest.py --add my-models
    python sklearn_forest.py --algorithm extra-trees --add my-models

Each rig is seen relative to its own first 400 readings, so one forest serves rigs with different levels. Exported by skl2onnx.
"""

from __future__ import annotations

import numpy as np
from skl2onnx import to_onnx
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.metrics import classification_report

from stages import Clip, Missing, Rolling, Standardise
from tidegate_export import LABELS, Version, add, arguments, labels_of, rigs_of, rows_of, split, with_label

ALGORITHMS = {"forest": RandomForestClassifier, "extra-trees": ExtraTreesClassifier}


def main() -> None:
    options = arguments(__doc__, algorithm="forest", trees=40, depth=6, window=8, seed=1, version="2.0.0")
    stages = [Missing(), Standardise(calibration=400), Clip(-8.0, 8.0)]
    if options.window > 1:
        stages.append(Rolling(options.window))
    train, test = split(rigs_of(options.csv))
    model = ALGORITHMS[options.algorithm](
        options.trees, max_depth=options.depth, min_samples_leaf=20, class_weight="balanced", random_state=options.seed
    ).fit(rows_of(train, stages), labels_of(train, stages))
    rows = rows_of(test, stages)
    print(classification_report(labels_of(test, stages), model.predict(rows), target_names=LABELS, digits=3))

    version = Version(
        endpoint="rig-state",
        name=options.algorithm,
        version=options.version,
        stages=stages,
        postprocessing=f'kind = "classes"\nlabels = {LABELS}'.replace("'", '"'),
        intended_use="Names a fault of a rig that was healthy during its calibration; trained on simulated rigs only.",
        data=options.csv,
        memory=options.window if options.window > 1 else 0,
        labelled=True,
    )
    graph = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})

    def predict(x: np.ndarray) -> np.ndarray:
        return with_label(model.predict_proba(x))

    folder = version.write(options.out, {"model.onnx": graph.SerializeToString()}, test[0], predict, predict)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
