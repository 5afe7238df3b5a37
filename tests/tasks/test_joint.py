"""Several tasks on one model: what they share, losses, weights, checkpoints, calibration, inference, the whole run.

The second task is tests/tasks/mean_colour.py. Oracles: the parts by hand, one task alone, one large batch.
"""

from __future__ import annotations

import copy

import pytest
import torch

import tests.tasks.mean_colour as mean_colour
from scaleeq import calibrate, create_model, fold_equalizers
from scaleeq.engine import build_model
from scaleeq.inference import Inference, InferenceOptions
from scaleeq.probes.counting import count
from scaleeq.tasks import SemanticTask, build_tasks
from scaleeq.tasks.losses.averaging import prepare_step
from scaleeq.tasks.weighting import collected_task_losses
from scaleeq.training.parameter_groups import parameter_groups
from scaleeq.training.step import TrainingStep
from tests.training.tiny import tiny_config

TASKS = ["sem_seg", "mean_colour"]
JOINT = {"MODEL__TASKS__NAMES": TASKS, "SEED": 1}
EQUALIZED = {"MODEL__SCALE_EQUALIZER__ENABLED": True}
PLAIN_HEADS = {"MODEL__AUX_HEAD__IN_FEATURES": [], "MODEL__AUX_HEAD__LOSS_WEIGHTS": []}


def config(tmp_path, **changes):
    return tiny_config(tmp_path, **JOINT | changes)


def make(tmp_path, **changes):
    torch.manual_seed(0)
    return build_model(config(tmp_path, **changes))


def make_batch(*sizes, labels=True):
    generator = torch.Generator().manual_seed(0)
    batch = []
    for index, (height, width) in enumerate(sizes):
        sample = {"image": torch.rand(3, height, width, generator=generator) * 255, "file_name": f"{index}.png"}
        sample |= {"height": height, "width": width}
        if labels:
            sample["sem_seg"] = torch.randint(0, 8, (height, width), generator=generator)
            sample["mean_colour"] = torch.rand(3, height, width, generator=generator)
        batch.append(sample)
    return batch


def parts_of(model):
    """The first two words of the state dict's names, but for the backbone's."""
    words = [name.split(".") for name in model.state_dict() if not name.startswith("backbone")]
    return sorted({".".join(each[:3] if each[0] == "decoders" else each[:2]) for each in words})


# ---------------------------------------------------------------------------------------------------- what is shared

SHARED = {
    "backbone": [f"decoders.{task}.{part}" for task in TASKS for part in ("context", "fusion", "pyramid")],
    "pyramid": [*(f"decoders.{task}.fusion" for task in TASKS), "decoders.shared.context", "decoders.shared.pyramid"],
    "decoder": [f"decoders.shared.{part}" for part in ("context", "fusion", "pyramid")],
}


@pytest.mark.parametrize("share", SHARED)
def test_what_is_shared_is_there_once(tmp_path, share):
    model = make(tmp_path, MODEL__TASKS__SHARE=share, **PLAIN_HEADS).eval()
    assert parts_of(model) == sorted([*SHARED[share], *(f"tasks.{task}" for task in TASKS)])
    logits = model.logits(torch.rand(1, 3, 64, 96))
    assert {name: tuple(map_.shape) for name, map_ in logits.items()} == {
        "sem_seg": (1, 8, 16, 24),
        "mean_colour": (1, 3, 16, 24),
    }


