"""scikit-learn: an isolation forest that tells whether a pump rig is as usual, without labels.

    python sklearn_isolation.py --add my-models

It learns on healthy readings only. Its score is low where a reading is strange; the server turns the sign and compares with the
threshold that one healthy reading in a hundred exceeds. Exported by skl2onnx.
"""

from __future__ import annotations

import numpy as np
from skl2onnx import to_onnx
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from stages import Clip, Missing, Rolling, Standardise
from tidegate_export import Version, add, arguments, labels_of, rigs_of, rows_of, split


def main() -> None:
    options = arguments(__doc__, trees=50, seed=1)
    stages = [Missing(), Standardise(calibration=400), Clip(-8.0, 8.0), Rolling(8)]
    train, test = split(rigs_of(options.csv))
    healthy = rows_of(train, stages)[labels_of(train, stages) == 0]
    model = IsolationForest(n_estimators=options.trees, max_samples=256, random_state=options.seed).fit(healthy)
    threshold = float(np.quantile(-model.decision_function(healthy), 0.99).round(4))
    scores, faulty = -model.decision_function(rows_of(test, stages)), labels_of(test, stages) > 0
    caught, false = (scores > threshold)[faulty].mean(), (scores > threshold)[~faulty].mean()
    print(f"area under the curve {roc_auc_score(faulty, scores):.3f}; of faulty readings {caught:.1%} caught, false alarms {false:.1%}")

    version = Version(
        endpoint="pump-health",
        name="isolation",
        version=options.version,
        stages=stages,
        architecture='kind = "onnx"\nfile = "model.onnx"\noutputs = ["scores"]',
        postprocessing=f'kind = "score"\nsign = -1.0\nthreshold = {threshold}',
        intended_use="Tells when a rig leaves the behaviour of its calibration; trained on simulated rigs only.",
        data=options.csv,
        memory=8,
    )
    graph = to_onnx(model, healthy[:1], target_opset={"": 18, "ai.onnx.ml": 3})

    def predict(x: np.ndarray) -> np.ndarray:
        score = -model.decision_function(x)
        return np.column_stack([score, np.full(len(x), threshold), score > threshold])

    folder = version.write(options.out, {"model.onnx": graph.SerializeToString()}, test[0], predict, predict)
    if options.add:
        add(folder, version, options.add)


if __name__ == "__main__":
    main()
