#!/usr/bin/env python3
"""A model of ScaleEq in Detectron2's own training: its DefaultTrainer, loaders and checkpoints. Needs Detectron2.

scaleeq config toy/fpn --plain > toy.yaml
python tools/plain_train_net.py --config-file toy.yaml MODEL.DEVICE cpu OUTPUT_DIR output/plain
"""

from functools import partial

from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch

import scaleeq
from scaleeq.training import build_evaluator, build_lr_scheduler
from scaleeq.training.scale_hooks import CalibrationHook


class Trainer(DefaultTrainer):
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_evaluator = staticmethod(build_evaluator)

    def build_hooks(self):  # for scale equalizers alone
        images, folder = self.cfg.MODEL.SCALE_EQUALIZER.NUM_IMAGES, self.cfg.OUTPUT_DIR
        loader = partial(self.build_train_loader, self.cfg)
        return [CalibrationHook(self.model, loader, num_images=images, output_dir=folder), *super().build_hooks()]


def main(args):
    cfg = get_cfg()
    scaleeq.add_scaleeq_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.test(cfg, trainer.model) if args.eval_only else trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
