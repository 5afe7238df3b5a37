"""The step: accumulation, precision, averages and what stops a run. Oracles: the step on the whole batch, torch's own
arithmetic, a second run."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scaleeq import ScaleEqualizer
from scaleeq.data import build_train_loader
from scaleeq.training import Trainer
from scaleeq.training.diagnosis import explain
from scaleeq.training.ema import WeightAverage
from scaleeq.training.setup import choose_algorithms
from scaleeq.training.step import TrainingStep, autocast_dtype, gradient_norm, micro_batch_size, seed_iteration

from .test_trainer import train
from .tiny import tiny_config

# No layer of these mixes the images of a batch, so a batch may be cut.
UNMIXED = {
    "MODEL__TIMM__NAME": "test_convnext",
    "MODEL__SEM_SEG_HEAD__NORM": "GN",
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 64,
    "MODEL__AUX_HEAD__CONVS_DIM": 64,
}


def gradients_of(cfg, batch, *, micro_batch):
    """Name -> gradient, in float64, and the losses, of a fresh model."""
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).double().train()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=micro_batch)
    losses, norm = step.backward(batch, 0)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, losses, norm


@pytest.mark.parametrize("average_over", ["valid", "all"])
@pytest.mark.parametrize("class_weights", [[], [1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 2.0, 1.5]])
def test_micro_batches_have_the_gradient_of_the_whole_batch(tmp_path, average_over, class_weights):
    cfg = tiny_config(
        tmp_path,
        **UNMIXED,
        SOLVER__IMS_PER_BATCH=4,
        MODEL__LOSS__AVERAGE_OVER=average_over,
        MODEL__LOSS__CLASS_WEIGHTS=class_weights,
    )
    batch = next(iter(build_train_loader(cfg)))
    batch[1]["sem_seg"][:, 3:] = 255  # parts with very different numbers of valid pixels
    batch[2]["sem_seg"][:] = 255
    whole, losses, norm = gradients_of(cfg, batch, micro_batch=4)
    for micro_batch in (1, 2):
        cut, cut_losses, cut_norm = gradients_of(cfg, batch, micro_batch=micro_batch)
        assert cut.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
        assert {k: float(v) for k, v in cut_losses.items()} == pytest.approx({k: float(v) for k, v in losses.items()})
        assert float(cut_norm) == pytest.approx(float(norm), rel=1e-5)
    expected = math.sqrt(sum(float(gradient.square().sum()) for gradient in whole.values()))
    assert float(norm) == pytest.approx(expected, rel=1e-5)


def test_an_accumulating_run_uses_the_same_samples(tmp_path):
    changes = {**UNMIXED, "SOLVER__IMS_PER_BATCH": 4, "DATASETS__TEST": (), "SOLVER__MAX_ITER": 2}
    whole = train(tiny_config(tmp_path / "whole", **changes))
    cut = train(tiny_config(tmp_path / "cut", **changes, SOLVER__ACCUMULATE=2))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(cut.model.state_dict()[name], tensor, rtol=1e-2, atol=2e-4, msg=name)


@pytest.mark.parametrize(
    ("batch", "passes", "world_size", "size"), [(16, 1, 1, 16), (16, 2, 1, 8), (16, 2, 4, 2), (4, 4, 1, 1)]
)
def test_a_batch_is_cut_evenly(tmp_path, batch, passes, world_size, size):
    cfg = tiny_config(tmp_path, SOLVER__IMS_PER_BATCH=batch, SOLVER__ACCUMULATE=passes)
    assert micro_batch_size(cfg, world_size) == size


@pytest.mark.parametrize(("batch", "passes", "world_size"), [(4, 3, 1), (4, 2, 4), (0, 1, 1), (4, 0, 1)])
def test_a_batch_that_cannot_be_cut_is_refused(tmp_path, batch, passes, world_size):
    with pytest.raises(ValueError, match=r"SOLVER\.(IMS_PER_BATCH|ACCUMULATE)"):
        micro_batch_size(tiny_config(tmp_path, SOLVER__IMS_PER_BATCH=batch, SOLVER__ACCUMULATE=passes), world_size)


# ---------------------------------------------------------------------------------------------------- random state


def test_random_numbers_are_a_function_of_seed_rank_and_iteration():
    def draw(seed, rank, iteration):
        seed_iteration(seed, rank=rank, iteration=iteration)
        return torch.rand(4).tolist()

    assert draw(0, 0, 5) == draw(0, 0, 5)
    others = [draw(0, 0, 6), draw(0, 1, 5), draw(1, 0, 5), draw(0, 0, 5)]
    assert len({tuple(numbers) for numbers in others}) == 4


def test_a_run_without_a_seed_draws_one_and_keeps_it(tmp_path):
    changes = {"SEED": -1, "MODEL__SEM_SEG_HEAD__DROPOUT": 0.5, "SOLVER__CHECKPOINT_PERIOD": 1, "DATASETS__TEST": ()}
    first = Trainer(tiny_config(tmp_path, **changes))
    first.resume_or_load(resume=False)
    first.train()
    second = Trainer(tiny_config(tmp_path, **changes))
    second.resume_or_load(resume=True)
    assert second.seed == first.seed
    assert second.start_iter == 3


# ---------------------------------------------------------------------------------------------------- precision


def test_float16_scales_its_losses_and_keeps_the_scale(tmp_path):
    changes = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16", "DATASETS__TEST": ()}
    trainer = train(tiny_config(tmp_path, **changes))
    assert trainer.step.scaler.is_enabled()
    trainer.step.scaler.update(4.0)
    trainer.checkpointer.save("model_final", iteration=2)
    resumed = Trainer(tiny_config(tmp_path, **changes))
    resumed.resume_or_load(resume=True)
    assert resumed.step.scaler.get_scale() == 4.0


def test_an_overflow_under_a_loss_scaler_skips_the_update_and_lowers_the_scale():
    model = nn.Linear(1, 1, bias=False)

    def forward(batch):
        return {"loss": model.weight.sum() * 1e30 * batch[0]}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, batch):
            return forward(batch)

    wrapped = Model()
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1.0)
    step = TrainingStep(wrapped, optimizer, micro_batch=1, dtype=torch.float16)
    before = model.weight.detach().clone()
    _, norm = step.backward([1e8], 0)
    assert not math.isfinite(float(norm))
    step.update()
    assert torch.equal(model.weight, before)
    assert step.scaler.get_scale() == 2.0**15


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="bfloat16, float16"):
        autocast_dtype(tiny_config(tmp_path, SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="float8"))


# ---------------------------------------------------------------------------------------------------- averages


def test_the_average_follows_its_definition():
    model = nn.Linear(2, 1).double()
    average = WeightAverage(model, decay=0.5)
    expected = None
    for step in range(12):
        with torch.no_grad():
            model.weight.fill_(float(step) ** 2)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = 0.0 if step == 0 else decay * expected + (1 - decay) * step**2
        torch.testing.assert_close(average.model.weight, torch.full((1, 2), expected, dtype=torch.float64))
    assert average.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="EMA_DECAY"):
        WeightAverage(model, decay=1.0)


class Constants(nn.Module):
    """What has no mean: counters, flags, a mask's infinities, a scale equalizer's constants."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.equalizer = ScaleEqualizer(1)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_only_weights_and_running_statistics_have_an_average():
    model = Constants()
    average = WeightAverage(model, decay=0.99)
    average.update(model)
    model.equalizer.set_statistics(torch.tensor(3.0), torch.tensor(0.5), 7)  # after the copy, as nobody should
    for step in range(1, 4):
        model.count.fill_(10 * step)
        model.flag.fill_(step == 3)
        model.norm(torch.randn(8, 1))
        average.update(model)
    assert (average.model.count, average.model.flag, average.model.norm.num_batches_tracked) == (30, True, 3)
    assert average.model.mask.tolist() == [0.0, -torch.inf]
    equalizer = average.model.equalizer
    assert (equalizer.mean, equalizer.std, equalizer.num_images) == (3.0, 0.5, 7)
    assert not torch.equal(average.model.norm.running_mean, model.norm.running_mean)


