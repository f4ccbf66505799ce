"""Real text for the demo: documents and web pages made of what ships with Python itself.

Paragraphs of Python's help topics and of the standard library's sources are drawn in an order that
a seed decides, so that every text differs from every other but compresses like the text it is.
"""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["ROUNDS", "Corpus", "documents_of", "page_of", "write_texts"]

ROUNDS: Final = 28
_DOCUMENTS_A_ROUND: Final = 10
_DOCUMENT_BYTES: Final = 32 * 1024
_PAGE_BYTES: Final = 1024 * 1024

_ELSEWHERE: Final = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests"}
)
_BLANK_LINES: Final = re.compile(r"\n\s*\n")
_SHORTEST: Final = 40
_LONGEST: Final = 4000


class Corpus:
    """A pool of distinct paragraphs, and texts drawn from it. Equal seeds give equal texts.

    Non-ASCII characters are left out, so that a size in characters is a size in bytes.
    """

    def __init__(self) -> None:
        paragraphs = dict.fromkeys(
            paragraph.strip("\n")
            for source in (*_topics(), *_sources())
            for paragraph in _BLANK_LINES.split(source)
            if _SHORTEST <= len(paragraph) <= _LONGEST
        )
        self._paragraphs = list(paragraphs)

    def text(self, seed: str, size: int) -> str:
        """About `size` bytes, at most one paragraph more; none twice while the pool lasts."""
        draw = random.Random(seed)
        parts: list[str] = []
        while size > 0:
            for paragraph in draw.sample(
                self._paragraphs, min(len(self._paragraphs), size // _SHORTEST + 1)
            ):
                parts.append(paragraph)
                size -= len(paragraph) + 2
                if size <= 0:
                    break
        return "\n\n".join(parts)


def write_texts(directory: Path, seed: str) -> None:
    """Write the documents and the page of every round to `directory`: the world the demo looks into."""
    corpus = Corpus()
    for index in range(ROUNDS):
        page = corpus.text(f"{seed} page {index}", _PAGE_BYTES)
        (directory / f"page-{index:02}.txt").write_bytes(page.encode("ascii"))
        for number in range(_DOCUMENTS_A_ROUND):
            text = corpus.text(f"{seed} document {index} {number}", _DOCUMENT_BYTES)
            (directory / f"document-{index:02}-{number}.txt").write_bytes(text.encode("ascii"))


def documents_of(directory: Path, index: int) -> Iterator[tuple[str, str]]:
    """Name and text of each document that round `index` retrieves."""
    for path in sorted(directory.glob(f"document-{index:02}-*.txt")):
        yield path.stem, _read(path)


def page_of(directory: Path, index: int) -> str:
    """The page that round `index` scrapes."""
    return _read(directory / f"page-{index:02}.txt")


def _read(path: Path) -> str:
    # Decoding whole bytes gives a string without the spare room that a text file's reader leaves.
    return path.read_bytes().decode("ascii")


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415  (some distributions leave it out)
    except ImportError:
        return []
    return [topics[name].encode("ascii", "ignore").decode("ascii") for name in sorted(topics)]


def _sources() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if _ELSEWHERE.isdisjoint(path.relative_to(library).parts):
            yield path.read_bytes().decode("ascii", "ignore")
