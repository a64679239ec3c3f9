"""Times onnxruntime on 100 full trees of depth 8 over 8 features, one thread: ns a row, one at a time and 256 at a time."""

import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

FEATURES, TREES, DEPTH = 8, 100, 8


def graph():
    random = np.random.default_rng(1)
    branches = 2**DEPTH - 1
    nodes = {key: [] for key in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")}
    target = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(TREES):
        for at in range(2 * branches + 1):
            leaf = at >= branches
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(at)
            nodes["featureids"].append(0 if leaf else int(random.integers(FEATURES)))
            nodes["modes"].append("LEAF" if leaf else "BRANCH_LEQ")
            nodes["values"].append(0.0 if leaf else float(random.uniform(-0.5, 0.5)))
            nodes["truenodeids"].append(0 if leaf else 2 * at + 1)
            nodes["falsenodeids"].append(0 if leaf else 2 * at + 2)
            if leaf:
                target["treeids"].append(tree)
                target["nodeids"].append(at)
                target["ids"].append(0)
                target["weights"].append(float(random.uniform(-1, 1)))
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, aggregate_function="SUM",
        **{f"nodes_{key}": value for key, value in nodes.items()},
        **{f"target_{key}": value for key, value in target.items()},
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph([node], "trees", [x], [y]), opset_imports=opsets, ir_version=8)


def middle(call, calls):
    slices = []
    for _ in range(15):
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        slices.append((time.perf_counter_ns() - start) / calls)
    return sorted(slices)[7]


def main():
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph().SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(2).uniform(-1, 1, (256, FEATURES)).astype(np.float32)
    singles = [{"x": rows[k : k + 1]} for k in range(256)]

    def one_by_one():
        for single in singles:
            session.run(None, single)

    one_by_one()
    print(middle(one_by_one, 8) / 256, middle(lambda: session.run(None, {"x": rows}), 200) / 256)


if __name__ == "__main__":
    main()
