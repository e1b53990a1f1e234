"""What MkDocs does for this site beside its plugins: formulas, pages from elsewhere, links.

Pages are written for two places, the repository and the site.  Their links name files of the
repository; here those that leave docs/ lead to the page of the site with that file, or, for code,
become the name alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

import docstring_extension  # noqa: F401  griffe asks for it by name, when docs/ has left the path
from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from math_extension import MathExtension, math_fence
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import notebook_page

ROOT = Path(__file__).resolve().parents[1]

#: Files of the repository that are pages of the site, with the names of the pages.
PAGES = {
    "README.md": "index.md",
    "README_CN.md": "zh/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
#: The page that shows all files in configs/.
CONFIGS = "config_files.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the two extensions of Markdown."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": math_fence}]
    config.markdown_extensions += [MathExtension(), _LINKS]  # type: ignore[list-item]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources are not in docs/."""
    for source, target in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, CONFIGS, content=configs_page()))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = notebook_page(path)
        for name, content in {f"{path.stem}.md": page.text, **page.pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Tell the links from which page they lead."""
    _LINKS.page = page.file.src_uri
    return markdown


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Name the language of pages in Chinese, on which the shapes of the letters depend."""
    is_chinese = page.file.src_uri.startswith("zh/")
    return output.replace('lang="en"', 'lang="zh-CN"', 1) if is_chinese else output


def configs_page() -> str:
    """Return the page with all files in configs/."""
    parts = [
        "# Config files",
        "All of these are part of the package: `autoloss train --config NAME` finds each by the "
        "name that stands over it.",
    ]
    for path in sorted((ROOT / "configs").rglob("*.yml")):
        name = path.relative_to(ROOT / "configs").as_posix()
        parts.append(f"## {name}\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```")
    return "\n\n".join(parts) + "\n"


class _Links(Extension):
    """Leads links that leave docs/ to the page of the site that has what they name."""

    #: Name of the page within docs/.
    page = ""

    def extendMarkdown(self, md: Markdown) -> None:
        # After the links were made, before MkDocs checks them.
        md.treeprocessors.register(_LinkProcessor(self, md), "links_of_repository", 10)

    def target(self, link: str) -> str | None:
        """Return the link within the site, or None where the site does not have the file.

        Args:
            link: as it stands in the page.
        """
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            return link
        own = {page: source for source, page in PAGES.items()}.get(self.page, f"docs/{self.page}")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(own), parts.path))
        anchor = f"#{parts.fragment}" if parts.fragment else ""
        if path in PAGES:
            found = PAGES[path]
        elif path.startswith("configs"):
            found = CONFIGS
            anchor = f"#{_anchor(path)}" if path.endswith(".yml") else ""
        elif path.startswith("docs/") or not (ROOT / path).exists():
            # MkDocs warns of a file that is not there.
            found = re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
        else:
            return None
        return posixpath.relpath(found, posixpath.dirname(self.page) or ".") + anchor


def _anchor(path: str) -> str:
    """Return the anchor of a file on the page of the configs."""
    return path.removeprefix("configs/").replace("/", "").replace(".", "").lower()


class _LinkProcessor(Treeprocessor):
    def __init__(self, links: _Links, md: Markdown) -> None:
        super().__init__(md)
        self.links = links

    def run(self, root: Element) -> None:
        for element in root.iter():
            for attribute in ("href", "src"):
                link = element.get(attribute)
                if link is None:
                    continue
                target = self.links.target(link)
                if target is None:
                    element.tag = "span"
                    element.attrib.pop(attribute)
                else:
                    element.set(attribute, target)


_LINKS = _Links()
