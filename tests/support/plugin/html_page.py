"""An HTML page as a strict reader sees it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, texts and attributes, as a strict reader sees them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.words.append(data)

    def all(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [
            value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name
        ]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def parts_that_cannot_be_followed(self) -> set[str]:
        """Ids that stand twice, and those that something names and nothing has."""
        ids = self.all("id")
        named = {target[1:] for target in self.all("href") if target[0] == "#"}
        named |= {name for value in self.all("aria-labelledby") for name in value.split()}
        return {name for name in ids if ids.count(name) > 1} | named - set(ids)
