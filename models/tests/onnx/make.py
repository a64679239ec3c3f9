"""Makes the fixtures beside it: small models of every framework, their inputs, and what ONNX Runtime answers.

Run it when a framework's exporter changes; the files it writes are committed:

    pip install onnx onnxruntime scikit-learn skl2onnx onnxmltools xgboost lightgbm torch onnxscript
    python models/tests/onnx/make.py            # all of them
    python models/tests/onnx/make.py category   # one part; the others stay
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
RNG = np.random.default_rng(7)
N, F = 240, 6
X = (RNG.normal(size=(N, F)) * [1, 2, 0.5, 1, 3, 1] + [0, 1, -1, 0, 2, 0]).astype(np.float32)
Y2 = (X[:, 0] + 0.5 * X[:, 1] + RNG.normal(size=N) * 0.4 > 0.5).astype(int)
Y3 = np.digitize(X[:, 0] + 0.3 * X[:, 4], [0.2, 1.2])
WORDS = np.array(["ok", "worn", "broken"])[Y3]
T = (X[:, 0] * 2 - X[:, 1] + np.sin(X[:, 4])).astype(np.float64)
CASES = []


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


def strip(model):
    """Leaves out what exporters write for people: source lines, shapes between the nodes."""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]


def short(value):
    """As few digits as tell the float apart."""
    return float(str(np.float32(value)))


def answer(value, row):
    """One row's numbers or labels of an output, as JSON."""
    if isinstance(value, list):  # ZipMap: a list of dicts
        return [short(v) for v in value[row].values()]
    part = np.asarray(value)
    part = part.reshape(1, -1)[0] if part.ndim == 0 else part
    flat = np.ravel(part)
    if flat.dtype.kind in "OUS":
        return [str(v) for v in flat]
    return [v.item() if v.dtype.kind in "ib" else short(v) for v in flat]


def add(name, model, rows, *, feed=None, **options):
    """Runs `rows` one at a time, as Tidegate does, and writes model and answers."""
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(model)
    strip(model)
    run = session(model)
    rows = np.asarray(rows, np.float32)
    outputs = [o.name for o in run.get_outputs()]
    answers = {o: [] for o in outputs}
    states = options.get("states", [])
    held = {}
    for row in rows:
        given = feed(row) if feed else {run.get_inputs()[0].name: row.reshape(1, -1)}
        for state_in, _ in states:
            shape = [d if isinstance(d, int) else 1 for d in next(i.shape for i in run.get_inputs() if i.name == state_in)]
            given[state_in] = held.get(state_in, np.zeros(shape, np.float32))
        got = dict(zip(outputs, run.run(outputs, given)))
        for state_in, state_out in states:
            held[state_in] = got[state_out]
        for o in outputs:
            answers[o].append(answer(got[o], 0))
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())
    CASES.append({"name": name, "rows": [[short(v) for v in r.ravel()] for r in rows], "outputs": answers, **options})


