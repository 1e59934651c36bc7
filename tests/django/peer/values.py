"""Converts values of messages to and from JSON without losing their types.

Bytes are `{"bytes": hexadecimal}`, floats `{"float": hexadecimal of the IEEE form}`, and maps `{"map": [[key, value], ...]}`. All
other values have their JSON form.
"""

import struct


def to_json(value):
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, float):
        return {"float": struct.pack(">d", value).hex()}
    if isinstance(value, dict):
        return {"map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(value):
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "bytes":
        return bytes.fromhex(inside)
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(inside))[0]
    return {from_json(key): from_json(item) for key, item in inside}


def depth(value):
    """Returns the nesting depth of a value. Deep values cannot be sent as JSON."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return 1 + max((depth(item) for item in value), default=0)
