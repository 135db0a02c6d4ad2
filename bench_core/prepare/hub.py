"""The Hugging Face hub: what its libraries raise, as one line and a hint. Tokens are those libraries' own business."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from bench_core.contract.errors import BadInput, MayPass, first_line

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?$")

# No network's fault, and no better in a minute.
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EFBIG)


def is_hub_id(text: str) -> bool:
    """Whether a text can be the id of a repository: ``owner/name`` or ``name``."""
    return bool(HUB_ID.match(text)) and ".." not in text and "--" not in text


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns the failures of a hub request into one line; ``what`` names the repository, as in ``model a/b``.

    Raises:
        BadInput: gated, not there, no such revision, offline or unreachable.
    """
    from huggingface_hub import errors  # noqa: PLC0415 - heavy

    try:
        yield
    except errors.GatedRepoError as error:
        raise BadInput(
            f"{what}: gated: this account has no access, or no token was given",
            "accept its terms on the hub's page, then set HF_TOKEN in the environment",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"{what}: no such revision on the hub", "give a branch, tag or commit that exists") from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"{what}: not on the hub, or private (and no local path)",
            "check the name; a private one needs HF_TOKEN in the environment",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise BadInput(
            f"{what}: the hub is switched off by HF_HUB_OFFLINE", "unset it, or give a local path"
        ) from error
    # HTTPError is the base of the HTTP client's errors, whichever client this version of the library uses.
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        kind = MayPass if _may_pass(error) else BadInput
        raise kind(
            f"{what}: cannot be fetched from the hub: {first_line(error)}", "check the network, or give a local path"
        ) from error


def _may_pass(error: Exception) -> bool:
    """Whether it was the network or the hub itself: no answer, or one that says `later`."""
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status in (408, 429) or status >= 500
