"""The commit that a run was made from."""

from __future__ import annotations

import shutil
import subprocess

from bench_core.drive.plan.catalogue import REPOSITORY


def git_commit() -> str | None:
    """The repository's commit, with ``+`` where tracked files differ from it; ``None`` without git or a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    commit = _ask([git, "-C", str(REPOSITORY), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changed = _ask([git, "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no"])
    return commit + ("+" if changed else "")


def _ask(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
