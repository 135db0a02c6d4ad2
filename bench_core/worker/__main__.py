"""``python -m bench_core.worker``: the entry point of every image."""

import gc
import os
import sys
import types

# Plugins of pydantic would be looked for in every package of the image, at each start of a process; none is used here.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Still it imports what it would look with, and so mail and zip files: a tenth of all imports. There are no plugins.
_NO_PLUGINS = types.ModuleType("importlib.metadata")
vars(_NO_PLUGINS)["entry_points"] = lambda **_: ()
sys.modules["importlib.metadata"] = _NO_PLUGINS
# What is imported stays: looking for garbage among it costs a fifth of the import, and again at each later collection.
gc.disable()

from bench_core.worker.ahead import Ahead, texts_compiled  # noqa: E402

ahead = Ahead()
with texts_compiled(ahead.codes):
    from bench_core.contract.records.record import MADE_AHEAD
    from bench_core.worker.cli import main
MADE_AHEAD.update(ahead.schemas())

del sys.modules["importlib.metadata"]  # whoever asks for it from now on has Python's own
gc.enable()
gc.freeze()

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # every file is closed; taking each module apart before would cost a tenth of a short cell
