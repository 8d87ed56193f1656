"""What a value read from JSON is, said so that a type checker follows."""

import json
from typing import Any, TypeGuard


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    """Return whether `value` is a JSON array."""
    return isinstance(value, list)


def load_or_none(text: str) -> Any:
    """Return the value of JSON text, or None if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
