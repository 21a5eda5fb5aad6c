"""JSON Schema of the configuration file, for editors and for tools that write it."""

from typing import Any

from sidecar.config.settings import Settings


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) in the file's own names."""
    schema = _tidy(Settings.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "auth-sidecar configuration"}


def _tidy(schema: Any) -> Any:
    """``schema`` without generated titles, and without defaults that are blocks or masked secrets."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items() if not _is_noise(key, value)}
    if isinstance(tidy.get("description"), str):
        tidy["description"] = " ".join(tidy["description"].replace("``", "`").split())
    return tidy


def _is_noise(key: str, value: Any) -> bool:
    # a property may be called "title" or "default" too, but then a schema (with a dict or "$ref") is behind it
    return (key == "title" and isinstance(value, str)) or (
        key == "default" and (value is None or _is_block_default(value) or value == "********")
    )


def _is_block_default(value: Any) -> bool:
    return isinstance(value, dict) and not {"type", "$ref", "anyOf", "description"} & value.keys()