@pytest.mark.parametrize("head", ["UPerHead", "SemanticFPNHead", "ESegHead"])
def test_a_shared_pyramid_computes_what_equal_ones_compute(tmp_path, head):
    """Oracle: whole decoders, with the shared weights in each of them."""
    keys = {"MODEL__SEM_SEG_HEAD__NAME": head, "MODEL__SEM_SEG_HEAD__NORM": "GN" if head == "SemanticFPNHead" else "BN"}
    keys |= PLAIN_HEADS | {"MODEL__SEM_SEG_HEAD__CONVS_DIM": 32}
    shared, whole = make(tmp_path, **keys).eval(), make(tmp_path, MODEL__TASKS__SHARE="backbone", **keys).eval()
    state = shared.state_dict()
    for name in [name for name in state if name.startswith("decoders.shared.")]:
        value = state.pop(name)
        state |= {name.replace("shared", task): value for task in TASKS}
    whole.load_state_dict(state)
    images = torch.rand(2, 3, 64, 96)
    expected = whole.logits(images)
    assert all(torch.equal(found, expected[name]) for name, found in shared.logits(images).items())


@pytest.mark.parametrize("head", ["FCNHead", "PSPHead", "ASPPHead", "SepASPPHead"])
def test_decoders_without_a_pyramid_share_the_backbone(tmp_path, head, caplog):
    levels = {"PSPHead": ["res5"], "ASPPHead": ["res5"], "SepASPPHead": ["res2", "res5"]}
    keys = {"MODEL__SEM_SEG_HEAD__NAME": head, "MODEL__SEM_SEG_HEAD__COMMON_STRIDE": 4 if head[0] in "FS" else 32}
    if head in levels:
        keys["MODEL__SEM_SEG_HEAD__IN_FEATURES"] = levels[head]
    with caplog.at_level("INFO", logger="scaleeq"):
        model = make(tmp_path, **keys, **PLAIN_HEADS)
    assert set(model.decoders) == set(TASKS)
    assert "has no pyramid: mean_colour has the backbone alone in common" in caplog.text
    sum(model.train()(make_batch((64, 64), (64, 64))).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_heads_of_two_kinds(tmp_path):
    """A key that one of the heads reads may be set; what both lack is refused."""
    heads = {"MODEL__TASKS__HEADS": ["UPerHead", "FCNHead"], **PLAIN_HEADS}
    model = make(tmp_path, MODEL__PYRAMID__NAME="fapn", **heads)
    assert {name: type(decoder).__name__ for name, decoder in model.decoders.items()} == {
        "sem_seg": "UPer",
        "mean_colour": "FCN",
    }
    with pytest.raises(ValueError, match=r"ASPP_CHANNELS is 4, but UPerHead and FCNHead has no atrous pooling"):
        make(tmp_path, MODEL__SEM_SEG_HEAD__ASPP_CHANNELS=4, **heads)
    pyramids = {"MODEL__TASKS__HEADS": ["UPerHead", "SemanticFPNHead"], **PLAIN_HEADS}
    with pytest.raises(ValueError, match=r"pyramids are of different decoders \(sem_seg UPer, mean_colour Semantic"):
        make(tmp_path, **pyramids)
    assert set(make(tmp_path, MODEL__TASKS__SHARE="backbone", **pyramids).decoders) == set(TASKS)


# ---------------------------------------------------------------------------------------------------- losses


def test_losses_are_those_of_the_tasks_and_their_sum_is_weighted(tmp_path):
    keys = {"MODEL__AUX_HEAD__LOSS_WEIGHTS": [0.4], "MODEL__TASKS__WEIGHTS": [0.5, 10.0]}
    model, batch = make(tmp_path, **keys), make_batch((64, 96), (50, 64))
    with collected_task_losses() as told:
        losses = model(batch)
    images = model.preprocess(batch)
    features = model.backbone(images.tensor)
    expected = {}
    for name, task in model.tasks.items():
        fused = model.decoders(features)[name]
        targets = task.targets(batch, images.tensor.shape[-2:], model.device)
        expected |= task.losses(task.predict(fused), targets)
    for name, weight in (("loss_sem_seg", 0.5), ("loss_mean_colour", 10.0)):
        torch.testing.assert_close(told.unweighted[name], expected[name].detach())
        torch.testing.assert_close(losses[name], expected[name] * weight)
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_aux_res4", "loss_mean_colour"]
    torch.testing.assert_close(told.totals["sem_seg"], losses["loss_sem_seg"] + losses["loss_sem_seg_aux_res4"])
    torch.testing.assert_close(sum(told.totals.values()), sum(losses.values()))


def test_uncertainties_are_libmtls(tmp_path):
    """total = sum of L / (2 exp(s)) + s / 2; s starts at -0.5, learns, and does not decay."""
    model, batch = make(tmp_path, MODEL__TASKS__WEIGHTING="uncertainty"), make_batch((64, 64), (64, 64))
    names = [f"tasks.{task}.log_variance" for task in TASKS]
    assert [float(model.state_dict()[name]) for name in names] == [-0.5, -0.5]
    with torch.no_grad():
        model.tasks["mean_colour"].log_variance.fill_(0.7)
    with collected_task_losses() as told:
        losses = model(batch)
    own = told.unweighted
    of_classes = own["loss_sem_seg"] + own["loss_sem_seg_aux_res4"]
    s = torch.tensor([-0.5, 0.7])
    expected = of_classes / (2 * s[0].exp()) + s[0] / 2 + own["loss_mean_colour"] / (2 * s[1].exp()) + s[1] / 2
    total = sum(losses.values())
    torch.testing.assert_close(total.detach(), expected)
    total.backward()
    gradient = model.tasks["mean_colour"].log_variance.grad
    torch.testing.assert_close(gradient, 0.5 - own["loss_mean_colour"] / (2 * s[1].exp()))
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.1)
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert [decays[task.log_variance] for task in model.tasks.values()] == [0.0, 0.0]