def sklearn_cases():
    from sklearn import cluster, decomposition, ensemble, linear_model, neural_network, pipeline, preprocessing, svm, tree
    from skl2onnx import to_onnx

    def sk(name, model, y, rows=24, **options):
        model.fit(X, y) if y is not None else model.fit(X)
        add(f"sk-{name}", to_onnx(model, X[:1], **options), X[:rows])

    pipe = pipeline.make_pipeline
    sk("standard-scaler", preprocessing.StandardScaler(), None)
    sk("minmax-scaler", pipe(preprocessing.MinMaxScaler(clip=True), preprocessing.Normalizer("l1")), None)
    sk("robust-scaler", pipe(preprocessing.RobustScaler(), preprocessing.MaxAbsScaler(), preprocessing.Normalizer()), None)
    sk("normalizer-max", preprocessing.Normalizer("max"), None)
    sk("linear", pipe(preprocessing.StandardScaler(), linear_model.LinearRegression()), T)
    sk("ridge-two-targets", linear_model.Ridge(), np.stack([T, -T * 2], 1))
    sk("logistic", pipe(preprocessing.StandardScaler(), linear_model.LogisticRegression()), Y2)
    sk("logistic-words", pipe(preprocessing.StandardScaler(), linear_model.LogisticRegression()), WORDS)
    sk("ridge-classifier", linear_model.RidgeClassifier(), Y2)
    forest = dict(n_estimators=12, max_depth=5, random_state=1)
    sk("forest", ensemble.RandomForestClassifier(**forest), Y2, 60)
    # Even votes of full trees: labels hang on how the sums are rounded.
    sk("forest-ties", ensemble.RandomForestClassifier(n_estimators=10, random_state=2, bootstrap=True), RNG.integers(0, 2, N), 120)
    sk("forest-words", ensemble.RandomForestClassifier(**forest), WORDS, 60)
    sk("forest-regressor", ensemble.RandomForestRegressor(**forest), T, 60)
    sk("forest-two-targets", ensemble.RandomForestRegressor(n_estimators=5, max_depth=4), np.stack([T, T**2], 1))
    sk("extra-trees", pipe(preprocessing.StandardScaler(), ensemble.ExtraTreesClassifier(**forest)), WORDS, 60)
    sk("extra-trees-regressor", ensemble.ExtraTreesRegressor(**forest), T, 60)
    sk("decision-tree", tree.DecisionTreeClassifier(max_depth=4), Y3, 60)
    boost = dict(n_estimators=15, max_depth=3)
    sk("boosting", ensemble.GradientBoostingClassifier(**boost), Y2, 60)
    sk("boosting-words", ensemble.GradientBoostingClassifier(**boost), WORDS, 60)
    sk("boosting-regressor", ensemble.GradientBoostingRegressor(**boost), T, 60)
    sk("adaboost", ensemble.AdaBoostClassifier(n_estimators=5), Y2)
    iso = ensemble.IsolationForest(n_estimators=6, max_samples=48, random_state=3)
    sk("isolation-forest", iso, None, 60, target_opset={"": 18, "ai.onnx.ml": 3})
    sk("kmeans", cluster.KMeans(4, n_init=1, random_state=0), None)
    sk("pca", pipe(preprocessing.StandardScaler(), decomposition.PCA(3, whiten=True)), None)
    sk("svc-rbf", svm.SVC(), Y2)
    sk("svc-words", pipe(preprocessing.StandardScaler(), svm.SVC(kernel="poly", degree=3)), WORDS)
    sk("svc-probability", pipe(preprocessing.StandardScaler(), svm.SVC(probability=True, random_state=0)), Y3)
    sk("svc-probability-two", svm.SVC(probability=True, random_state=0, kernel="sigmoid", gamma=0.05), Y2)
    sk("linear-svc", svm.LinearSVC(), Y3)
    sk("svr", pipe(preprocessing.StandardScaler(), svm.SVR()), T)
    sk("one-class-svm", svm.OneClassSVM(nu=0.2), None)
    sk("mlp", pipe(preprocessing.StandardScaler(), neural_network.MLPClassifier(hidden_layer_sizes=(16, 8), max_iter=60)), WORDS)
    sk("mlp-two", neural_network.MLPClassifier(hidden_layer_sizes=(8,), max_iter=40, activation="tanh"), Y2)
    sk("mlp-regressor", neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=40, activation="logistic"), T)
    columns_case()
    no_zipmap = ensemble.RandomForestClassifier(n_estimators=3, max_depth=3, random_state=1).fit(X, WORDS)
    add("sk-no-zipmap", to_onnx(no_zipmap, X[:1], options={"zipmap": False}), X[:24])


def columns_case():
    """One input a column, as pipelines over data frames are exported."""
    from sklearn.linear_model import LogisticRegression
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler
    import pandas as pd

    names = [f"c{i}" for i in range(F)]
    frame = pd.DataFrame(X, columns=names)
    scale = ColumnTransformer([("a", StandardScaler(), ["c4", "c0"]), ("b", MinMaxScaler(), ["c1", "c2", "c3", "c5"])])
    model = make_pipeline(scale, LogisticRegression()).fit(frame, Y2)
    types = [(n, FloatTensorType([None, 1])) for n in reversed(names)]
    proto = convert_sklearn(model, initial_types=types)
    feed = lambda row: {n: row[i].reshape(1, 1) for i, n in enumerate(names)}
    add("sk-columns", proto, X[:24], feed=feed, features=names)


