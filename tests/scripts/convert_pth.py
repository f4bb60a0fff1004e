"""Converts legacy PyTorch checkpoints of plain float tensors to safetensors, with the standard library alone.

    python3 tests/scripts/convert_pth.py IN.pth OUT.safetensors [IN.pth OUT.safetensors …]

For tests/suite/published.rs, as long as modelkin itself reads no .pth. The pickle may name nothing but
the rebuilding of tensors: everything else is refused, not run.
"""

import collections
import json
import pickle
import struct
import sys

DTYPES = {"FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "LongStorage": ("I64", 8)}


def rebuild(storage, offset, size, stride, *_):
    """What torch calls `_rebuild_tensor_v2`: a view of a storage; only contiguous ones are understood."""
    expected, step = [], 1
    for n in reversed(size):
        expected.insert(0, step)
        step *= n
    if any(n > 1 and s != e for n, s, e in zip(size, stride, expected)):
        raise ValueError(f"a tensor of size {size} and stride {stride} is not contiguous")
    return storage, offset, size


class Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")

    def persistent_load(self, pid):
        kind, storage_type, key, _location, n_elements, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        return storage_type, key, n_elements


def convert(source, target):
    with open(source, "rb") as file:
        for _ in range(3):  # magic number, protocol version, system
            Restricted(file).load()
        tensors = Restricted(file).load()
        keys = Restricted(file).load()
        types = {storage[1]: storage[0] for storage, _, _ in tensors.values()}
        storages = {}
        for key in keys:
            (n_elements,) = struct.unpack("<q", file.read(8))
            storages[key] = file.read(n_elements * DTYPES[types[key]][1])
    header, data = {}, bytearray()
    for name, ((storage_type, key, _), offset, size) in tensors.items():
        dtype, width = DTYPES[storage_type]
        n = 1
        for length in size:
            n *= length
        start = len(data)
        data += storages[key][offset * width:(offset + n) * width]
        header[name] = {"dtype": dtype, "shape": list(size), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


arguments = sys.argv[1:]
for source, target in zip(arguments[::2], arguments[1::2]):
    convert(source, target)
