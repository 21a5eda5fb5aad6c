"""A hook of mkdocs: files outside ``docs/`` that a page links to become part of the site.

The JSON Schema of the configuration file is published as ``sidecar.schema.json``, for editors.

The README is the landing page, and ``docs/index.md`` the list of all pages. Links in the repository stay as written.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from sidecar.config.output.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_README = "index.md"
_CONTENTS = "contents.md"
_SCHEMA = "sidecar.schema.json"


def on_files(files: Files, config: Any) -> Files:
    """Add the README and every file that a page links to."""
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {
        posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), target))
        for source, text in {"../README.md": readme, **pages}.items()
        for _, target, _ in _LINK.findall(text)
    }
    for path in sorted(linked - {"README.md"}):
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    index = files.get_file_from_path("index.md")
    if index is not None:
        files.remove(index)
    files.append(File.generated(config, _CONTENTS, content=pages["index.md"]))
    files.append(File.generated(config, _README, content=readme))
    files.append(File.generated(config, _SCHEMA, content=json.dumps(json_schema(), indent=2)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where ``on_files`` has put their targets."""
    source = page.file.src_uri
    there = {_README: "README.md", _CONTENTS: "docs/index.md"}.get(source, posixpath.join("docs", source))

    def moved(match: re.Match[str]) -> str:
        text, target, fragment = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(there), target))
        if (ROOT / path).is_dir():  # a folder has no page
            return text
        place = _place(path)
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(source) or '.')}{fragment or ''})"

    return _LINK.sub(moved, markdown)


def _place(path: str) -> str:
    """The path in the site of a file of the repository. Markdown outside ``docs/`` is shown as plain text."""
    if path in ("README.md", "docs/index.md"):
        return _README if path == "README.md" else _CONTENTS
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}" + (".txt" if path.endswith((".md", "Dockerfile")) else "")