@pytest.mark.parametrize("missing", TASKS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_sample_without_a_tasks_map_adds_nothing(tmp_path, missing, everywhere):
    model, batch = make(tmp_path), make_batch((64, 64), (64, 64))
    for sample in batch if everywhere else batch[:1]:
        del sample[missing]
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters()), "and there is a gradient of each"
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert (float(losses[f"loss_{missing}"].detach()) == 0.0) == everywhere
    assert (model.counts(batch)[missing] == 0) == everywhere


@pytest.mark.parametrize("passes", [2, 4])
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_the_losses_are_the_whole_batchs_however_it_is_cut(tmp_path, passes, weighting):
    """With batch norms that look at single images, and unlike numbers of valid elements a task."""
    model = make(tmp_path, MODEL__TASKS__WEIGHTING=weighting)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = make_batch(*[(64, 64)] * 8)
    batch[0]["sem_seg"][:40] = 255
    batch[1]["mean_colour"][:, :50] = mean_colour.UNKNOWN
    del batch[4]["mean_colour"], batch[5]["mean_colour"], batch[6]["sem_seg"]
    found = []
    for size in (8, 8 // passes):
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=size)
        losses, norm = step.backward(batch, 0)
        found.append({name: float(loss) for name, loss in losses.items()} | {"norm": float(norm)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert {"loss_sem_seg", "loss_mean_colour", "total_loss"} < found[0].keys()


def test_a_mean_count_is_a_tasks_own(tmp_path):
    model, batch = make(tmp_path), make_batch((64, 64), (64, 64))
    alone = {name: float(loss) for name, loss in model(batch).items()}
    with prepare_step(model, iteration=0, mean_count={"sem_seg": 4 * 64 * 64, "mean_colour": 2 * 3 * 64 * 64}):
        halved = {name: float(loss) for name, loss in model(batch).items()}
    assert halved["loss_sem_seg"] == pytest.approx(alone["loss_sem_seg"] / 2, rel=1e-4)
    assert halved["loss_mean_colour"] == pytest.approx(alone["loss_mean_colour"], rel=1e-4)


def test_supervised_gates_are_of_the_decoder_with_classes(tmp_path):
    gates = {"MODEL__FUSION__TRANSFER": "supervised_gated", "MODEL__SEM_SEG_HEAD__NAME": "FCNHead", **PLAIN_HEADS}
    batch = make_batch((64, 64), (64, 64))
    with pytest.raises(ValueError, match="supervised gates predict classes, which mean_colour has not"):
        make(tmp_path, **gates)(batch)
    losses = make(tmp_path, MODEL__TASKS__SHARE="decoder", **gates)(batch)
    assert sum(name.startswith("loss_gate_fusion_res") for name in losses) >= 3


# ---------------------------------------------------------------------------------------------------- equalizers


@pytest.mark.parametrize("share", SHARED)
def test_equalizers_are_calibrated_and_folded(tmp_path, share):
    model = make(tmp_path, MODEL__TASKS__SHARE=share, MODEL__SCALE_EQUALIZER__SCOPE="all", **EQUALIZED)
    report = calibrate(model, [make_batch((64, 64), (64, 96))] * 2, num_images=4)
    assert set(report.fusions) == {name for name in report.fusions if name.startswith("decoders.")}
    assert len(report.fusions) == {"backbone": 10, "pyramid": 6, "decoder": 5}[share]
    folded = fold_equalizers(model)
    assert not any(".equalizers." in name for name in folded.state_dict())
    images = torch.rand(1, 3, 64, 64)
    expected = model.eval().logits(images)
    for name, found in folded.eval().logits(images).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- inference


def test_predictions_have_each_images_size(tmp_path):
    model = make(tmp_path).eval()
    results = model(make_batch((64, 96), (50, 64), labels=False))
    assert [{name: tuple(x.shape) for name, x in each.items()} for each in results] == [
        {"sem_seg": (8, 64, 96), "mean_colour": (3, 64, 96)},
        {"sem_seg": (8, 50, 64), "mean_colour": (3, 50, 64)},
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"window": (48, 48)},
        {"scales": (0.75, 1.0), "flip": True},
        {"scales": (1.0, 1.5), "flip": True, "combine": "exp_sum", "window": (64, 64)},
    ],
)
def test_windows_scales_and_flips_are_those_of_each_task_alone(tmp_path, options):
    """Oracle: an inference of one task of the same model."""
    model, tasks = make(tmp_path).eval(), build_tasks(config(tmp_path))
    sample = make_batch((64, 96), labels=False)
    found = Inference(model, options=InferenceOptions(**options), tasks=list(tasks.values()))(sample)[0]
    for name, task in tasks.items():
        alone = Inference(model, options=InferenceOptions(**options), task=task)(sample)[0]
        assert set(alone) == {name} and torch.equal(found[name], alone[name])
    assert list(found) == TASKS


