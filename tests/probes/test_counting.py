"""Parameters and multiply-adds: closed forms, meta tensors against real ones, the tool's answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.commands import benchmark
from scaleeq.engine import build_model, load_config
from scaleeq.probes.counting import count, count_on_meta, counting
from scaleeq.training.on_meta import build_on_meta, count_config, image_size
from scaleeq.training.timing import reset_peak, time_configs

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
HEAD, PYRAMID, TIMM = "MODEL.SEM_SEG_HEAD.", "MODEL.PYRAMID.", "MODEL.TIMM."
NARROW = [f"{HEAD}CONVS_DIM", "16", "MODEL.AUX_HEAD.CONVS_DIM", "8"]
SEMANTIC_FPN = [*NARROW, f"{HEAD}NAME", "SemanticFPNHead", f"{PYRAMID}CHANNELS", "16", f"{PYRAMID}NAME"]
RES5 = [f"{HEAD}IN_FEATURES", "['res5']", f"{HEAD}COMMON_STRIDE", "16", f"{TIMM}OUTPUT_STRIDE", "16"]
HRNET = ["MODEL.BACKBONE.NAME", "build_gsto_hrnet_backbone", f"{TIMM}NAME", "hrnet_w18_small", f"{HEAD}NAME", "FCNHead"]
FAMILIES = {
    "uper": NARROW,
    "psp": [*NARROW, f"{HEAD}NAME", "PSPHead", *RES5],
    "aspp": [*NARROW, f"{HEAD}NAME", "ASPPHead", *RES5],
    "fcn": [*NARROW, f"{HEAD}NAME", "FCNHead", *RES5],
    "sep_aspp": [*NARROW, f"{HEAD}NAME", "SepASPPHead", f"{HEAD}IN_FEATURES", "['res2', 'res5']"],
    "semantic fpn": [*SEMANTIC_FPN, "fpn"],
    "fapn": [*SEMANTIC_FPN, "fapn"],
    "fapn, no offset conv": [*SEMANTIC_FPN, "fapn", f"{PYRAMID}TRANSFER", "aligned_self"],
    "fapn, deconv": [*SEMANTIC_FPN, "fapn", f"{PYRAMID}TRANSFER", "deconv"],
    "fapn, real time": [*SEMANTIC_FPN, "fapn", f"{PYRAMID}TRANSFER", "aligned_realtime"],
    "one level of a pyramid": [*SEMANTIC_FPN, "fpn", f"{PYRAMID}OUT_FEATURES", "['res2']"],
    "eseg": [*NARROW, f"{HEAD}NAME", "ESegHead", f"{TIMM}NAME", "tf_efficientnet_b0"],
    "gsto": [*NARROW, *HRNET],
    "swin": [*NARROW, f"{TIMM}NAME", "swin_tiny_patch4_window7_224"],
    "twins": [*NARROW, f"{TIMM}NAME", "twins_svt_small"],
    "convnext": [*NARROW, f"{TIMM}NAME", "convnext_tiny"],
}


def config(*options: str):
    return load_config(QUICKSTART, ["MODEL.DEVICE", "cpu", *options])


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_meta_tensors_count_as_real_ones_do(options):
    cfg, size = config(*options), (64, 96)
    torch.manual_seed(0)
    model = build_model(cfg)
    real = count(model, [{"image": torch.zeros(3, *size)}])
    assert count_config(cfg, size) == real
    assert real.params + real.auxiliary_params == sum(p.numel() for p in model.parameters())
    assert real.params == sum(real.params_by_part.values())
    assert sum(real.macs_by_kind.values()) == sum(real.macs_by_part.values()) == real.macs > 10**7


class Small(nn.Module):
    """A grouped convolution, a linear layer used as a function and as a module, an attention, a transposed one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2, stride=2)
        self.linear = nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.transposed = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, x):
        x = self.transposed(self.conv(x).relu())
        tokens = F.pad(x, (0, 0, 0, 0, 0, 5)).flatten(2).transpose(1, 2)
        heads = tokens.unflatten(-1, (2, 4)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(heads, heads, heads)
        return self.linear(attended.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_closed_form(device):
    with torch.device(device):
        model = Small().train()
        model.linear.eval()
        found = count(model, torch.zeros(2, 4, 10, 12))
    conv = 2 * 5 * 6 * 8 * 2 * 9 + 2 * 5 * 6 * 8 * 3 * 16
    tokens = 10 * 12
    attention, linear = 2 * 2 * (2 * tokens * tokens * 4), 2 * tokens * 8 * 5
    assert found.macs_by_kind == {"conv": conv, "linear": linear, "deformable": 0, "attention": attention}
    assert found.macs_by_part == {"other": conv + linear + attention}
    assert found.params == sum(p.numel() for p in model.parameters())
    assert model.training and not model.linear.training, "modes are restored"


def test_a_block_counts_all_that_runs_in_it():
    model = Small()
    x = torch.zeros(1, 4, 10, 12)
    once = count(model, x)
    with counting(model) as counter:
        model(x)
        model(x)
    model(x)
    assert counter.count().macs == 2 * once.macs and counter.count().params == once.params


def test_a_model_is_counted_by_the_function_that_builds_it():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, samples):
            assert samples[0]["image"].device.type == "meta"
            return self.conv(torch.stack([sample["image"] for sample in samples]))

    assert count_on_meta(Conv, (8, 6)).macs == 8 * 6 * 5 * 3 * 9


def test_a_deformable_convolution_counts_as_a_convolution_does():
    """Of FaPN's alignment at width 16: 16 x 16 x 9 for each pixel of three levels."""
    found = count_config(config(*FAMILIES["fapn"]), (64, 96))
    pixels = (64 * 96) * (1 / 16 + 1 / 64 + 1 / 256)
    assert found.macs_by_kind["deformable"] == 16 * 16 * 9 * pixels


def test_parts_are_told_apart():
    found = count_config(config(*FAMILIES["semantic fpn"]), (64, 96))
    assert list(found.params_by_part) == list(found.macs_by_part) == ["backbone", "pyramid", "head"]
    laterals, outputs = (64 + 128 + 256 + 512) * 16 + 4 * 16, 4 * (9 * 16 * 16 + 16)
    assert found.params_by_part["pyramid"] == laterals + outputs
    branches = 7 * (9 * 16 * 16 + 2 * 16)
    assert found.params_by_part["head"] == branches + 16 * 8 + 8
    assert "pyramid" not in count_config(config(*FAMILIES["psp"]), (64, 96)).params_by_part


def test_equalizers_cost_neither_parameters_nor_multiply_adds():
    plain, equalized = (
        count_config(config(*NARROW, "MODEL.SCALE_EQUALIZER.ENABLED", enabled), (64, 64))
        for enabled in ("False", "True")
    )
    assert plain == equalized


def test_building_on_meta_fetches_nothing_and_leaves_the_config():
    cfg = config(f"{TIMM}PRETRAINED", "True", f"{TIMM}PRETRAINED_FILE", "nowhere.pth")
    model = build_on_meta(cfg)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert cfg.MODEL.DEVICE == "cpu" and cfg.MODEL.TIMM.PRETRAINED


def test_the_size_of_the_data_set():
    assert image_size(load_config(CONFIGS / "cityscapes" / "uper_r50.yaml")) == (1024, 2048)
    assert image_size(config()) == (512, 512)


# --- the tool ---


def run_tool(capsys, *argv: str) -> str:
    benchmark.run(benchmark.parse(benchmark.parser(), argv))
    return capsys.readouterr().out


def test_one_json_object_per_config(capsys):
    files = [str(QUICKSTART), str(CONFIGS / "camvid" / "uper_r18.yaml")]
    out = run_tool(capsys, "--count", "--json", "--size", "64", "96", "--config-file", *files, *NARROW)
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["config"] for record in records] == files
    for record, path in zip(records, files, strict=True):
        expected = count_config(load_config(path, NARROW), (64, 96))
        assert record["size"] == [64, 96]
        assert {key: record[key] for key in expected.as_dict()} == expected.as_dict()
    assert {"params", "macs", "params_by_part", "macs_by_part", "macs_by_kind"} <= set(records[0])


