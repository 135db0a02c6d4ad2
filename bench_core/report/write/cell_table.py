"""The raw numbers of every cell as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, TypeVar

from bench_core.report.cell import Cell
from bench_core.report.column import Column
from bench_core.report.decide.cost import NO_PRICE, Prices
from bench_core.report.document import cell_columns
from bench_core.report.format import csv_text
from bench_core.runs.view import RunView

L = TypeVar("L")

# Where readers of table.csv know their columns; a column that is not named here comes after these.
_PLACES = """
cell image variant method batch_size repeat visit gpu_uuid outcome cause batching bits_per_weight bits_source batches
warmup_batches rows prompt_tokens output_tokens output_tokens_per_batch output_throughput_tok_s load_s prepare_s
measured_s token_times_source reserved_bytes used_bytes device_energy_joules batch_latency_mean_s
batch_latency_median_s batch_latency_min_s batch_latency_max_s batch_latency_stdev_s ttft_mean_s ttft_median_s
ttft_min_s ttft_max_s ttft_stdev_s tpot_mean_s tpot_median_s tpot_min_s tpot_max_s tpot_stdev_s itl_mean_s
itl_median_s itl_min_s itl_max_s itl_stdev_s device_memory_baseline_bytes device_memory_load_peak_bytes
device_memory_after_load_bytes device_memory_after_prepare_bytes device_memory_peak_bytes device_memory_mean_bytes
host_memory_baseline_bytes host_memory_load_peak_bytes host_memory_after_load_bytes host_memory_after_prepare_bytes
host_memory_peak_bytes host_memory_mean_bytes nll_nat_per_token nll_difference_nat_per_token agreement_rows
agreement_rows_identical agreement_rows_same_first_token agreement_mean_common_prefix agreement_median_common_prefix
agreement_equal_positions agreement_beside quality_verdict sm_clock_mhz memory_clock_mhz temperature_max_c power_w
utilisation energy_joules integrated_joules joules_per_output_token package_joules throttled longest_gap_s gaps
throttling step_s context_tokens step_bytes step_flop mbu mfu prompt_mfu bound stop_reason precision
workload_throughput_tok_s workload_batch_latency_s explained_by_prompts throughput_low_tok_s throughput_high_tok_s
throughput_relative_half_width not_representative warmup drift_relative_change drift_p_value unsteady prefill_tok_s
decode_tok_s cpu_use_cpus cpu_use_own_cpus cpu_use_others_cpus cpu_use_steal_cpus cpu_use_idle_cpus cpu_use_busy
"""


def csv_table(view: RunView, prices: Prices = NO_PRICE) -> str:
    """One line for each planned cell in the order of the plan; raw numbers, units in the columns' names.

    A field is empty where there is no such number; ``outcome`` says why a whole line has none.
    """
    declared = _by_name(cell_columns(view, prices))
    known = {name: declared[name] for name in _PLACES.split() if name in declared}
    return written((known | declared).values(), [Cell(view, row) for row in view.rows])


def written(columns: Iterable[Column[L]], lines: Iterable[L]) -> str:
    """A CSV of the columns that have a name there, each name once."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    named = _by_name(columns)
    writer.writerow(named)
    for line in lines:
        writer.writerow(_field(column.of(line)) for column in named.values())
    return target.getvalue()


def _by_name(columns: Iterable[Column[L]]) -> dict[str, Column[L]]:
    """Those that have a name, in their order; the first of each name."""
    declared: dict[str, Column[L]] = {}
    for column in columns:
        if column.csv:
            declared.setdefault(column.csv, column)
    return declared


def _field(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else value
