#!/usr/bin/env bash
# Transformers 5.17.0: TextIteratorStreamer gives out nothing of an answer without spaces until the answer ends, be it
# JSON or minified code. The time to first token is then the time of all tokens.
#
# Text leaves it up to the last space, at an end of line or at a Chinese character. "Entire words" is what it promises,
# and for prose that is a token or two. Compact JSON has no space, and one line of it is one word, so a reader gets a
# single piece at the end: time to first token is the latency, and there is no gap between tokens to take a percentile
# of. With spaces after its commas the same JSON comes in pieces. So a model that is asked for JSON looks slow to begin
# by a factor that is the length of its answer, and no setting of the streamer changes it.
#
# Beside that, each token decodes the whole line again: on a line of 8000 tokens one token costs ten to twenty times
# what it costs on one of 500, in the thread that generates.
#
# Seen (a random model that a logits processor has write the given text, a byte for each token; share of the answer's
# tokens that were written when the first piece came):
#   prose               264 tokens   56 pieces   first after   2 %
#   JSON with spaces    272 tokens   49 pieces   first after   2 %
#   compact JSON        224 tokens    1 piece    first after 100 %
#   Chinese             192 tokens   64 pieces   first after   2 %
#   time for one token, on a line of 500 tokens 0.08 ms, of 8000 tokens 1.5 ms
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0
cd "$work"
cat > streamed.py <<'PY'
import importlib.metadata
import sys
import time

import tokenizers
import torch
from transformers import (
    LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast, TextIteratorStreamer,
    logging,
)

TEXTS = {
    "prose": "hello my dear friend how are you " * 8,
    "JSON with spaces": '{"a": 1, "b": 2},' * 16,
    "compact JSON": '{"a":1,"b":2},' * 16,
    "Chinese": "你好世界" * 16,
}
logging.set_verbosity_error()
letters = {letter: number for number, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
fast = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))  # a token is a byte
fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
fast.decoder = tokenizers.decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast)


class Script(LogitsProcessor):
    """Has the model write a given text, and notes how many tokens were written when each piece of it came out."""

    def __init__(self, ids):
        self.ids, self.written = ids, 0

    def __call__(self, input_ids, scores):
        chosen = torch.full_like(scores, -torch.inf)
        chosen[:, self.ids[self.written]] = 0
        self.written += 1
        return chosen


class Pieces(TextIteratorStreamer):
    def __init__(self, script):
        super().__init__(tokenizer, skip_prompt=True)
        self.script, self.pieces = script, []

    def on_finalized_text(self, text, stream_end=False):
        if text:
            self.pieces.append((self.script.written, text))


torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(letters),
    eos_token_id=None, bos_token_id=None,
)).eval()
print("transformers", importlib.metadata.version("transformers"))
prompt = torch.zeros((1, 4), dtype=torch.long)
found = {}
for name, text in TEXTS.items():
    script = Script(tokenizer(text)["input_ids"])
    streamer = Pieces(script)
    model.generate(
        prompt, attention_mask=torch.ones_like(prompt), streamer=streamer, max_new_tokens=len(script.ids),
        logits_processor=LogitsProcessorList([script]), do_sample=False, pad_token_id=0,
    )
    if "".join(piece for _, piece in streamer.pieces) != text:
        sys.exit(f"{name}: another text came out")
    found[name] = len(streamer.pieces), streamer.pieces[0][0] / len(script.ids)
    pieces, share = found[name]
    print(f"{name:17} {len(script.ids)} tokens, {pieces} pieces, first after {share:.0%} of the tokens")


def cost_ms(length):
    """Of the last 100 tokens of a line; the least of five, as the machine may have other work."""
    least = float("inf")
    for _ in range(5):
        streamer = TextIteratorStreamer(tokenizer)
        streamer.put(torch.tensor(tokenizer("word " * (length // 5))["input_ids"][:-100]))
        began = time.perf_counter()
        for token in tokenizer("word " * 20)["input_ids"]:
            streamer.put(torch.tensor([token]))
        least = min(least, (time.perf_counter() - began) * 10)
    return least


short, long = cost_ms(500), cost_ms(8000)
print(f"one token on a line of 500 tokens {short:.3f} ms, of 8000 tokens {long:.3f} ms, {long / short:.0f} times as much")
held = found.pop("compact JSON") == (1, 1.0)
quick = all(pieces > 20 and first < 0.1 for pieces, first in found.values())
sys.exit(0 if held and quick and long > 4 * short else 1)
PY
"$work/venv/bin/python" streamed.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
