"""An HTML page, read strictly: what tests of reports ask for."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr", "col", "source", "wbr"}


class Page(HTMLParser):
    """Checks that every element is closed where it was opened, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def boxes(self) -> list[dict[str, str | None]]:
        """Boxes that scroll: each can be reached by keys, and has a name of its own."""
        boxes = [a for _, a in self.elements if "scroll" in (a.get("class") or "").split()]
        assert all(box["tabindex"] == "0" and box["role"] == "group" for box in boxes)
        names = [box["aria-label"] for box in boxes]
        assert all(names)
        return boxes

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
