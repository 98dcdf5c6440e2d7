"""Tables of `pluct.toml` as values: whatever cannot be read becomes a sentence."""

from typing import Any, Literal, get_args, get_origin

import msgspec


def read(kind: type[Any], table: Any, where: str, problems: list[str]) -> Any:
    """A table's values as far as they can be read; the others keep their defaults."""
    return kind(**values(kind, table, where, problems))


def values(kind: type[Any], table: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """A table's values, key by key, as far as they can be read. No sentence repeats one: it may be a secret."""
    if not isinstance(table, dict):
        problems.append(f"{where} must be a table.")
        return {}
    known = kinds(kind)
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            problems.append(f"{where}: unknown key {key!r}; known are {', '.join(known) or 'none'}.")
            continue
        try:
            found[key] = msgspec.convert(value, known[key])
        except msgspec.ValidationError:
            problems.append(f"{where}: {key} must be {_wanted(key, known[key])}.")
    return found


def kinds(kind: type[Any]) -> dict[str, Any]:
    """The keys that a table may have, with their types."""
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _wanted(key: str, kind: Any) -> str:
    """What a key's value is to be, in words."""
    if get_origin(kind) is Literal:
        *most, last = (f'"{choice}"' for choice in get_args(kind))
        return f"{', '.join(most)} or {last}"
    if key == "price":
        return 'a decimal string such as "100.00": a number could not be exact'
    words: dict[Any, str] = {str: "a string", int: "a whole number", bool: "true or false"}
    return words.get(kind, "a list of strings")