def test_counted_parts(tmp_path):
    model = make(tmp_path)
    whole = make(tmp_path, MODEL__TASKS__SHARE="backbone")
    counted, of_whole = (count(each, make_batch((64, 64), labels=False)) for each in (model, whole))
    assert counted.params_by_part["pyramid"] * 2 == of_whole.params_by_part["pyramid"] > 0
    assert counted.params + counted.auxiliary_params == sum(p.numel() for p in model.parameters())
    assert "other" not in counted.params_by_part


def test_a_plain_model_has_the_same_keys(tmp_path):
    tasks = [SemanticTask(num_classes=8), mean_colour.MeanColour()]
    model = create_model("uper", "resnet18", channels=8, tasks=tasks)
    trained = make(tmp_path, **PLAIN_HEADS)
    model.load_state_dict(trained.state_dict())
    images = torch.rand(1, 3, 64, 96)
    expected = trained.eval().logits(images)
    assert all(torch.equal(found, expected[name]) for name, found in model.eval().logits(images).items())
    assert {name: tuple(x.shape) for name, x in model(images).items()} == {
        "sem_seg": (1, 8, 64, 96),
        "mean_colour": (1, 3, 64, 96),
    }
    with pytest.raises(ValueError, match="give one of the two"):
        create_model("uper", "resnet18", channels=8, tasks=tasks, num_classes=8)
    with pytest.raises(ValueError, match="give each task once"):
        create_model("uper", "resnet18", channels=8, tasks=[tasks[0], copy.deepcopy(tasks[0])])
