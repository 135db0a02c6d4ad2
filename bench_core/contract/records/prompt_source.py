"""Which part of a dataset the prompts are: the column, how it was chosen, and what of it was taken."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench_core.contract.records.record import Record

Chosen = Literal["given", "known_name", "only_text"]
Taken = Literal["whole_text", "first_user_turn", "first_text", "line", "file"]

_CHOSEN: dict[Chosen | None, str] = {
    "given": " (as asked for)",
    "known_name": " (a known name)",
    "only_text": " (the only one with text)",
    None: "",
}
_TAKEN: dict[Taken, str] = {
    "whole_text": "",
    "first_user_turn": ", of each conversation the first turn of the user",
    "first_text": ", of each list the first text",
    "line": "each line of the file",
    "file": "each file of the folder",
}


class PromptSource(Record):
    """Where in a dataset the prompts stand.

    Attributes:
        system_left_out: conversations that begin with a system prompt, which is not part of the prompt.
        begun_by_others: conversations in which somebody else speaks before the user, which is not part of the prompt.
    """

    column: str | None = Field(description="name or dotted path of the column; null for plain text, which has none")
    chosen: Chosen | None = Field(description="how the column was chosen; null for plain text")
    taken: Taken = Field(description="what of the column, or of a text file, is a prompt")
    system_left_out: int = Field(0, ge=0)
    begun_by_others: int = Field(0, ge=0)

    @property
    def words(self) -> str:
        """For a plan and a report, such as ``column 'story' (the only one with text)``."""
        column = f"column {self.column!r}" if self.column is not None else ""
        words = f"{column}{_CHOSEN[self.chosen]}{_TAKEN[self.taken]}"
        if self.system_left_out:
            words += f"; system prompts left out: {self.system_left_out}"
        if self.begun_by_others:
            words += f"; conversations that others begin: {self.begun_by_others}"
        return words

    def agrees(self, other: PromptSource) -> bool:
        """Whether both name the same part of a dataset, however it was chosen."""
        return (self.column, self.taken) == (other.column, other.taken)
