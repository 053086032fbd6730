"""What may change in a published schema: optional fields may be added, and nothing else.

New values are allowed where a field has a pattern and its description lists the values in use, such as the
kinds of events: descriptions are not compared. A closed list (`enum`) cannot change within a version.
"""

from collections.abc import Iterator
from typing import Any

_TEXTS = {"title", "description", "examples", "$comment"}
_SETS = {"enum", "required", "type"}


def incompatibilities(published: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return every change in `schema` that can break a consumer written against `published`.

    A constraint that was widened breaks it too: the consumer may receive a value that it rejects.
    """
    return list(_object(_plain(published, published), _plain(schema, schema), "$"))


def _plain(node: Any, root: dict[str, Any]) -> Any:
    """Return a schema with its references resolved and its descriptions removed."""
    match node:
        case {"$ref": str(reference), **beside}:
            target: Any = root
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
            return _plain({**target, **beside}, root)
        case {"properties": fields, **rest}:
            return {"properties": {name: _plain(field, root) for name, field in fields.items()}} | _plain(
                rest, root
            )
        case dict():
            kept = node.keys() - _TEXTS - {"definitions"}
            return {
                key: sorted(node[key], key=str) if _is_set(key, node) else _plain(node[key], root)
                for key in kept
            }
        case list():
            return [_plain(item, root) for item in node]
        case _:
            return node


def _is_set(key: str, node: dict[str, Any]) -> bool:
    return key in _SETS and isinstance(node[key], list)


def _object(published: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    for key in sorted(published.keys() | schema.keys()):
        before, after = published.get(key), schema.get(key)
        if key == "properties" and isinstance(before, dict) and isinstance(after, dict):
            yield from _fields(before, after, path)
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from _object(before, after, f"{path}.{key}")
        elif before != after:
            yield f"{path}: {key} was {before}, is {after}"


def _fields(published: dict[str, Any], fields: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in published.items():
        if name in fields:
            yield from _object(field, fields[name], f"{path}.{name}")
        else:
            yield f"{path}: {name} was removed"