def boosting_cases():
    import lightgbm
    import xgboost
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, F]))]
    holes = X[:60].copy()
    holes[RNG.random(holes.shape) < 0.1] = np.nan
    rows = np.concatenate([X[:40], holes])
    kind = dict(n_estimators=12, max_depth=4)
    for name, model, y in [
        ("xgb", xgboost.XGBClassifier(**kind), Y2),
        ("xgb-three", xgboost.XGBClassifier(**kind), Y3),
        ("xgb-regressor", xgboost.XGBRegressor(**kind), T),
    ]:
        add(name, convert_xgboost(model.fit(X, y), initial_types=types), rows)
    kind["verbose"] = -1
    for name, model, y in [
        ("lgbm", lightgbm.LGBMClassifier(**kind), Y2),
        ("lgbm-three", lightgbm.LGBMClassifier(**kind), Y3),
        ("lgbm-regressor", lightgbm.LGBMRegressor(**kind), T),
    ]:
        add(name, convert_lightgbm(model.fit(X, y), initial_types=types), rows)
    # A split by a set of categories is a chain of comparisons that share one branch.
    kinds = np.c_[X[:, :5], np.round(X[:, 5] * 2) + 8].astype(np.float32)
    model = lightgbm.LGBMClassifier(**{**kind, "n_estimators": 4}, cat_smooth=1, min_data_per_group=5)
    model.fit(kinds, (kinds[:, 5].astype(int) * 5 % 3 + Y2) % 3, categorical_feature=[5])
    add("lgbm-categories", convert_lightgbm(model, initial_types=types), kinds[:60])


