"""tf.Example, TensorFlow's record of named lists of numbers: a protocol buffer, whose schema is made here.

Example { Features features = 1 }      Features { map<string, Feature> feature = 1 }
Feature { BytesList = 1 or FloatList = 2 or Int64List = 3 }, each of `repeated value = 1`
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.extras import imported

PACKAGE = "softpack_example"  # TensorFlow has its own beside it, of the same bytes
LISTS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
DTYPES: dict[str, Any] = {"float_list": np.float32, "int64_list": np.int64}


def arrays_of(record: bytes) -> dict[str, np.ndarray]:
    """Return the lists of floats and integers of an example by their names, float32 and int64.

    Raises:
        DataError: it is none, is damaged, or protobuf is not installed.
    """
    example = _example_class()()
    try:
        example.ParseFromString(record)
    except Exception as error:  # its own class of errors differs between versions
        raise DataError(f"is no tf.Example, or is damaged: {str(error)[:100]}") from None
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind in DTYPES:
            found[name] = np.array(getattr(feature, kind).value, DTYPES[kind])
    return found


def example_of(arrays: dict[str, np.ndarray]) -> bytes:
    """Return lists of floats and integers as an example.

    Raises:
        DataError: protobuf is not installed.
    """
    example = _example_class()()
    for name, values in arrays.items():
        feature = example.features.feature[name]
        (feature.float_list if values.dtype.kind == "f" else feature.int64_list).value.extend(values.tolist())
    data: bytes = example.SerializeToString(deterministic=True)
    return data


@cache
def _example_class() -> Any:
    """Return the class of an example."""
    descriptor_pb2, descriptor_pool, message_factory = (
        imported(f"google.protobuf.{name}", "takes protobuf", "language")
        for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto3")

    def add(
        message: Any, name: str, number: int, kind: int | str, is_repeated: bool = False, **more: Any
    ) -> None:
        label = field.LABEL_REPEATED if is_repeated else field.LABEL_OPTIONAL
        if isinstance(kind, str):
            more |= {"type_name": f".{PACKAGE}.{kind}"}
            kind = field.TYPE_MESSAGE
        message.field.add(name=name, number=number, type=kind, label=label, **more)

    for name, kind in zip(LISTS.values(), (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64), strict=True):
        add(file.message_type.add(name=name), "value", 1, kind, is_repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, of) in enumerate(LISTS.items(), 1):
        add(feature, name, number, of, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, "Feature")
    add(features, "feature", 1, "Features.FeatureEntry", is_repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Example"))
