"""A table on a terminal too narrow for its columns: a block of lines for each row, so that nothing is cut."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_LONGEST_WORD = 20  # longer ones (paths, causes) may be folded within a column
_BESIDE_A_CELL = 3  # its rule and two spaces


def fitted(shown: RenderableType, console: Console) -> RenderableType:
    """A table as it is where each of its columns has room for its longest word, else its rows as blocks. What is no
    table stays as it is. Left to itself rich takes from the widest columns alone, below their longest word too, and
    cuts what stands there."""
    if not isinstance(shown, Table):
        return shown
    table = shown
    columns = [_texts(table, place) for place in range(len(table.columns))]
    least = [_longest_word(texts) for texts in columns]
    room = console.width - 1 - _BESIDE_A_CELL * len(columns)
    if sum(least) > room:
        return _blocks(table)
    most = [max(cell_len(line) for text in texts for line in [*text.plain.splitlines(), ""]) for texts in columns]
    if sum(most) > room:
        for column, width in zip(table.columns, _shared_out(least, most, room), strict=True):
            column.width, column.overflow = width, "fold"
    return table


def _shared_out(least: list[int], most: list[int], room: int) -> list[int]:
    """Widths that sum to the room at most: who lacks little has it all, the others what is left in equal parts."""
    widths, left = list(least), room - sum(least)
    order = sorted(range(len(least)), key=lambda place: most[place] - least[place])
    for others, place in zip(range(len(order), 0, -1), order, strict=True):
        given = min(most[place] - least[place], left // others)
        widths[place] += given
        left -= given
    return widths


def _texts(table: Table, place: int) -> list[Text]:
    column = table.columns[place]
    return [_text(column.header), *map(_text, column.cells)]


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _longest_word(texts: list[Text]) -> int:
    return max((min(cell_len(word), _LONGEST_WORD) for text in texts for word in text.plain.split()), default=0)


def _blocks(table: Table) -> Group:
    columns = [_texts(table, place) for place in range(len(table.columns))]
    parts: list[RenderableType] = [_whole(table.title)] if table.title else []
    for row in range(1, len(columns[0])):
        head = Text(columns[0][row].plain, style="bold")
        facts = [Text.assemble(f"{' '.join(one[0].plain.split())}: ", one[row]) for one in columns[1:]]
        parts += [head, Padding(Text("\n").join(facts), (0, 0, 0, 2))]
    return Group(*parts, *([_whole(table.caption)] if table.caption else []))


def _whole(text: str | Text) -> Text:
    found = text.copy() if isinstance(text, Text) else Text(text)
    found.overflow = "fold"
    return found
