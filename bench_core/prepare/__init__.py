"""What must exist before a measurement: the workload (prompts as token ids) and the model (its ``hf`` artifact).

Host side, and a small container for compose. Heavy libraries are imported inside functions, so that importing this
package costs a command line nothing. Hub tokens are read by the hub libraries from the environment (``HF_TOKEN``)
and by nothing else.
"""
