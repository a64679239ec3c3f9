"""Times onnxruntime, one thread, ns a row: 100 full trees of depth 8 over 8 features, one at a time and 256 at a time; then the MLP of
the benchmark, one at a time.

    python yardstick.py           # prints the three
    python yardstick.py write     # writes mlp.onnx anew: the network of make.rs with its seeded weights
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FEATURES, TREES, DEPTH = 8, 100, 8
MLP = Path(__file__).with_name("mlp.onnx")


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


def numbers(seed, count):
    """As `numbers` of make.rs: between -1 and 1."""
    mask = 2**64 - 1
    random, values = seed * 0x9E3779B97F4A7C15 & mask | 1, []
    for _ in range(count):
        random ^= random >> 12
        random = (random ^ random << 25) & mask
        random ^= random >> 27
        values.append((random * 0x2545F4914F6CDD1D & mask) >> 40)
    return np.asarray(values, np.float32) / np.float32(2**23) - np.float32(1)


def tensor(name, shape):
    seed = 7
    for byte in name.encode():
        seed = (seed * 31 + byte) % 1_000_003
    return numpy_helper.from_array((np.float32(0.3) * numbers(seed, int(np.prod(shape)))).reshape(shape), name)


def perceptron():
    nodes, weights, below = [], [], "x"
    for k, (inputs, outputs) in enumerate([(FEATURES, 32), (32, 32), (32, 1)]):
        names = [f"layer{k}.weight", f"layer{k}.bias"]
        weights += [tensor(names[0], (outputs, inputs)), tensor(names[1], (outputs,))]
        nodes.append(helper.make_node("Gemm", [below, *names], ["y" if k == 2 else f"sum{k}"], transB=1))
        if k < 2:
            nodes.append(helper.make_node("Tanh", [f"sum{k}"], [f"out{k}"]))
            below = f"out{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    return helper.make_model(helper.make_graph(nodes, "mlp", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


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
    open_session = lambda model: ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session, mlp = open_session(graph().SerializeToString()), open_session(MLP.read_bytes())
    rows = np.random.default_rng(2).uniform(-1, 1, (256, FEATURES)).astype(np.float32)
    singles = [{"x": rows[k : k + 1]} for k in range(256)]

    def one_by_one(session):
        for single in singles:
            session.run(None, single)

    one_by_one(session)
    one_by_one(mlp)
    print(middle(lambda: one_by_one(session), 8) / 256, middle(lambda: session.run(None, {"x": rows}), 200) / 256, middle(lambda: one_by_one(mlp), 8) / 256)


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        MLP.write_bytes(perceptron().SerializeToString())
    else:
        main()
