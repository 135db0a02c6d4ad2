"""The page of a finished run made into one that keeps itself up to date."""

from __future__ import annotations

from importlib.resources import files

# The page's own policy lets it reach nothing; this one may ask the server that it is from.
_POLICY = b"default-src 'none';"
_LIVE_POLICY = b"default-src 'none'; connect-src 'self';"
_HEAD_END, _MAIN, _BODY_END = b"</head>", b"<main>", b"</body>"


class PageChanged(Exception):
    """There is no page, or not one that these lines fit into."""


def live_page(page: bytes, version: int) -> bytes:
    """The page with what goes on above its answer, and the program that asks for more.

    Raises:
        PageChanged: it is not the page that this is for.
    """
    # From its end: before that stands what a run holds, which may be any text.
    head, found, rest = page.partition(_HEAD_END)
    start, main, middle = rest.partition(_MAIN)
    body, end, tail = middle.rpartition(_BODY_END)
    if not (found and main and end and head.count(_POLICY) == 1):
        raise PageChanged("the page has another form than this was written for")
    head = head.replace(_POLICY, _LIVE_POLICY)
    parts = (head, _style(), found, start, main, _place(version), body, _program(), end, tail)
    return b"".join(parts)


def waiting_page() -> bytes:
    """As long as there is no page."""
    return b"".join((
        b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        b'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        b'<meta name="color-scheme" content="light dark">\n'
        b'<meta http-equiv="Content-Security-Policy" content="', _LIVE_POLICY,
        b" style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>llm-bench: a run goes on</title>\n",
        _style(), _HEAD_END, b"\n<body>\n<main>\n", _place(0),
        b"<p>The page comes as soon as it can be made without disturbing what is measured.</p>\n</main>\n",
        _program(), _BODY_END, b"\n</html>\n",
    ))  # fmt: skip


def _place(version: int) -> bytes:
    return (
        f'\n<section id="watch" aria-label="What goes on" data-page="{version}">'
        '<p class="head">This run goes on.</p></section>\n'
    ).encode()


def _style() -> bytes:
    return b"<style>\n" + _resource("watch.css") + b"</style>\n"


def _program() -> bytes:
    return b"<script>\n" + _resource("watch.js") + b"</script>\n"


def _resource(name: str) -> bytes:
    return files("bench_core.drive.show").joinpath(name).read_bytes()
