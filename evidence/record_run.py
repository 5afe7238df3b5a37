"""docs/results/<name>.json from finished trainings and the evaluations of their last weights.

    scaleeq train NAME OUTPUT_DIR output/RUN
    scaleeq eval NAME MODEL.WEIGHTS output/RUN/model_final.pth OUTPUT_DIR output/RUN_eval
    python -m evidence.record_run NAME output/RUN --code COMMIT --device "one thread of two cores" [--note TEXT]

With keys that were changed on the command lines it is docs/results/<name>_<variant>.json: --variant SGD --changes KEY
VALUE ...

The file has the evaluation's results, the losses and evaluations of the training, and the scales of its first and its
last iteration. docs/results/toy.json has a row for each of several trainings, output/toy_fpn and so on, and what
`scaleeq benchmark --json` and `scaleeq benchmark --count --json` print of the same names, in one file:

    python -m evidence.record_run toy output --benchmark toy.jsonl --code COMMIT --device "one thread of two cores"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scaleeq import console
from scaleeq.files import read_json, write_json
from scaleeq.markdown import table

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FULL_LENGTH = {  # config, or "config, variant" -> the val mIoU that was aimed at
    "camvid/uper_lite0": 68,
    "camvid/uper_lite0, SGD": 68,
    "camvid/psp_lite0": 65,
    "camvid/sep_aspp_lite0": 65,
    "camvid/fcn_lite0": 65,
    "camvid/semfpn_lite0": 65,
    "camvid/semfpn_lite0+fapn": 65,
    "camvid/semfpn_lite0+bifpn": 65,
}
OF_BRANCHES = ("mean", "std", "std_equalized", "channels", "num_images", "relative_standard_error")
OF_FUSIONS = ("spread", "spread_equalized")
OF_BENCHMARK = ("params", "macs", "training_cpu_ratio")


def run_record(
    name: str,
    training: Path,
    evaluation: Path,
    *,
    code: str,
    device: str,
    note: str,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """What is kept of a training and of the evaluation of its model_final.pth.

    changes: keys and values that followed the config's name. FileNotFoundError: one of the two has not finished.
    """
    lines = [json.loads(line) for line in (training / "metrics.json").read_text().splitlines()]
    results = read_json(evaluation / "inference" / "results.json")
    statistics = training / "scale_statistics.json"
    measured = read_json(statistics) if statistics.is_file() else {}
    iterations = 1 + max(line["iteration"] for line in lines if "total_loss" in line)
    return {
        "command": f"scaleeq train {' '.join([name, *changes])}; scaleeq eval {name} MODEL.WEIGHTS model_final.pth",
        "code": f"commit {code}",
        "config": name,
        "seed": 0,
        "training": {
            "iterations": iterations,
            "minutes_in_all": round(minutes(training), 1),
            "device": device,
            "final_total_loss": [line["total_loss"] for line in lines if "total_loss" in line][-1],
            "note": note,
        },
        "miou_by_iteration": {str(line["iteration"]): line["sem_seg/mIoU"] for line in lines if "sem_seg/mIoU" in line},
        **{key: value for key, value in results.items() if key != "fusions"},
        "weights": Path(results["weights"]).name,
        "scales": {
            **({"fusions": scales(results["fusions"])} if results.get("fusions") else {}),
            **{
                when: {"iteration": measured[when]["iteration"], "fusions": scales(measured[when]["fusions"])}
                for when in ("at_start", "at_end")
                if when in measured
            },
        },
    }


def full_length_table() -> str:
    """Markdown: the pretrained CamVid configs at full length, one seed each: "not run" where docs/results has none."""
    rows = []
    for name, goal in FULL_LENGTH.items():
        if record := read_json(RESULTS / f"{run_name(name)}.json"):
            training, map_ = record["training"], record["sem_seg"]
            minutes_, weights = training["minutes_in_all"], record["weights_sha256"][:16]
            rows.append((name, str(goal), f"{map_['mIoU']:.1f}", f"{map_['pACC']:.1f}", f"{minutes_:.0f}", weights))
        else:
            rows.append((name, str(goal), "not run", "", "", ""))
    return table(rows, ("config", "goal", "val mIoU", "pixel accuracy", "minutes", "sha256 of the weights"))


def scales(fusions: Mapping[str, Any]) -> dict[str, Any]:
    """Fusions without what an evidence file does not keep: gradients, and the parts of a statistic."""
    return {
        name: {
            "branches": {
                branch: {key: record[key] for key in OF_BRANCHES if key in record}
                for branch, record in fusion["branches"].items()
            },
            **{key: fusion[key] for key in OF_FUSIONS if key in fusion},
        }
        for name, fusion in fusions.items()
    }


def minutes(training: Path) -> float:
    """Between the first and the last line of log.txt, whose lines begin with [month/day hour:minute:second]."""
    stamps = [line[1:15] for line in (training / "log.txt").read_text().splitlines() if line.startswith("[")]
    first, last = (int(t[6:8]) * 60 + int(t[9:11]) + int(t[12:14]) / 60 for t in (stamps[0], stamps[-1]))
    return (last - first) % (24 * 60)


def toy_record(record: Mapping[str, Any], benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A row of docs/results/toy.json."""
    of_map = record["sem_seg"]
    return {
        "mIoU": of_map["mIoU"],
        "mIoU_by_iteration": record["miou_by_iteration"],
        "pACC": of_map["pACC"],
        "IoU": {key.removeprefix("IoU-"): value for key, value in sorted(of_map.items()) if key.startswith("IoU-")},
        **{key: benchmark[key] for key in OF_BENCHMARK},
        "weights_sha256": record["weights_sha256"],
    }