def test_a_table_for_people(capsys):
    out = run_tool(capsys, "--config-file", str(QUICKSTART), "--count", *FAMILIES["fapn"])
    header, _, row = out.splitlines()
    assert len(header.split("|")) == len(row.split("|"))
    assert "512x512" in row and "params M" in header
    counted = count_config(config(*FAMILIES["fapn"]), (512, 512))
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    assert cells["params M"] == f"{counted.params / 1e6:.2f}"
    assert cells["multiply-adds G"] == f"{counted.macs / 1e9:.1f}" and cells["of it attention"] == "-"


def test_options_stand_anywhere_behind_the_files():
    for argv in (
        ["--config-file", "a.yaml", "b.yaml", "SOLVER.MAX_ITER", "-1", "--count", "--json"],
        ["--count", "--json", "--config-file", "a.yaml", "b.yaml", "SOLVER.MAX_ITER", "-1"],
        ["--config-file", "a.yaml", "b.yaml", "--json", "--count", "SOLVER.MAX_ITER", "-1"],
    ):
        arguments = benchmark.parse(benchmark.parser(), argv)
        assert arguments.config_file == ["a.yaml", "b.yaml"] and arguments.opts == ["SOLVER.MAX_ITER", "-1"]
        assert arguments.count and arguments.json and arguments.size is None


@pytest.mark.parametrize("words", [["MODEL.DEVICE"], ["yes", "--fast"], ["--size", "0", "5"]], ids=" ".join)
def test_what_is_no_option_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(benchmark.parser(), ["--config-file", "a.yaml", *words])
    assert words[-1] in capsys.readouterr().err


def test_timing_is_interleaved_and_relative_to_the_first(capsys):
    files = [str(QUICKSTART)] * 2
    out = run_tool(
        capsys, "--config-file", *files, "--size", "32", "64", "--batch", "2", "--iterations", "1",
        "--json", *NARROW,
    )  # fmt: skip
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["forward_ratio"] == first["training_ratio"] == 1
    assert second["forward_ratio"] == pytest.approx(second["forward_s"] / first["forward_s"])
    assert first["images_per_s"] == pytest.approx(2 / first["forward_s"])
    with pytest.raises(ValueError, match="iterations is 0"):
        time_configs([config()], sizes=[(32, 32)], iterations=0)


PEAK = """
import torch
from scaleeq.training.timing import peak_mib, reset_peak
used = reset_peak("cpu")
block = torch.ones(2**24)  # 64 MiB
del block
print(peak_mib("cpu") - used, peak_mib("cpu") - reset_peak("cpu"))
"""


@pytest.mark.skipif(reset_peak("cpu") is None, reason="this system does not tell a process its peak of memory")
def test_the_peak_of_memory_is_seen_behind_it():
    """In a process of its own: one that has freed much may find room for the block in what it has."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    used, again = map(float, done.stdout.split())
    assert 60 < used < 90
    assert again > 55, "it starts again"
