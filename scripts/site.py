"""Collects the pages of the documentation for mkdocs, from where they are in the repository; see mkdocs.yml.

Links between them are relative, so that they work on a code host and on the site alike.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from warpzoo.bundles import open_bundle
from warpzoo.sharing.card import card

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/**/*", "bundles/*/docs/**/*")
KINDS = (".md", ".png", ".svg", ".txt", ".json", "")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    found = [
        path for pattern in PAGES for path in sorted(ROOT.glob(pattern)) if path.is_file() and path.suffix in KINDS
    ]
    pages = [_file(path.relative_to(ROOT).as_posix(), config) for path in found]
    cards = [
        File.generated(config, f"bundles/{root.name}/card.md", content=card(open_bundle(root)))
        for root in sorted(ROOT.glob("bundles/*"))
        if (root / "configs").is_dir()
    ]
    theme = [file for file in files if not Path(file.abs_src_path or "").is_relative_to(ROOT / "docs")]
    return Files([*theme, *pages, *cards])


def _file(name: str, config: MkDocsConfig) -> File:
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls)
