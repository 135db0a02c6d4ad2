#!/usr/bin/env bash
# CTranslate2 4.8.5 converts checkpoints whose config.json asks for something that it does not compute. It raises no
# error and prints no warning; the converted model computes another function.
#
# Behaviour: for each line below a tiny random model is converted in float32 and given 48 tokens. Its log-probabilities
# differ from those of Transformers 5.17.0, and agree with those of Transformers for the same weights when the field
# is set to the value in brackets. So the field was not read. Real checkpoints that have such fields: Llama 3.1, 3.2
# and 3.3 (rope type llama3), Gemma 2 (both soft caps), Gemma 2 27B and Gemma 3 27B (query_pre_attn_scalar is not the
# head size).
#
# Seen (largest difference of a log-probability: with the field, and with the field as in brackets):
#   llama rope_type llama3 [default]                         0.58   6e-05
#   qwen3 sliding_window 8 [none]                            3.8    4.1e-06
#   gemma2 attn_logit_softcapping 2 [none]                   2.5    2.9e-06
#   gemma2 final_logit_softcapping 2 [none]                  3.6    2.9e-06
#   gemma2 query_pre_attn_scalar 64 [head size, 16]          2.3    2.9e-06
#   gemma3 query_pre_attn_scalar 64 [head size, 16]          1.6    3.3e-06
#   gpt2 scale_attn_by_inverse_layer_idx [false]             0.87   3.3e-06
#   gpt2 scale_attn_weights false [true]                     4      3.3e-06
#   bloom apply_residual_connection_post_layernorm [false]   5.7    3.3e-06
#   llama hidden_act relu [silu]                             2.4    4.8e-06
# Fails if a field begins to have an effect, or if converting it begins to raise an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 ctranslate2==4.8.5 accelerate
cd "$work"
cat > differ.py <<'PY'
import sys

import ctranslate2
import numpy
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
VOCABULARY, TOKENS = 128, 48
NEUTRAL = {"rope_type": "default", "rope_theta": 500000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
NO_CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 16}
GEMMA = {**SIZES, "head_dim": 16}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 3, "n_head": 4}
QWEN = {**SIZES, "head_dim": 16}
CASES = [  # what, class of the config, its fields, what is asked for, the value as which it is computed
    ("llama rope_type llama3", "Llama", {**SIZES, "hidden_size": 256, "max_position_embeddings": 131072},
     {"rope_parameters": LLAMA3}, {"rope_parameters": NEUTRAL}),
    ("qwen3 sliding_window 8", "Qwen3", QWEN,
     {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, {"use_sliding_window": False}),
    ("gemma2 attn_logit_softcapping 2", "Gemma2", {**GEMMA, **NO_CAPS}, {"attn_logit_softcapping": 2.0}, {}),
    ("gemma2 final_logit_softcapping 2", "Gemma2", {**GEMMA, **NO_CAPS}, {"final_logit_softcapping": 2.0}, {}),
    ("gemma2 query_pre_attn_scalar 64", "Gemma2", {**GEMMA, **NO_CAPS}, {"query_pre_attn_scalar": 64}, {}),
    ("gemma3 query_pre_attn_scalar 64", "Gemma3Text", {**GEMMA, "query_pre_attn_scalar": 16},
     {"query_pre_attn_scalar": 64}, {}),
    ("gpt2 scale_attn_by_inverse_layer_idx", "GPT2", GPT2, {"scale_attn_by_inverse_layer_idx": True}, {}),
    ("gpt2 scale_attn_weights false", "GPT2", GPT2, {"scale_attn_weights": False}, {}),
    ("bloom apply_residual_connection_post_layernorm", "Bloom", BLOOM,
     {"apply_residual_connection_post_layernorm": True}, {}),
    ("llama hidden_act relu", "Llama", SIZES, {"hidden_act": "relu"}, {}),
]


def model_of(kind, fields):
    config = getattr(transformers, f"{kind}Config")(bos_token_id=1, eos_token_id=2, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    torch.manual_seed(0)  # the same weights for both values of the field
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.15)
            elif "bias" in name:
                weights.normal_(0, 0.1)
    model.tie_weights()
    return model


def write_tokenizer(folder):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"t{index}": index for index in range(3, VOCABULARY)}}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def log_probabilities(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(ids).logits.float(), -1)[0].numpy()


ids = torch.randint(3, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(1))
changed = False
print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__)
for number, (what, kind, base, asked, computed) in enumerate(CASES):
    model = model_of(kind, {**base, **asked})
    folder = f"model{number}"
    model.save_pretrained(folder)
    write_tokenizer(folder)
    TransformersConverter(folder).convert(f"{folder}-converted", force=True)
    engine = ctranslate2.Generator(f"{folder}-converted", device="cpu", compute_type="float32")
    words = [f"t{index}" for index in ids[0].tolist()]
    seen = numpy.array(engine.forward_batch([words], return_log_probs=True))[0][:, :VOCABULARY]
    with_field = numpy.abs(seen - log_probabilities(model, ids)).max()
    without = numpy.abs(seen - log_probabilities(model_of(kind, {**base, **computed}), ids)).max()
    print(f"{what:50} with the field {with_field:8.2g}   without it {without:8.2g}")
    changed = changed or not (with_field > 0.05 and without < 1e-3)
sys.exit(1 if changed else 0)
PY
"$work/venv/bin/python" differ.py
