#!/usr/bin/env python3
"""Train, or evaluate, Detectron2's detectors on a pyramid of ScaleEq, with its DefaultTrainer, loaders and AP.

python tools/train_detection.py --config-file coco/mask_rcnn_r50+fapn+scale_equalizer --num-gpus 8 OUTPUT_DIR runs/fapn
python tools/train_detection.py --config-file coco/mask_rcnn_r50+fapn --eval-only MODEL.WEIGHTS model_final.pth
python tools/train_detection.py --config-file C --coco mine train.json pictures/ DATASETS.TRAIN "('mine',)" ...

COCO itself is found under $DETECTRON2_DATASETS; --coco registers another set in its format, and may be repeated.
"""

from scaleeq import console

if __name__ == "__main__":
    console.start()  # tells what is wrong in one line

import importlib.util
import json
import logging
from argparse import Namespace
from functools import partial
from pathlib import Path

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
    verify_results,
)
from detectron2.projects.point_rend import add_pointrend_config

import scaleeq
from scaleeq.detection import measured_part
from scaleeq.detection.calibration import refuse_endless
from scaleeq.engine import SafeCheckpointer, load_config
from scaleeq.equalization import other_equalizers
from scaleeq.equalization.calibration import fusions_of, require_calibrated
from scaleeq.training import build_evaluator, build_lr_scheduler
from scaleeq.training.evaluate import evaluated_file
from scaleeq.training.scale_hooks import CalibrationHook, ScaleStatisticsHook
from scaleeq.training.setup import choose_device
from scaleeq.training.step import unwrapped

logger = logging.getLogger("detectron2.scaleeq")


class Trainer(DefaultTrainer):
    build_lr_scheduler = staticmethod(build_lr_scheduler)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """AP of boxes and masks; of panoptic sets also mIoU, and PQ where panopticapi is installed."""
        kind, folder = MetadataCatalog.get(dataset_name).evaluator_type, f"{cfg.OUTPUT_DIR}/inference"
        if kind not in ("coco", "coco_panoptic_seg"):
            return build_evaluator(cfg, dataset_name)
        evaluators = [COCOEvaluator(dataset_name, output_dir=folder)]
        if kind == "coco_panoptic_seg":
            evaluators.append(SemSegEvaluator(dataset_name, output_dir=folder))
            if importlib.util.find_spec("panopticapi"):
                evaluators.append(COCOPanopticEvaluator(dataset_name, folder))
            else:
                logger.warning("panopticapi is not installed: no PQ, AP and mIoU alone")
        return DatasetEvaluators(evaluators)

    def build_hooks(self):
        """Equalizers are calibrated after the weights are loaded; scales of sums and levels are recorded."""
        keys, folder = self.cfg.MODEL.SCALE_EQUALIZER, self.cfg.OUTPUT_DIR
        model = unwrapped(self.model)
        measured = measured_part(model)
        if fusions_of(model):
            refuse_endless(self.data_loader, keys.NUM_IMAGES)
        loader, scaler = partial(self.build_train_loader, self.cfg), getattr(self._trainer, "grad_scaler", None)
        return [
            CalibrationHook(measured, loader, num_images=keys.NUM_IMAGES, output_dir=folder),
            ScaleStatisticsHook(
                model,
                period=keys.STATISTICS_PERIOD,
                output_dir=folder,
                gradient_scale=scaler.get_scale if scaler else lambda: 1.0,
                outputs=measured.backbone,
            ),
            *super().build_hooks(),
        ]


def setup(args):
    """The frozen config of the command line: a name or a path with overlays, and KEY VALUE pairs."""
    base = get_cfg()
    add_pointrend_config(base)
    scaleeq.add_scaleeq_config(base)
    cfg = load_config(args.config_file, args.opts, base=base)
    if not (cfg.DATASETS.TRAIN or args.eval_only):
        raise ValueError(
            "DATASETS.TRAIN is empty; give --config-file, such as coco/mask_rcnn_r50, or a data set's name"
        )
    choose_device(cfg)
    for name, file, folder in args.coco:
        register(cfg, name, file, folder)
    cfg.freeze()
    default_setup(cfg, Namespace(**{**vars(args), "config_file": ""}))
    return cfg


def register(cfg, name, file, folder):
    """A data set in COCO's format. ValueError: it has another number of classes than the detector."""
    found = len(json.loads(Path(file).read_text())["categories"])
    key = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    if found != cfg.MODEL[key].NUM_CLASSES:
        raise ValueError(
            f"{file} has {found} categories, but MODEL.{key}.NUM_CLASSES is {cfg.MODEL[key].NUM_CLASSES}; set it to "
            f"{found}"
        )
    if name not in DatasetCatalog.list():
        register_coco_instances(name, {}, file, folder)


def arguments():
    """The options of Detectron2's training scripts, and --coco."""
    parser = default_argument_parser()
    parser.add_argument("--coco", nargs=3, action="append", default=[], metavar=("NAME", "JSON", "PICTURES"))
    return parser


def main(args):
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, other_model=other_equalizers)  # all weights, or an error
    checkpointer.load(evaluated_file(cfg, checkpointer, resume=args.resume))
    require_calibrated(model)
    results = Trainer.test(cfg, model)
    verify_results(cfg, results)
    return results


def run():
    args = arguments().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))


if __name__ == "__main__":
    console.run(run)
