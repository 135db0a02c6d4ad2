"""``serve:`` of ``image.yaml``: how an engine's own server is started, asked and read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from bench_core.contract.records.record import Record
from bench_core.contract.serving.load import Serve

# A dotted path into JSON: names, and numbers for places in a list.
FieldPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_/.-]*$")]


OPEN_LOOP_SLOTS = 256

PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")  # of a command's word: filled in when the server is started


class PrefixCache(Record):
    """What switches the server's prefix cache off, and on."""

    arguments: tuple[str, ...] = Field((), description="added to the command")
    busy_slots: tuple[str, ...] = Field(
        (), description="added where every slot has a request all the time: closed loops of one concurrency"
    )
    idle_slots: tuple[str, ...] = Field(
        (),
        description="added where slots may have none: open loops, a search for the highest concurrency, several "
        "concurrencies on one server",
    )
    body: dict[str, Any] = Field({}, description="added to each request")

    def words(self, *, idle: bool) -> tuple[str, ...]:
        """Of the command; ``idle``: whether slots may have no request."""
        return (*self.arguments, *(self.idle_slots if idle else self.busy_slots))


class SlotCache(Record):
    """Of a server that takes the memory of all slots' key-value cache when it starts."""

    option: str = Field(description="option that says the type of the cache's numbers")
    devices: tuple[Literal["cuda", "cpu"], ...] = Field((), description="where it does so; everywhere where empty")
    each_load: bool = Field(
        False,
        description="idle slots cost it time: each concurrency has a server of its own, and the open loops have one",
    )
    open_loop: int = Field(
        OPEN_LOOP_SLOTS, ge=1, description="slots for load points that do not say how many requests are in flight"
    )


class ServerEntry(Record):
    """The engine's own server.

    Words of ``command`` may hold ``{python}`` (the image's own interpreter), ``{bin}`` (the
    folder of its programs), ``{image}`` (the image's folder),
    ``{artifact}`` (folder of what the variant reads), ``{host}``, ``{port}``, ``{context_tokens}`` (prompt and output
    of the longest request), ``{slots}`` (requests at once, as far as the run's load points say it and, with
    ``slot_cache``, memory allows), ``{slot_tokens}`` (of all slots together), ``{threads}``, and any option of
    the image by its name.
    """

    command: tuple[str, ...] = Field(min_length=1, description="how it is started")
    check: tuple[str, ...] = Field(
        (),
        description="a command that is run before it where it reads the model's own files (artifact hf): where that "
        "fails, the server is not started, and the last line that it printed is why",
    )
    facts: tuple[str, ...] = Field(
        (),
        description="a command that is run beside it once, when it answers and before anything is measured: it prints "
        "how the server runs, a JSON object of words; {pid} is the server's process",
    )
    ready: UrlPath = Field(description="path that answers 200 when the model is loaded")
    path: UrlPath = Field(description="path that requests are posted to")
    prompt: Literal["ids", "text", "messages"] = Field(
        description="ids: takes token ids; text: a string, checked to encode to these ids; messages: a conversation of "
        "one turn, which the server's template changes, and the cell says so"
    )
    prompt_field: FieldPath = Field("prompt", description="of the request's body")
    length_fields: tuple[FieldPath, ...] = Field(min_length=1, description="that each take the number of output tokens")
    forced: dict[str, Any] = Field({}, description="what of the body makes it write exactly so many tokens")
    body: dict[str, Any] = Field({}, description="the rest of each request's body: greedy, streamed")
    token_ids: FieldPath | None = Field(None, description="of an event: the ids of its tokens, where it tells them")
    ids_left_out: bool = Field(
        False, description="an event may hold more tokens than ids; the usage record then tells how many there were"
    )
    text: FieldPath | None = Field(None, description="of an event: the text of its tokens")
    usage: FieldPath | None = Field(None, description="of some event: how many output tokens there were")
    usage_prompt: FieldPath | None = Field(None, description="of some event: how many prompt tokens there were")
    usage_cached: FieldPath | None = Field(None, description="of some event: prompt tokens taken from the prefix cache")
    error: FieldPath | None = Field(None, description="of an event that tells of a failure: its words")
    prefix_cache_off: PrefixCache = PrefixCache()
    prefix_cache_on: PrefixCache = PrefixCache()
    environment: dict[str, str] = Field({}, description="variables of the server's process alone")
    slot_cache: SlotCache | None = Field(
        None, description="it takes the memory of all slots when it starts, and gets no more than there is memory for"
    )

    def cache_on(self, device: Literal["cuda", "cpu"]) -> SlotCache | None:
        """``slot_cache`` where it holds."""
        cache = self.slot_cache
        return None if cache is None or (cache.devices and device not in cache.devices) else cache

    def prefix_cache(self, *, on: bool) -> PrefixCache:
        """What switches it."""
        return self.prefix_cache_on if on else self.prefix_cache_off

    def wanted_slots(self, at_once: Iterable[int | None]) -> int:
        """Slots for these concurrencies, ``None`` where nobody knows it, whether or not memory holds them."""
        unknown = OPEN_LOOP_SLOTS if self.slot_cache is None else self.slot_cache.open_loop
        return max(unknown if number is None else number for number in at_once)

    def of_one_server(self, loads: Iterable[Serve], device: Literal["cuda", "cpu"]) -> tuple[tuple[Serve, ...], ...]:
        """Load points that one server answers, in their order."""
        cache = self.cache_on(device)
        if cache is None or not cache.each_load:
            return (tuple(loads),)
        together: dict[int | None, list[Serve]] = {}
        for load in loads:
            together.setdefault(load.concurrency, []).append(load)
        return tuple(map(tuple, together.values()))
