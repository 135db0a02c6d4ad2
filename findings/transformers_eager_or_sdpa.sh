#!/usr/bin/env bash
# In Transformers 5.17.0 `attn_implementation` changes what two models compute, in float32 on a CPU, without a warning.
#
# Falcon with ALiBi (as Falcon-RW-1B has it): eager attention adds the position bias twice. The model puts it into the
# causal mask, and the eager layer adds it to the scores once more. SDPA adds it once, and so does CTranslate2 4.8.5,
# which agrees with SDPA. Who asks for eager attention as the careful reference gets another model.
#
# Doge: with SDPA, the default, a prompt without padding is read without a causal mask. The model is told that SDPA is
# causal by itself, and then hands its own mask of learned weights to it, which is not. The first tokens see the later
# ones: a change of the last token changes the probabilities after the first. With eager attention it does not. A row
# that is padded gets the mask, so its result depends on whether its neighbours are longer.
#
# Seen:
#   falcon  largest difference of a log-probability, eager and SDPA: 1.2 with ALiBi, 2.9e-06 without
#   falcon  CTranslate2 beside SDPA 3.8e-06, beside eager 1.2
#   doge    change of the first 23 positions when the 24th token changes: SDPA 3, eager 0
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 ctranslate2==4.8.5 accelerate
cd "$work"
cat > compare.py <<'PY'
import sys

import ctranslate2
import numpy
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
VOCABULARY = 128


def save(config, folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.15)
    model.tie_weights()
    model.save_pretrained(folder)


def log_probabilities(folder, ids, implementation):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation).eval()
    with torch.no_grad():
        return torch.log_softmax(model(ids, use_cache=False).logits[0].float(), -1)


def falcon(alibi):
    return transformers.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, alibi=alibi,
        multi_query=False, parallel_attn=False, bias=True, bos_token_id=1, eos_token_id=2,
    )


def with_ctranslate2(ids):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"t{index}": index for index in range(3, VOCABULARY)}}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained("falcon")
    TransformersConverter("falcon").convert("falcon-ct2", force=True)
    engine = ctranslate2.Generator("falcon-ct2", device="cpu", compute_type="float32")
    rows = engine.forward_batch([[f"t{index}" for index in ids[0].tolist()]], return_log_probs=True)
    return torch.from_numpy(numpy.array(rows))[0][:, :VOCABULARY]


def largest(one, other):
    return (one - other).abs().max().item()


ids = torch.randint(3, VOCABULARY, (1, 48), generator=torch.Generator().manual_seed(1))
results = {}
for alibi in (True, False):
    save(falcon(alibi), "falcon")
    eager, sdpa = (log_probabilities("falcon", ids, name) for name in ("eager", "sdpa"))
    results[alibi] = largest(eager, sdpa)
    print(f"falcon, alibi {alibi}: eager and SDPA differ by {results[alibi]:.2g}")
    if alibi:
        third = with_ctranslate2(ids)
        beside = {"SDPA": largest(third, sdpa), "eager": largest(third, eager)}
        print(f"falcon, alibi {alibi}: CTranslate2 beside SDPA {beside['SDPA']:.2g}, beside eager {beside['eager']:.2g}")

doge = transformers.DogeConfig(
    vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
save(doge, "doge")
short = ids[:, :24]
other = short.clone()
other[0, -1] = 3 if int(short[0, -1]) != 3 else 4
seen = {}
for name in ("sdpa", "eager"):
    seen[name] = largest(
        log_probabilities("doge", short, name)[:-1], log_probabilities("doge", other, name)[:-1]
    )
    print(f"doge, {name}: another last token changes the positions before it by {seen[name]:.2g}")
as_stated = (
    results[True] > 0.5 and results[False] < 1e-3 and beside["SDPA"] < 1e-3 and beside["eager"] > 0.5
    and seen["sdpa"] > 0.1 and seen["eager"] < 1e-5
)
sys.exit(0 if as_stated else 1)
PY
"$work/venv/bin/python" compare.py