def toy_records(output: Path, benchmark: Path, *, code: str, device: str, note: str) -> dict[str, Any]:
    """docs/results/toy.json: a row for each name of the benchmark's file.

    KeyError: the file has not both, counts and times, of a name.
    """
    measured: dict[str, dict[str, Any]] = {}
    for line in benchmark.read_text().splitlines():
        found = json.loads(line)
        measured.setdefault(found["config"], {}).update(found)
    rows = {}
    for name, numbers in measured.items():
        folder = output / run_name(name)
        record = run_record(name, folder, evaluated(folder), code=code, device=device, note=note)
        rows[name] = toy_record(record, numbers)
    return {
        "command": "scaleeq train NAME; scaleeq eval NAME; scaleeq benchmark NAMES --json --size 128 128 --batch 8",
        "code": f"commit {code}",
        "seeds": [0],
        "device": device,
        "note": note,
        "engine": record["engine"],
        "torch": version("torch"),
        "configs": rows,
    }


def run_name(config: str) -> str:
    """ "toy/fpn+scale_equalizer" -> "toy_fpn_scale_equalizer", "camvid/uper_lite0, SGD" -> "camvid_uper_lite0_SGD"."""
    return re.sub(r"[/+]|, ", "_", config)


def evaluated(training: Path) -> Path:
    return training.with_name(f"{training.name}_eval")


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("name", help="of the config, or toy")
    parser.add_argument("output", type=Path, help="the training's folder; for toy the folder of the folders")
    parser.add_argument("--code", required=True, help="the commit that trained")
    parser.add_argument("--device", required=True, help="what it ran on, and what ran beside it")
    parser.add_argument("--note", default="", help="what else should be known")
    parser.add_argument("--variant", default="", help="of the config, for the file's name")
    parser.add_argument("--changes", nargs="+", default=[], metavar="KEY VALUE", help="what the command lines changed")
    parser.add_argument("--benchmark", type=Path, help="for toy: what scaleeq benchmark printed")
    arguments = parser.parse_args()
    said = {"code": arguments.code, "device": arguments.device, "note": arguments.note}
    if arguments.benchmark:
        content = toy_records(arguments.output, arguments.benchmark, **said)
    else:
        folders = (arguments.output, evaluated(arguments.output))
        content = run_record(arguments.name, *folders, **said, changes=arguments.changes)
    title = ", ".join(filter(None, (arguments.name, arguments.variant)))
    write_json(RESULTS / f"{run_name(title)}.json", content, indent=1)


if __name__ == "__main__":
    console.run(main)