def test_the_average_is_torch_s():
    def blend(averages, current, num_averaged):
        updates = int(num_averaged)
        get_ema_multi_avg_fn(min(0.9, (1 + updates) / (10 + updates)))(averages, current, num_averaged)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ours, theirs = WeightAverage(model, decay=0.9), AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
    for _ in range(6):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(4, 3, 1, 1))
        model(torch.randn(2, 3, 4, 4))
        ours.update(model)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value) or name == "1.num_batches_tracked", name
    resumed = WeightAverage(model, decay=0.9)
    resumed.load_state_dict(ours.state_dict())
    resumed.resume(6)
    for average in (ours, resumed):
        average.update(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False).apply(zeroed))
    assert all(map(torch.equal, ours.state_dict().values(), resumed.state_dict().values()))
    assert ours.state_dict()["0.weight"].abs().sum() > 0


def zeroed(module):
    for tensor in module.state_dict().values():
        tensor.zero_()


def test_averaged_weights_are_evaluated_and_saved(tmp_path):
    cfg = tiny_config(tmp_path, SOLVER__EMA_DECAY=0.9, SOLVER__CHECKPOINT_PERIOD=2)
    trainer = train(cfg)
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    averaged = trainer.average.model.state_dict()
    assert saved["ema"].keys() == saved["model"].keys()
    assert saved["trainer"]["evaluated_weights"] == "ema"
    assert all(torch.equal(saved["ema"][name], averaged[name]) for name in averaged)
    assert any(not torch.equal(saved["ema"][name], saved["model"][name]) for name in averaged)
    assert Trainer.test(cfg, trainer.average.model) == trainer.last_eval_results
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["weights_kind"] == "ema"
    assert all(torch.equal(best["model"][name], averaged[name]) for name in averaged)


