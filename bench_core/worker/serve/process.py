"""The server's process: started, watched until it answers, and judged where it dies."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping

from bench_core.contract.errors import shortened
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST, Outcome, Verdict
from bench_core.contract.serving.sidecar import ServerState
from bench_core.system.nvml import Readings
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.sample.cgroup import oom_kills
from bench_core.worker.sample.sampler import Sampler
from bench_core.worker.supervise.log import EngineLog, last_line
from bench_core.worker.supervise.reaper import Reaper
from bench_core.worker.supervise.verdict import exit_words

_ASK_EVERY_S = 0.1
_ANSWER_WITHIN_S = 5.0
_TERMINATION_GRACE_S = 10.0
_FACTS_WITHIN_S = 60.0
_MOST_FACTS = 50
_LONGEST_FACT = 1000


class ServerProcess:
    """One life of the server. Its own threads wait for it: nothing has to be called while it is measured."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        ready_url: str,
        load_timeout_s: float,
        gpu: Readings | None,
        out_of_memory_signs: tuple[str, ...],
        facts_command: Callable[[int], list[str]] = lambda _: [],
    ) -> None:
        """``facts_command``: of the server's process; empty where it tells nothing of itself."""
        self._environment = {**os.environ, **environment}
        self._facts_command = facts_command
        self._facts: dict[str, str] = {}
        self._ready_url = ready_url
        self._load_timeout_s = load_timeout_s
        self._signs = out_of_memory_signs
        self._lock = threading.Lock()
        self._ready_s = 0.0
        self._verdict: Verdict | None = None
        self._too_late = False
        self._stopped = False
        self._oom_kills_before = oom_kills()
        log_read, log_write = os.pipe()
        self.began_s = seconds(monotonic_ns())
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            os.close(log_write)
        self._reaper = Reaper(self.process.pid)
        self.log = EngineLog(log_read, sys.stderr.buffer)
        self.sampler = Sampler(self.process.pid, gpu)
        self.sampler.start()
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, name="server's end", daemon=True).start()
        threading.Thread(target=self._await_ready, name="server's readiness", daemon=True).start()

    @property
    def state(self) -> ServerState:
        """How it is now."""
        with self._lock:
            name = "dead" if self._verdict is not None else "ready" if self._ready_s else "loading"
            return ServerState.model_validate(
                {
                    "state": name,
                    "began_s": self.began_s,
                    "ready_s": self._ready_s,
                    "facts": self._facts,
                    "verdict": self._verdict,
                }
            )

    def stop(self) -> None:
        """Asks it to end, and ends it where it does not; returns when it has."""
        self._stopped = True
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        if not self._ended.wait(_TERMINATION_GRACE_S):
            self._kill()
            self._ended.wait(_TERMINATION_GRACE_S)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _await_ready(self) -> None:
        deadline = self.began_s + self._load_timeout_s
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._ended.is_set():
            if _answers(opener, self._ready_url):
                ready_s = seconds(monotonic_ns())
                self.sampler.sample()
                facts = facts_told(self._facts_command(self.process.pid), self._environment)
                with self._lock:
                    self._ready_s, self._facts = ready_s, facts
                return
            if seconds(monotonic_ns()) > deadline:
                self._too_late = True
                self._kill()
                return
            self._ended.wait(_ASK_EVERY_S)

    def _await_end(self) -> None:
        # Not `wait()`: the reaper, which ends what the server leaves running, must see it first.
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        code = self.process.wait()
        self.sampler.stop()
        self._kill()
        self._reaper.join()
        verdict = self._judged(code)
        with self._lock:
            self._verdict = verdict
        self._ended.set()

    def _judged(self, exit_code: int) -> Verdict:
        loading = not self._ready_s
        printed = self.log.tail()
        sign = next((sign for sign in self._signs if sign in printed.lower()), None)
        evidence = {**self.sampler.memory().words, "last_line": last_line(printed)}
        words = exit_words(exit_code)
        memory = Outcome.OOM_LOAD if loading else Outcome.OOM_KV
        if self._too_late:
            outcome, cause = Outcome.TIMEOUT, f"the server did not answer within {self._load_timeout_s:g} s"
        elif oom_kills() > self._oom_kills_before:
            outcome, cause = memory, "the kernel ended the server: the container's memory limit was reached"
        elif self._stopped:
            outcome, cause = Outcome.KILLED, STOPPED_ON_REQUEST
        elif sign is not None:
            outcome, cause = memory, f"the server ended itself ({words}), having said {sign!r}"
        elif loading and exit_code >= 0:
            outcome = Outcome.LOAD_FAILED
            cause = f"the server ended with {words} before it answered: {last_line(printed) or 'it said nothing'}"
        elif exit_code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            outcome, cause = Outcome.KILLED, f"the server was ended from outside by {words}"
        else:
            outcome, cause = Outcome.CRASHED, f"the server ended with {words} while requests were sent to it"
        phase = "load" if loading else "measure"
        found = {"outcome": outcome, "cause": cause, "phase": phase, "judged_by": "worker"}
        return Verdict.model_validate({**found, "exit_code": exit_code, "evidence": evidence})


def facts_told(command: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """What a command prints of a server, a JSON object of words; ``facts``: why there is nothing of it, where it fails.
    Nothing for no command."""
    if not command:
        return {}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(environment),
            timeout=_FACTS_WITHIN_S,
            check=False,
        )
        if done.returncode:
            raise ValueError(last_line(done.stderr.decode("utf-8", "replace")) or exit_words(done.returncode))
        told = json.loads(done.stdout)
        if not isinstance(told, dict):
            raise ValueError("what it printed is no object")
    except (OSError, ValueError, RecursionError, subprocess.SubprocessError) as error:
        return {"facts": f"not told: {shortened(' '.join(str(error).split()), _LONGEST_FACT)}"}
    found = ((str(name), shortened(str(value), _LONGEST_FACT)) for name, value in told.items())
    return dict(itertools.islice(found, _MOST_FACTS))


def _answers(opener: urllib.request.OpenerDirector, url: str) -> bool:
    try:
        with opener.open(url, timeout=_ANSWER_WITHIN_S) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False