def torch_cases():
    import io
    import torch
    from torch import nn

    torch.manual_seed(3)

    def export(model, example, dynamo, inputs=("x",), outputs=None, opset=18):
        model.eval()
        if dynamo:
            program = torch.onnx.export(model, example, dynamo=True, input_names=list(inputs), output_names=outputs, verbose=False)
            return program.model_proto
        buffer = io.BytesIO()
        axes = {n: {0: "batch"} for n in inputs[:1]}
        torch.onnx.export(model, example, buffer, dynamo=False, input_names=list(inputs), output_names=outputs, dynamic_axes=axes, opset_version=opset)
        return onnx.load_from_string(buffer.getvalue())

    def both(name, model, shape, rows=8, **options):
        example = (torch.randn(1, *shape),)
        data = RNG.normal(size=(rows, int(np.prod(shape)))).astype(np.float32)
        turned = options.pop("turned", False)
        feed = lambda row: {"x": row.reshape(shape[::-1]).T.reshape(1, *shape) if turned else row.reshape(1, *shape)}
        for dynamo in (False, True):
            add(f"pt-{name}{'-dynamo' if dynamo else ''}", export(model, example, dynamo), data, feed=feed, **options)

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n1 = nn.Linear(F, 24), nn.LayerNorm(24)
            self.b, self.n2 = nn.Linear(24, 16), nn.BatchNorm1d(16)
            self.c = nn.Linear(16, 3)

        def forward(self, x):
            x = nn.functional.gelu(self.n1(self.a(x)))
            return torch.softmax(self.c(nn.functional.silu(self.n2(self.b(x)))), 1)

    normed = Normed()
    normed.n2.running_mean.normal_()
    normed.n2.running_var.uniform_(0.5, 2)

    class Last(nn.Module):
        """A recurrent layer over a window, the last step into a head."""

        def __init__(self, kind, **more):
            super().__init__()
            self.layer = kind(F, 12, batch_first=True, **more)
            self.head = nn.Linear(24 if more.get("bidirectional") else 12, 2)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(F, 16)
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 2)

        def forward(self, x):
            h = self.embed(x)
            b, t, d = h.shape
            q, k, v = self.qkv(h).reshape(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
            mask = torch.tril(torch.ones(t, t)) == 0
            s = (q @ k.transpose(-2, -1) / (d // 4) ** 0.5).masked_fill(mask, float("-inf"))
            h = self.norm(h + self.out((torch.softmax(s, -1) @ v).transpose(1, 2).reshape(b, t, d)))
            return self.head(h.mean(1))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
            self.embed, self.layers = nn.Linear(F, 16), nn.TransformerEncoder(layer, 1)
            self.head = nn.Linear(16, 1)

        def forward(self, x):
            return self.head(self.layers(self.embed(x))[:, -1])

    conv = nn.Sequential(
        nn.Conv1d(F, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm1d(8), nn.MaxPool1d(2), nn.Conv1d(8, 12, 3, dilation=2, padding=2, groups=2),
        nn.LeakyReLU(0.1), nn.AvgPool1d(2, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 3), nn.LogSoftmax(1),
    )
    both("mlp", nn.Sequential(nn.Linear(F, 32), nn.Tanh(), nn.Linear(32, 16), nn.ELU(), nn.Dropout(), nn.Linear(16, 2), nn.Sigmoid()), (F,))
    both("activations", nn.Sequential(nn.Linear(F, 8), nn.Softplus(), nn.Linear(8, 8), nn.Mish(), nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 8), nn.GELU(approximate="tanh"), nn.PReLU(8), nn.Softsign(), nn.Hardsigmoid()), (F,))
    both("normed", normed, (F,))
    both("conv", conv, (F, 16), turned=True, features=[f"c{i}" for i in range(F)])
    both("gru", Last(nn.GRU, num_layers=2), (10, F))
    both("lstm", Last(nn.LSTM, bidirectional=True), (10, F))
    both("rnn", Last(nn.RNN, nonlinearity="relu"), (10, F))
    both("attention", Attention(), (8, F))
    both("encoder", Encoder(), (8, F))
    stream_cases(export)


def stream_cases(export):
    """Stateful graphs: one row in, the state in and out."""
    import torch
    from torch import nn

    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(F, 10), nn.Linear(10, 2)

        def forward(self, x, h0):
            y, hn = self.gru(x.unsqueeze(0), h0)
            return self.head(y[0]), hn

    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(F, 10), nn.Linear(10, 2)

        def forward(self, x, h, c):
            h, c = self.cell(x, (h, c))
            return self.head(h), h, c

    rows = X[:20]
    feed = lambda row: {"x": row.reshape(1, F)}
    for dynamo in (False, True):
        end = "-dynamo" if dynamo else ""
        gru = export(Stream(), (torch.randn(1, F), torch.zeros(1, 1, 10)), dynamo, ("x", "h0"), ["y", "hn"])
        add(f"pt-gru-stream{end}", gru, rows, feed=feed, states=[["h0", "hn"]])
        zeros = torch.zeros(1, 10)
        cell = export(Cell(), (torch.randn(1, F), zeros, zeros), dynamo, ("x", "h", "c"), ["y", "hn", "cn"])
        add(f"pt-lstm-stream{end}", cell, rows, feed=feed, states=[["h", "hn"], ["c", "cn"]])


def node_case(name, nodes, rows, *, shape=None, constants=(), outputs=("y",), opset=18, ml=3, types=None, **options):
    """A graph written by hand, for what exporters seldom write."""
    width = len(rows[0])
    shape = shape or ["N", width]
    result = lambda o: helper.make_empty_tensor_value_info(o) if not types else helper.make_tensor_value_info(o, types[o], None)
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], [result(o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", ml)], ir_version=9)
    sizes = [1 if not isinstance(d, int) else d for d in shape]
    if not types:
        model = onnx.shape_inference.infer_shapes(model)
    add(name, model, rows, feed=lambda row: {"x": row.reshape(sizes)}, **options)


def hand_cases():
    rows = X[:10]
    n = helper.make_node
    f32 = lambda *v: np.asarray(v, np.float32)
    i64 = lambda *v: np.asarray(v, np.int64)
    F32, I64, STR = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
    node_case("hand-reductions", [
        n("ReduceSum", ["x", "axis"], ["a"], keepdims=1), n("ReduceMax", ["x"], ["b"]), n("ReduceMin", ["x", "axis"], ["c"]),
        n("ReduceL2", ["x"], ["d"]), n("ReduceL1", ["x"], ["e"]), n("ReduceLogSumExp", ["x"], ["f"]), n("ReduceMean", ["x", "axis"], ["g"]),
        n("ReduceProd", ["x"], ["h"]), n("Concat", list("abcdefgh"), ["y"], axis=1),
    ], rows, constants=[("axis", i64(-1))], types={"y": F32})
    node_case("hand-moves", [
        n("Reshape", ["x", "shape"], ["r"]), n("Transpose", ["r"], ["t"], perm=[0, 2, 1]), n("Slice", ["t", "from", "to", "axes", "steps"], ["s"]),
        n("Pad", ["s", "pads", "fill"], ["p"], mode="constant"), n("Tile", ["p", "times"], ["i"]), n("Gather", ["i", "pick"], ["g"], axis=2),
        n("Split", ["g", "sizes"], ["u", "v"], axis=2), n("Flatten", ["u"], ["uf"]), n("Squeeze", ["v", "two"], ["w"]), n("CumSum", ["uf", "one"], ["cu"]),
        n("Concat", ["cu", "w"], ["y"], axis=1), n("TopK", ["y", "k"], ["top", "at"], axis=1), n("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
    ], rows, outputs=("y", "top", "at", "best"), types={"y": F32, "top": F32, "at": I64, "best": I64}, constants=[
        ("shape", i64(-1, 3, 2)), ("from", i64(2, -1)), ("to", i64(0, -100)), ("axes", i64(2, 1)), ("steps", i64(-1, -1)), ("pads", i64(0, 0, 1, 0, 0, 0)),
        ("fill", f32(0.5)[0]), ("times", i64(1, 1, 2)), ("pick", i64(3, 0, 1)), ("sizes", i64(2, 1)), ("two", i64(2)), ("one", i64(1)[0]), ("k", i64(3)),
    ])
    node_case("hand-logic", [
        n("Greater", ["x", "zero"], ["p"]), n("LessOrEqual", ["x", "one"], ["q"]), n("And", ["p", "q"], ["pq"]), n("Not", ["pq"], ["np"]),
        n("Xor", ["np", "p"], ["z"]), n("Where", ["z", "x", "one"], ["w"]), n("Cast", ["z"], ["zf"], to=F32), n("Floor", ["w"], ["fl"]),
        n("Mod", ["w", "one"], ["m"], fmod=1), n("Pow", ["w", "three"], ["po"]), n("Abs", ["po"], ["ab"]), n("Pow", ["ab", "third"], ["root"]),
        n("Round", ["x"], ["ro"]), n("Sign", ["x"], ["si"]), n("Cast", ["x"], ["xi"], to=I64), n("Div", ["xi", "two"], ["di"]), n("Cast", ["di"], ["df"], to=F32),
        n("Sum", ["w", "zf", "fl", "m", "root", "ro", "si", "df"], ["y"]), n("Max", ["y", "x", "one"], ["mx"]), n("Clip", ["mx", "zero", "three"], ["cl"]),
        n("Sin", ["x"], ["sn"]), n("Cos", ["x"], ["cs"]), n("Mean", ["sn", "cs", "cl"], ["me"]), n("Equal", ["ro", "fl"], ["eq"]),
    ], rows, outputs=("y", "cl", "me", "eq"), types={"y": F32, "cl": F32, "me": F32, "eq": TensorProto.BOOL},
        constants=[("zero", f32(0)[0]), ("one", f32(1)[0]), ("three", f32(3)[0]), ("third", f32(0.37)[0]), ("two", i64(2)[0])])
    w = RNG.normal(size=(4, 6, 3, 2)).astype(np.float32)
    node_case("hand-conv2d", [
        n("Reshape", ["x", "shape"], ["r"]), n("Conv", ["r", "w", "b"], ["c"], strides=[2, 1], pads=[1, 0, 1, 1]),
        n("AveragePool", ["c"], ["a"], kernel_shape=[2, 2], strides=[1, 2], pads=[0, 1, 1, 0], count_include_pad=1, ceil_mode=1), n("InstanceNormalization", ["a", "s", "z"], ["i"]), n("Flatten", ["i"], ["y"]),
    ], RNG.normal(size=(4, 6 * 20)).astype(np.float32), types={"y": F32},
        constants=[("shape", i64(-1, 6, 5, 4)), ("w", w), ("b", f32(1, 2, 3, 4)), ("s", f32(1, 2, 1, 1)), ("z", f32(0, 0, 1, 2))])
    recurrent_case(n, i64, f32)
    for text, base, weights, ids, transform in [
        ("binary-positive", [], [0.2, 0.9, 0.4], [0, 0, 0], "NONE"), ("binary-mixed", [], [-0.7, 0.9, -0.4], [0, 0, 0], "LOGISTIC"),
        ("binary-mixed-plain", [0.1], [-0.7, 0.9, -0.4], [0, 0, 0], "NONE"), ("binary-one", [0.3], [0.2, 0.4, 0.1], [1, 1, 1], "LOGISTIC"),
        ("binary-both", [], [0.2, 0.8, -0.9, 0.1, 0.4, -0.3], [0, 1] * 3, "SOFTMAX"), ("binary-both-base", [0.3, 0.1], [0.2, 0.8, -0.9, 0.1, 0.4, -0.3], [0, 1] * 3, "LOGISTIC"), ("binary-one-two-base", [0.3, 0.1], [0.2, 0.4, 0.1], [1, 1, 1], "NONE"), ("binary-two-base", [0.3, -0.2], [0.2, 0.9, -0.4], [0, 0, 0], "LOGISTIC"),
        ("binary-positive-logistic", [], [0.2, 0.9, 0.4], [0, 0, 0], "LOGISTIC"), ("binary-softmax", [], [-0.7, 0.9, -0.4], [0, 0, 0], "SOFTMAX"),
    ]:
        tree_case(n, f"hand-tree-{text}", base, weights, ids, transform, rows)
    for transform in ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]:
        for count in (1, 3):
            node_case(f"hand-trees-{count}-{transform.lower().replace('_', '-')}", [n("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **tree_nodes(), n_targets=count,
                target_treeids=[0, 0, 0], target_nodeids=[1, 3, 4], target_ids=[0, 1 % count, 2 % count], target_weights=[0.3, -0.8, 0.6], post_transform=transform,
                aggregate_function="AVERAGE" if count == 3 else "MAX")], rows, types={"y": F32})
    for count, transform in [(1, "LOGISTIC"), (1, "NONE"), (3, "SOFTMAX"), (3, "SOFTMAX_ZERO"), (3, "LOGISTIC")]:
        node_case(f"hand-linear-{count}-{transform.lower().replace('_', '-')}", [n("LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", coefficients=[0.3, -0.2, 0.1, 0.5, -0.1, 0.2] * count,
            intercepts=[0.1, -0.2, 0.3][:count], classlabels_ints=[7, 9, 11][:max(count, 2)], post_transform=transform)], rows, outputs=("label", "y"), types={"label": I64, "y": F32})
    node_case("hand-svc-linear", [n("SVMClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", coefficients=[0.3, -0.2, 0.1, 0.5, -0.1, 0.2] * 2, rho=[0.1], kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0],
        classlabels_strings=["no", "yes"], post_transform="LOGISTIC")], rows, outputs=("label", "y"), types={"label": STR, "y": F32})
    node_case("hand-labels", [
        n("Imputer", ["x"], ["i"], domain="ai.onnx.ml", imputed_value_floats=[0.5], replaced_value_float=float("nan")), n("Binarizer", ["i"], ["b"], domain="ai.onnx.ml", threshold=0.25),
        n("LabelEncoder", ["b"], ["m"], domain="ai.onnx.ml", keys_floats=[0.0, 1.0], values_floats=[-2.5, 4.0]), n("ArgMin", ["i"], ["at"], axis=1, keepdims=0),
        n("LabelEncoder", ["at"], ["word"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 3], values_strings=["a", "b", "c", "d"], default_string="other"),
        n("FeatureVectorizer", ["m", "i"], ["y"], domain="ai.onnx.ml", inputdimensions=[6, 6]),
    ], np.where(RNG.random((10, 6)) < 0.2, np.nan, rows).astype(np.float32), outputs=("word", "y"), types={"word": STR, "y": F32})
    double_trees(n)
    ensemble_case(n, f32, i64)


def tree_nodes():
    return dict(nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 0, 4, 0, 0], nodes_values=[0.1, 0.0, 1.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LT", "LEAF", "BRANCH_GTE", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 3, 0, 0], nodes_falsenodeids=[2, 0, 4, 0, 0])


def tree_case(n, name, base, weights, ids, transform, rows):
    more = {"base_values": base} if base else {}
    node = n("TreeEnsembleClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", **tree_nodes(), **more, class_treeids=[0] * len(ids), class_nodeids=[1, 3, 4] if len(ids) == 3 else [1, 1, 3, 3, 4, 4], class_ids=ids,
        class_weights=weights, classlabels_int64s=[0, 1] if "both" in name else [3, 5], post_transform=transform)
    node_case(name, [node], rows, outputs=("label", "y"), types={"label": TensorProto.INT64, "y": TensorProto.FLOAT})


def recurrent_case(n, i64, f32):
    """The forms of recurrent layers that PyTorch does not write."""
    h = 5
    make = lambda gates, wide: (RNG.normal(size=(2, gates * h, wide)) * 0.5).astype(np.float32)
    nodes, constants = [n("Reshape", ["x", "shape"], ["s"])], [("shape", i64(4, 1, 6))]
    parts = []
    for op, gates in [("GRU", 3), ("LSTM", 4), ("RNN", 1)]:
        constants += [(f"{op}w", make(gates, 6)), (f"{op}r", make(gates, h)), (f"{op}b", make(2 * gates, 1).reshape(2, -1))]
        more = {"linear_before_reset": 0} if op == "GRU" else {}
        outs = [f"{op}y", f"{op}h"]
        nodes += [n(op, ["s", f"{op}w", f"{op}r", f"{op}b"], outs, hidden_size=h, direction="bidirectional", **more), n("Reshape", [f"{op}y", "flat"], [f"{op}f"]), n("Reshape", [f"{op}h", "flat"], [f"{op}g"])]
        parts += [f"{op}f", f"{op}g"]
    constants.append(("flat", i64(1, -1)))
    nodes.append(n("Concat", parts, ["y"], axis=1))
    node_case("hand-recurrent", nodes, RNG.normal(size=(5, 24)).astype(np.float32), shape=[1, 24], constants=constants, types={"y": TensorProto.FLOAT})


def double_trees(n):
    """Thresholds that no float holds: every float must go the way it goes in double."""
    from sklearn.ensemble import RandomForestRegressor
    from skl2onnx import to_onnx

    model = RandomForestRegressor(n_estimators=5, max_depth=5, random_state=0).fit(X.astype(np.float64), T)
    proto = to_onnx(model, X[:1].astype(np.float64), target_opset={"": 18, "ai.onnx.ml": 3})
    # ONNX Runtime answers in float whatever the thresholds are.
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    add("sk-double-forest", proto, X[:60], feed=lambda row: {"X": row.reshape(1, F).astype(np.float64)})


def ensemble_case(n, f32, i64):
    node = n("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, aggregate_function=1, post_transform=0, tree_roots=[0, 2], nodes_featureids=[0, 4, 1],
        nodes_modes=numpy_helper.from_array(np.asarray([0, 4 - 1, 1], np.uint8), "m"), nodes_splits=numpy_helper.from_array(f32(0.1, 1.5, 0.7), "s"), nodes_truenodeids=[0, 1, 3], nodes_trueleafs=[1, 1, 1],
        nodes_falsenodeids=[1, 2, 4], nodes_falseleafs=[0, 1, 1], nodes_missing_value_tracks_true=[0, 1, 0],
        leaf_targetids=[0, 1, 0, 1, 1], leaf_weights=numpy_helper.from_array(f32(1.5, -2, 0.25, 3, 4), "l"))
    node_case("hand-tree-ensemble", [node], X[:20], ml=5, opset=20, types={"y": TensorProto.FLOAT})


def external_case():
    """Weights in a file beside the graph."""
    weights = RNG.normal(size=(F, 3)).astype(np.float32)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "external", [helper.make_tensor_value_info("x", 1, ["N", F])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    add("external", model, X[:4])
    CASES[-1]["files"] = ["external.onnx.data"]
    onnx.save_model(model, str(HERE / "external.onnx"), save_as_external_data=True, location="external.onnx.data", size_threshold=0)


def category_cases():
    """Categories one hot and mapped, sums of products by letters, trees that test sets and share branches."""
    from sklearn import compose, linear_model, pipeline, preprocessing
    from skl2onnx import to_onnx

    bins = preprocessing.KBinsDiscretizer(n_bins=4, encode="onehot-dense", strategy="quantile", quantile_method="averaged_inverted_cdf")
    add("sk-bins-one-hot", to_onnx(pipeline.make_pipeline(bins, linear_model.LogisticRegression()).fit(X, Y2), X[:1]), X[:24])
    whole = np.clip(np.round(X), -2, 3).astype(np.float32)
    hot = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = compose.ColumnTransformer([("hot", hot, [1, 3]), ("plain", preprocessing.StandardScaler(), [0, 2, 4, 5])])
    model = pipeline.make_pipeline(parts, linear_model.LogisticRegression()).fit(whole, WORDS)
    rows = whole[:24].copy()
    rows[3, 1] = 17  # a category that training has not seen
    add("sk-one-hot", to_onnx(model, whole[:1]), rows)

    n = helper.make_node
    f32 = lambda *v: np.asarray(v, np.float32)
    F32, I64, STR = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
    ml = {"domain": "ai.onnx.ml"}
    node_case("hand-categories", [
        n("OneHotEncoder", ["x"], ["hot"], cats_int64s=[2, -1, 0, 5], zeros=1, **ml), n("Cast", ["x"], ["whole"], to=I64),
        n("CategoryMapper", ["whole"], ["words"], cats_int64s=[-1, 0, 1, 2], cats_strings=["low", "none", "one", "two"], default_string="far", **ml),
        n("OneHotEncoder", ["words"], ["named"], cats_strings=["two", "far", "low"], **ml),
        n("CategoryMapper", ["words"], ["again"], cats_int64s=[7, 8, 9], cats_strings=["far", "one", "none"], default_int64=-5, **ml),
        n("ArgMax", ["x"], ["best"], axis=1, keepdims=0), n("CategoryMapper", ["best"], ["word"], cats_int64s=[0, 1, 2], cats_strings=["a", "b", "c"], **ml),
    ], np.round(X[:16] * 1.5), outputs=("hot", "named", "again", "word"), types={"hot": F32, "named": F32, "again": I64, "word": STR})

    a, b = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(2, 3, 5)).astype(np.float32)
    node_case("hand-einsum", [
        n("Reshape", ["x", "cube"], ["c"]), n("Reshape", ["x", "square"], ["q"]), n("Reshape", ["x", "pair"], ["p"]),
        n("Einsum", ["c", "a"], ["y0"], equation="bij,kj->bik"), n("Einsum", ["a", "c"], ["y1"], equation="kj,bij"), n("Einsum", ["c", "b"], ["y2"], equation="bij, bjk -> kib"),
        n("Einsum", ["c", "c"], ["y3"], equation="bij,bkj->bik"), n("Einsum", ["q"], ["y4"], equation="ii->i"), n("Einsum", ["q"], ["y5"], equation="ij->ji"), n("Einsum", ["c"], ["y6"], equation="bij->j"),
        n("Einsum", ["p", "p"], ["y7"], equation="i,j->ji"), n("Einsum", ["p", "p"], ["y8"], equation="i,i"), n("Einsum", ["q"], ["y9"], equation="ii"), n("Einsum", ["c", "q"], ["z0"], equation="bij,ik->ijk"),
    ], RNG.normal(size=(6, 36)).astype(np.float32), shape=[1, 36], outputs=[f"y{i}" for i in range(10)] + ["z0"], types={name: F32 for name in [f"y{i}" for i in range(10)] + ["z0"]},
        constants=[("a", a), ("b", b), ("cube", np.asarray([2, 6, 3])), ("square", np.asarray([6, 6])), ("pair", np.asarray([36]))])
    member_case(n, f32)
    attention_case()


def member_case(n, f32):
    """Sets in branches, and a branch that two nodes and two trees lead to."""
    u8 = lambda *v: numpy_helper.from_array(np.asarray(v, np.uint8), "m")
    node = n("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, aggregate_function=1, post_transform=0, tree_roots=[0, 3], nodes_featureids=[0, 1, 2, 3, 4],
        nodes_modes=u8(6, 0, 1, 6, 3), nodes_splits=numpy_helper.from_array(f32(0, 0.5, 0.2, 0, 1), "s"), membership_values=numpy_helper.from_array(f32(1, 3, -2, np.nan, 2, -1, np.nan), "v"),
        nodes_truenodeids=[1, 0, 2, 4, 3], nodes_trueleafs=[0, 1, 1, 0, 1], nodes_falsenodeids=[2, 1, 4, 2, 0], nodes_falseleafs=[0, 1, 1, 0, 1], nodes_missing_value_tracks_true=[0, 0, 0, 0, 0],
        leaf_targetids=[0] * 5, leaf_weights=numpy_helper.from_array(f32(1, -2, 4, 8, 16), "l"))
    node_case("hand-tree-members", [node], np.round(X[:40]), ml=5, opset=20, types={"y": TensorProto.FLOAT})


def attention_case():
    """A block of attention as people write it by hand."""
    import io
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Parameter(torch.randn(F, 2, 8) * 0.4) for _ in range(3))
            self.out, self.head = nn.Parameter(torch.randn(2, 8, F) * 0.4), nn.Linear(F, 2)

        def forward(self, x):
            q, k, v = (torch.einsum("btf,fhd->bhtd", x, w) for w in (self.q, self.k, self.v))
            weights = torch.softmax(torch.einsum("bhtd,bhsd->bhts", q, k) / 8**0.5, -1)
            mixed = torch.einsum("bhts,bhsd->bthd", weights, v)
            return self.head((x + torch.einsum("bthd,hdf->btf", mixed, self.out)).mean(1))

    torch.manual_seed(5)
    model, example = Block().eval(), torch.randn(1, 8, F)
    buffer = io.BytesIO()
    torch.onnx.export(model, (example,), buffer, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, opset_version=18)
    plain = onnx.load_from_string(buffer.getvalue())
    modern = torch.onnx.export(model, (example,), dynamo=True, input_names=["x"], verbose=False).model_proto
    rows = RNG.normal(size=(8, 8 * F)).astype(np.float32)
    for name, proto in [("pt-einsum", plain), ("pt-einsum-dynamo", modern)]:
        assert any(node.op_type == "Einsum" for node in proto.graph.node), name
        add(name, proto, rows, feed=lambda row: {"x": row.reshape(1, 8, F)})


def kept():
    """The lines of the cases that were not made again."""
    made = {case["name"] for case in CASES}
    lines = [line.rstrip(",") for line in (HERE / "cases.json").read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if json.loads(line)["name"] not in made]


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted:
        (HERE / "cases.json").write_text("")
        for old in HERE.glob("*.onnx*"):
            old.unlink()
    for part in wanted or ["sklearn", "boosting", "torch", "hand", "external", "category"]:
        globals()[f"{part}_cases" if part != "external" else "external_case"]()
    lines = ",\n".join(kept() + [json.dumps(case, separators=(",", ":")) for case in CASES])
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
    total = sum(p.stat().st_size for p in HERE.iterdir())
    print(len(CASES), "cases,", total // 1024, "KiB")
