"""What `bench deploy` prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from bench.commands import _text
from bench.commands._speed import number, with_interval
from bench.core.errors import BadInput
from bench.timing.deploy import summary
from bench.timing.deploy.summary import Line

if TYPE_CHECKING:
    from bench.timing.deploy.saved import Saved

HEADER = ("adapters", "way", "by", "ms alone", "requests/s", "ms to switch", "weights MiB", "largest difference")
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank may be


def text(table: pa.Table) -> str:
    """Return a table of the ways, one of the adapters' bytes, and what they mean."""
    found, rows = summary.lines(table), table.to_pylist()
    bytes_of = [
        (row["adapter"], str(row["rank"]), f"{row['adapter_bytes']:,}") for row in rows if row["part"] == "adapter"
    ]
    n = 1 + max(row["repeat"] for row in rows if row["repeat"] is not None)
    first = rows[0]
    busy = "" if first["timing_mode"] == "isolated" else "; THE DEVICE WAS BUSY: compare ratios, not times"
    return f"""{_text.table(HEADER, [_cells(line) for line in found])}

{_text.table(("adapter", "rank", "bytes"), bytes_of)}

medians over {n} interleaved rounds [order statistics of the rounds]; clock {first["clock"]}{busy}
alone: one request, the adapters in turn, a switch included; requests/s: {first["batch_size"]} at once
largest difference: of a logit from that of the unmerged adapters, and over the largest logit"""


def _cells(line: Line) -> list[str]:
    if line.refused is not None:
        return [line.kind, line.way, line.refused, *[""] * 5]
    shown = "-"
    if line.largest_difference is not None and line.largest_logit:
        shown = f"{line.largest_difference:.2g} ({line.largest_difference / line.largest_logit:.1g})"
    return [
        line.kind, line.way, line.by or "", with_interval(line.latency, 1e3), with_interval(line.throughput),
        with_interval(line.switch, 1e3) if line.switch else "0", number((line.weight_bytes or 0) / 2**20), shown,
    ]  # fmt: skip


def base_name(adapter: Saved) -> str:
    """Return what the adapter's config calls its base: a Hub id or a directory."""
    return str(adapter.config["base_model_name_or_path"])


def how_to(adapters: Sequence[Saved], base: str) -> str:
    """Return Python that loads the adapters into PEFT, and the command that serves them with vLLM."""
    given = {one.name: str(one.directory.absolute()) for one in adapters}
    (first, where), *others = given.items()
    four_bits = adapters[0].base_precision == "nf4"
    more = [f'model.load_adapter("{path}", adapter_name="{name}")' for name, path in others]
    quantised = [
        'four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'
    ]
    imports = ", BitsAndBytesConfig" if four_bits else ""
    options = ", quantization_config=four_bits" if four_bits else ""
    rank = next((rank for rank in VLLM_RANKS if rank >= max(one.rank for one in adapters)), None)
    serve = (
        "# vLLM has no --max-lora-rank that is large enough"
        if rank is None
        else f"vllm serve {base} --enable-lora --max-loras {len(given)} --max-lora-rank {rank} --lora-modules "
        + " ".join(f"{name}={path}" for name, path in given.items())
        + (" --quantization bitsandbytes" if four_bits else "")
    )
    return "\n".join([
        "# PEFT", "from peft import PeftModel", f"from transformers import AutoModelForCausalLM{imports}", "",
        *(quantised if four_bits else []), f'base = AutoModelForCausalLM.from_pretrained("{base}"{options})',
        f'model = PeftModel.from_pretrained(base, "{where}", adapter_name="{first}")', *more,
        f'model.set_adapter("{list(given)[-1]}")', "", "# vLLM", serve,
    ])  # fmt: skip


def draw(table: pa.Table, directory: Path) -> Path:
    """Draw the figure into a directory and return its PNG, beside which its PDF lies."""
    from plots import deploy, style

    try:
        directory.mkdir(parents=True, exist_ok=True)
        return style.save(deploy.ways(table.to_pandas(), summary.lines(table)), directory, "deploy")[0]
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error