# ---------------------------------------------------------------------------------------------------- what stops a run


class Overflowing(nn.Module):
    """Turns a feature infinite."""

    def forward(self, x):
        return x * torch.inf


def broken_trainer(tmp_path, **changes):
    trainer = Trainer(tiny_config(tmp_path, DATASETS__TEST=(), **changes))
    head = trainer.checkpointer.model.sem_seg_head
    head.dropout = Overflowing()
    return trainer


def test_a_loss_that_is_not_finite_is_explained(tmp_path):
    trainer = broken_trainer(tmp_path, SOLVER__ACCUMULATE=2)
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    message = str(error.value)
    assert "iteration 0" in message
    assert "sem_seg_head.dropout (Overflowing), whose input was finite" in message
    first = next(iter(build_train_loader(trainer.cfg)))[0]["file_name"]
    assert first in message
    assert f"learning rate of {0.002 * 1e-6:.3g}" in message
    assert "SOLVER.BASE_LR" in message
    assert not list(tmp_path.glob("*.pth"))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path):
    trainer = Trainer(tiny_config(tmp_path, DATASETS__TEST=()))
    model = trainer.checkpointer.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.sem_seg_head.classifier.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match=r"gradients of sem_seg_head\.classifier\.weight"):
        trainer.train()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_weights_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].bias.fill_(torch.nan)
    assert "1.bias" in explain(model, lambda: model(torch.ones(1, 1)))


def test_the_norm_of_no_gradients_is_zero():
    assert float(gradient_norm(nn.Linear(1, 1))) == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_is_that_of_all_gradients_in_any_precision(dtype):
    model = nn.Sequential(nn.Linear(3, 200), nn.Linear(200, 2)).to(dtype)
    for parameter in list(model.parameters())[1:]:
        parameter.grad = torch.full_like(parameter, 1000.0)  # more than float16 holds, together
    assert gradient_norm(model).dtype == torch.float32
    assert float(gradient_norm(model)) == pytest.approx(1000 * math.sqrt(200 + 400 + 2), rel=1e-6)


# ---------------------------------------------------------------------------------------------------- nothing stays


@pytest.mark.parametrize("breaks", [False, True])
def test_a_loss_forgets_its_step_also_after_an_error(tmp_path, breaks):
    cfg = tiny_config(tmp_path, SOLVER__IMS_PER_BATCH=4, MODEL__LOSS__OHEM_ANNEAL_ITERS=10, MODEL__LOSS__OHEM="top_k")
    model = Trainer.build_model(cfg).train()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=2)
    batch = next(iter(build_train_loader(cfg)))
    seen = []
    losses = [head.loss for head in (model.sem_seg_head, *model.aux_heads.values())]

    def look(module, inputs):
        seen.append((int(module.iteration), float(module.mean_count.sum())))
        if breaks:
            raise OSError

    handles = [loss.register_forward_pre_hook(look) for loss in losses]
    with pytest.raises(OSError) if breaks else contextlib.nullcontext():
        step.backward(batch, 7)
    for handle in handles:
        handle.remove()
    labelled = sum(int((sample["sem_seg"] != 255).sum()) for sample in batch)
    assert set(seen) == {(7, labelled / 2)}
    assert all(int(loss.iteration) == 0 and not loss.mean_count.any() for loss in losses)


# ---------------------------------------------------------------------------------------------------- the same, faster


def largest_difference(first, second):
    theirs = second.checkpointer.model.state_dict()
    mine = first.checkpointer.model.state_dict()
    assert mine.keys() == theirs.keys()
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


def test_channels_last_is_a_layout_and_nothing_else(tmp_path):
    plain = train(tiny_config(tmp_path / "plain", DATASETS__TEST=()))
    last = train(tiny_config(tmp_path / "last", DATASETS__TEST=(), MODEL__CHANNELS_LAST=True))
    weight = last.checkpointer.model.sem_seg_head.fusion.mix.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert largest_difference(plain, last) < 1e-3


def test_deterministic_algorithms_are_for_the_process_and_train_alike(tmp_path):
    changes = {"DATASETS__TEST": (), "DETERMINISTIC": True}
    try:
        choose_algorithms(tiny_config(tmp_path, **changes))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        first, second = (train(tiny_config(tmp_path / name, **changes)) for name in ("first", "second"))
    finally:
        torch.use_deterministic_algorithms(False)
    assert largest_difference(first, second) == 0.0


@pytest.mark.slow
def test_a_compiled_model_trains_alike_and_keeps_its_names(tmp_path):
    changes = {"MODEL__SCALE_EQUALIZER__ENABLED": True, "MODEL__TIMM__NAME": "test_convnext", "DATASETS__TEST": ()}
    plain = train(tiny_config(tmp_path / "plain", **changes))
    compiled = train(tiny_config(tmp_path / "compiled", **changes, MODEL__COMPILE=True))
    assert compiled.checkpointer.model.backbone._compiled_call_impl is not None
    assert largest_difference(plain, compiled) < 1e-3
