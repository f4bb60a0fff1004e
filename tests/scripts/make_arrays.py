"""Writes tests/data/arrays/: one small convolutional network as .npz, as ONNX and as ONNX with external data.

NumPy and the `onnx` package are the writers.

    pip install numpy onnx
    python tests/scripts/make_arrays.py tests/data/arrays
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(1)


def conv(n_out, n_in):
    return (random.standard_normal((n_out, n_in, 3, 3)) * (2 / (9 * n_in)) ** 0.5).astype(np.float32)


weights = {
    "stem.weight": conv(16, 3),
    "body.0.weight": conv(24, 16),
    "body.1.weight": conv(24, 24),
    "body.1.bias": random.standard_normal(24).astype(np.float32),
    "head.weight": random.standard_normal((10, 24)).astype(np.float32),
}
np.savez(out / "net.npz", **weights)
np.savez_compressed(out / "compressed.npz", weight=weights["head.weight"])
np.save(out / "head.npy", weights["head.weight"])
np.save(out / "columns.npy", np.asfortranarray(weights["head.weight"]))
np.save(out / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
np.savez(out / "types.npz", **{
    name: np.arange(6).reshape(2, 3).astype(name)
    for name in ["float64", "float32", "float16", "int64", "int32", "int16", "int8",
                 "uint64", "uint32", "uint16", "uint8", "bool"]
})


def graph(tensors):
    """A graph that holds these tensors; what it computes is not what the tests are about."""
    node = helper.make_node("Identity", ["stem.weight" if len(tensors) > 1 else tensors[0].name], ["y"])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "net", [], [value], initializer=tensors),
                             producer_name="modelkin-tests")


raw = [numpy_helper.from_array(values, name) for name, values in weights.items()]
onnx.save(graph(raw), out / "net.onnx")
external = out / "external"
external.mkdir(exist_ok=True)
onnx.save_model(graph(raw), external / "net.onnx", save_as_external_data=True, all_tensors_to_one_file=True,
                location="net.onnx.data", size_threshold=0)
# Values as typed fields instead of raw bytes, of every type that has one.
typed = [
    helper.make_tensor("float32", TensorProto.FLOAT, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("float64", TensorProto.DOUBLE, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("float16", TensorProto.FLOAT16, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("bfloat16", TensorProto.BFLOAT16, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("int64", TensorProto.INT64, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("int32", TensorProto.INT32, [2, 3], [0, 1, 2, 3, 4, -5]),
    helper.make_tensor("int8", TensorProto.INT8, [2, 3], [0, 1, 2, 3, 4, -5]),
    helper.make_tensor("uint8", TensorProto.UINT8, [2, 3], [0, 1, 2, 3, 4, 5]),
    helper.make_tensor("bool", TensorProto.BOOL, [2, 3], [0, 1, 0, 1, 1, 1]),
    helper.make_tensor("strings", TensorProto.STRING, [1], [b"text"]),
]
model = graph(typed)
model.graph.node[0].input[0] = "float32"
onnx.save(model, out / "typed.onnx")
