#!/usr/bin/env bash
# ONNX Runtime GenAI 0.18.0: after a prompt that ends in the end-of-sequence token, the first new token is that of the
# prompt without it. The second knows it again if the prompt is alone, and does not if the prompt is in a batch.
#
# The engine finds the padding of a prompt by the id that pads. A checkpoint that names no such id gets one from the
# model builder, which says nothing of it: the id that ends a sequence. So a last end token, as of a document that is
# closed before the next one begins, is taken for padding where the next token is predicted. Attention takes it for
# padding too in a batch, even of equal lengths, and for a token where there is one prompt: there, the first step
# answers one prompt and the second step another. Greedy texts differ between batch sizes, and from other engines'.
#
# Padding at the left, as Transformers wants it of a decoder, is not found at all: it is read as prompt.
#
# Seen (tiny random Llama in float32; largest difference of a log-probability from Transformers 5.17.0, at the first and
# the second step, for the prompt as given and for the prompt without its last token; in the last line without padding):
#                                    as given             without
#   no end token, alone              8.3e-06   7.3e-06    6.5       2.3
#   no end token, in a batch         8.3e-06   7.3e-06    6.5       2.3
#   last token ends, alone           5.5       4.8e-06    7.8e-06   2
#   last token ends, batch of two    5.5       2          7.8e-06   5e-06
#   left padding, batch of two       7.2e-06   8.2e-06    3.1       4.3
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0 \
    onnxruntime-genai==0.18.0
cd "$work"
cat > ends.py <<'PY'
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import onnxruntime_genai
import tokenizers
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
VOCABULARY, END, STEPS = 384, 7, 2

config = transformers.LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=END,
)
torch.manual_seed(0)
reference = transformers.LlamaForCausalLM(config).eval()
with torch.no_grad():
    for weights in reference.parameters():
        if weights.dim() > 1:
            weights.normal_(0, 0.1)
reference.save_pretrained("model")
words = {"<unk>": 0, "<s>": 1, **{f"t{index}": index for index in range(2, VOCABULARY)}}
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
).save_pretrained("model")
subprocess.run(
    [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", "model", "-o", "onnx", "-p", "fp32", "-e", "cpu",
     "-c", "cache"],
    env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=sys.stderr, check=True,
)
engine = onnxruntime_genai.Model("onnx")
padding = json.loads(Path("onnx/genai_config.json").read_text())["model"]["pad_token_id"]


def log_probabilities(logits):
    return torch.log_softmax(torch.as_tensor(logits).double(), -1)


def expected(tokens):
    with torch.no_grad():
        return log_probabilities(reference(torch.tensor([tokens])).logits[0, -1])


def steps(*rows):
    """Of the first row: log-probabilities at each step, and the tokens chosen."""
    params = onnxruntime_genai.GeneratorParams(engine)
    params.set_search_options(batch_size=len(rows), max_length=32, do_sample=False)
    generator = onnxruntime_genai.Generator(engine, params)
    generator.append_tokens(numpy.array(rows, numpy.int32))
    found, chosen = [], []
    for _ in range(STEPS):
        found.append(log_probabilities(generator.get_logits().reshape(len(rows), -1)[0].copy()))
        generator.generate_next_token()
        chosen.append(int(generator.get_next_tokens()[0]))
    return found, chosen


def away(prompt, found, chosen):
    return [(found[step] - expected([*prompt, *chosen[:step]])).abs().max().item() for step in range(STEPS)]


def look(what, prompt, other, *neighbours):
    found, chosen = steps(prompt, *neighbours)
    as_given, as_other = away(prompt, found, chosen), away(other, found, chosen)
    shown = ["  ".join(f"{value:7.1e}" for value in row) for row in (as_given, as_other)]
    print(f"{what:34} as given {shown[0]}   without {shown[1]}")
    return [value < 1e-3 for value in (*as_given, *as_other)]


print("onnxruntime-genai", onnxruntime_genai.__version__, "transformers", transformers.__version__)
print("pad_token_id in the checkpoint:", config.pad_token_id, "that the builder writes:", padding, " eos_token_id:", END)
prompt, beside = [10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25, 26]
closed = [*prompt, END]
plain = look("no end token, alone", [*prompt, 16], prompt)
batch = look("no end token, in a batch", [*prompt, 16], prompt, beside)
alone = look("last token ends, alone", closed, prompt)
batched = look("last token ends, in a batch of two", closed, prompt, beside)
left = look("left padding (without: no padding)", [padding, *prompt], prompt, beside)
as_seen = config.pad_token_id is None and padding == END
as_seen = as_seen and plain == batch == [True, True, False, False] and alone == [False, True, True, False]
as_seen = as_seen and batched == [False, False, True, True] and left == [True, True, False, False]
sys.exit(0 if as_seen else 1)
PY
"$work/venv/bin/python" ends.py 2> errors.txt || { cat errors.txt; exit 1; }
