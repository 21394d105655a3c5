"""Makes a site of docs/: what `mkdocs.yml` names as its hook.

Pages are written for a reader of the repository: their links are relative to the file, also to
files outside of docs/, and pictures of the code are Mermaid. So that all of this works on the site,
which asks no other server for anything, the hook

- adds each file outside of docs/ that a page links to, and turns the link to it;
- draws Mermaid diagrams as SVG while the site is built;
- puts what a command prints for `--help` where a page says `<!-- help: cgn-augment parts -->`.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files
    from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parents[1]
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files that are pages of the site though they lie outside of docs/."""

COPIES = "files"
"""Folder of the site for all other files that pages link to."""

LINK = re.compile(r"""(?P<before>\]\(|\b(?:src|href)=")(?P<path>[^)\s#"]+)(?P<after>[^)\s"]*)""")
HELP = re.compile(r"<!-- help: (?P<command>[\w -]+) -->")
COLUMNS = "76"
LANGUAGES = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".toml": "toml"}


def local_links(text: str) -> Iterator[re.Match[str]]:
    """Yields the links of a page to files, in order."""
    return (found for found in LINK.finditer(text) if ":" not in found["path"])


def resolve(path: str, target: str) -> str:
    """Returns the file of the repository that a link of another file leads to.

    Example:
        >>> resolve("docs/clients.md", "../examples/drop_in.py")
        'examples/drop_in.py'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def place_of(path: str) -> str:
    """Returns where a file of the repository is on the site; code is shown as a page.

    Example:
        >>> place_of("docs/shards.md"), place_of("SECURITY.md"), place_of("examples/drop_in.py")
        ('shards.md', 'security.md', 'files/examples/drop_in.py.md')
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    page = ".md" if Path(path).suffix in LANGUAGES else ""
    return PLACES.get(path, f"{COPIES}/{path}{page}")


def turn_links(text: str, path: str) -> str:
    """Returns a page of the repository with links as they are between its places on the site.

    Example:
        >>> turn_links("[set](docs/shards.md#cost)", "README.md")
        '[set](shards.md#cost)'
    """

    def turn(found: re.Match[str]) -> str:
        if ":" in found["path"]:
            return found[0]
        place = place_of(resolve(path, found["path"]))
        relative = posixpath.relpath(place, posixpath.dirname(place_of(path)) or ".")
        return f"{found['before']}{relative}{found['after']}"

    return LINK.sub(turn, text)


def files_outside(repo: Path, pages: Sequence[str]) -> list[str]:
    """Returns the files outside of docs/ that these pages link to, and what those link to."""
    found, waiting = list[str](), list(pages)
    while waiting:
        path = waiting.pop()
        if not path.endswith(".md"):
            continue
        for link in local_links((repo / path).read_text()):
            target = resolve(path, link["path"])
            if target not in found and not target.startswith("docs/") and (repo / target).is_file():
                found.append(target)
                waiting.append(target)
    return found


def show_code(path: str, text: str) -> str:
    """Returns a page that shows a file of code."""
    return f"# {path}\n\n~~~~{LANGUAGES[Path(path).suffix]}\n{text}~~~~\n"


def draw_diagram(source: str, *_: Any, **__: Any) -> str:
    """Returns a Mermaid diagram as SVG, as a formatter of fences."""
    from mmdr import render

    svg = str(render(source).svg())
    if "<svg" not in svg:
        raise ValueError(f"this is no diagram: {source}")
    return f'<div class="diagram">{svg}</div>'


def command_lines() -> dict[str, Callable[[], None]]:
    """Returns the programs by name."""
    from cgn_augment.cli.program import main
    from train_generator.cli.program import main as train_main

    return {"cgn-augment": main, "train-generator": train_main}


def print_help(command: str) -> str:
    """Returns what a command prints for `--help`, in lines that fit the page.

    The usage at its top is left out: it repeats all options, without what they mean.
    """
    name, *words = command.split()
    printed, run = io.StringIO(), command_lines()[name]
    with (
        mock.patch.dict(os.environ, COLUMNS=COLUMNS),
        mock.patch.object(sys, "argv", [name, *words, "--help"]),
        redirect_stdout(printed),
    ):
        try:
            run()
        except SystemExit as stop:
            if stop.code:
                raise ValueError(f"{command} --help ended with {stop.code}") from stop
    text = "".join(each for each in printed.getvalue() if each.isprintable() or each == "\n")
    return text.partition("\n\n")[2]


def insert_help(text: str) -> str:
    """Returns a page with the help of the commands that it names."""
    return HELP.sub(lambda found: f"```text\n{print_help(found['command'])}```", text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draws Mermaid here, and not in the reader's browser by a script from elsewhere."""
    fence = {"name": "mermaid", "class": "mermaid", "format": draw_diagram}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside of docs/ that pages link to."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in dict.fromkeys([*PLACES, *files_outside(REPO, [*pages, *PLACES])]):
        named = path in PLACES
        inclusion = InclusionLevel.UNDEFINED if named else InclusionLevel.NOT_IN_NAV
        content: str | bytes = (REPO / path).read_bytes()
        if isinstance(content, bytes) and Path(path).suffix in LANGUAGES:
            content = show_code(path, content.decode())
        place = place_of(path)
        files.append(File.generated(config, place, content=content, inclusion=inclusion))
        _PATHS[place] = path
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links, and inserts the help of commands."""
    file: File = page.file
    path = _PATHS.get(file.src_uri, f"docs/{file.src_uri}")
    return insert_help(turn_links(markdown, path) if path.endswith(".md") else markdown)


_PATHS: dict[str, str] = {}
"""Of places on the site that are not those in docs/: the file of the repository."""
