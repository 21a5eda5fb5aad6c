"""A hook of mkdocs: what the pages link to outside ``docs/`` becomes part of the site.

The README is its first page. In the repository the links go on working as they are written.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_START = "start.md"


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
    files.append(File.generated(config, _START, content=readme))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links go to where ``on_files`` has put things."""
    source = page.file.src_uri
    there = "README.md" if source == _START else posixpath.join("docs", source)

    def moved(match: re.Match[str]) -> str:
        text, target, fragment = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(there), target))
        if (ROOT / path).is_dir():  # there is nothing to show for it
            return text
        place = _START if path == "README.md" else _place(path)
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(source) or '.')}{fragment or ''})"

    return _LINK.sub(moved, markdown)


def _place(path: str) -> str:
    """Where a file of the repository lies in the site. A page that is no page of the site is shown as it is."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}" + (".txt" if path.endswith((".md", "Dockerfile")) else "")
