"""ScaleEqSegmentor: batches in, losses or logits out. Oracles: the parts by hand; Detectron2's SemanticSegmentor."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import calibrate, fold_equalizers
from scaleeq.engine import FEATURES, build_model, load_config
from scaleeq.fusion import evaluate_fusions

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet18", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"),
    *("MODEL.AUX_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5"),
]


def make_model(*options: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(CONFIGS / "Base.yaml", [*TINY, *options]))


def make_batch(*sizes: tuple[int, int], labels: bool = True) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    batch = []
    for index, size in enumerate(sizes):
        sample = {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        sample |= {"file_name": f"{index}.png", "height": size[0], "width": size[1]}
        if labels:
            sample["sem_seg"] = torch.randint(0, 5, size, generator=generator)
        batch.append(sample)
    return batch


@pytest.mark.parametrize("sizes", [[(64, 96)], [(61, 97), (64, 50)]])
def test_training_gives_losses_with_gradients_everywhere(sizes):
    model = make_model()
    losses = model(make_batch(*sizes))
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_aux_res4"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_losses_are_the_cross_entropies_of_the_heads():
    model, batch = make_model("MODEL.SEM_SEG_HEAD.DROPOUT", "0.0"), make_batch((64, 96), (64, 96))
    losses = model(batch)
    features = model.backbone(model.preprocess(batch).tensor)
    targets = torch.stack([sample["sem_seg"] for sample in batch])
    for head, name, weight in (
        (model.sem_seg_head, "loss_sem_seg", 1.0),
        (model.aux_heads["res4"], "loss_sem_seg_aux_res4", 0.4),
    ):
        logits = F.interpolate(head.logits(features), size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(losses[name], weight * F.cross_entropy(logits, targets))


def test_padding_of_labels_is_void():
    """Oracle: torch's cross entropy over labels that are padded by hand."""
    model, batch = make_model("MODEL.SEM_SEG_HEAD.DROPOUT", "0.0"), make_batch((64, 64), (48, 96))
    losses = model(batch)
    logits = model.sem_seg_head.logits(model.backbone(model.preprocess(batch).tensor))
    logits = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    rows, columns = (64, 48), (64, 96)
    targets = torch.full((2, 64, 96), -1)
    for target, sample, height, width in zip(targets, batch, rows, columns, strict=True):
        target[:height, :width] = sample["sem_seg"]
    torch.testing.assert_close(losses["loss_sem_seg"], F.cross_entropy(logits, targets, ignore_index=-1))
    assert model.counts(batch) == {"sem_seg": 64 * 64 + 48 * 96}
    with_padding = make_model("MODEL.LOSS.AVERAGE_OVER", "all")
    assert with_padding.counts(batch) == {"sem_seg": 2 * 64 * 96}


@pytest.mark.parametrize("average", ["valid", "all"])
def test_a_batch_that_is_void_everywhere_trains_to_nothing(average):
    model, batch = make_model("MODEL.LOSS.AVERAGE_OVER", average), make_batch((32, 32), (32, 32))
    for sample in batch:
        sample["sem_seg"].fill_(255)
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_results_have_the_size_that_each_record_asks_for():
    model = make_model().eval()
    batch = make_batch((61, 97), (64, 50), labels=False)
    batch[1] |= {"height": 128, "width": 100}
    with torch.no_grad():
        results = model(batch)
    assert [tuple(r["sem_seg"].shape) for r in results] == [(5, 61, 97), (5, 128, 100)]


def test_images_are_normalised_and_padded_with_zeros_at_right_and_bottom():
    model = make_model()
    small, large = make_batch((64, 64), (80, 256))
    images = model.preprocess([small, large])
    assert images.image_sizes == [(64, 64), (80, 256)]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = torch.zeros(3, 80, 256)
    expected[:, :64, :64] = (small["image"] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(images.tensor[0], expected)


def test_missing_labels_name_the_file():
    with pytest.raises(ValueError, match=r"0\.png has no 'sem_seg' labels"):
        make_model()(make_batch((32, 32), labels=False))


def test_calibration_sees_only_the_images_and_folding_keeps_the_logits():
    model = make_model("MODEL.SCALE_EQUALIZER.ENABLED", "True")
    batch = make_batch((64, 64), (64, 96))
    _, valid = model.calibration_inputs(batch)
    torch.testing.assert_close(valid, torch.tensor([[1.0, 2 / 3], [1.0, 1.0]]))
    report = calibrate(model, [batch] * 2, num_images=-1)
    assert list(report.fusions) == ["sem_seg_head.context", "sem_seg_head.fusion"]
    folded = fold_equalizers(model).double().eval()
    model.double().eval()
    with torch.no_grad():
        expected, found = model(batch), fold_equalizers(model)(batch)
        rounded = folded(batch)
    for one, other, single in zip(expected, found, rounded, strict=True):
        assert float((one["sem_seg"] - other["sem_seg"]).abs().max()) < 1e-6  # logits are float32
        torch.testing.assert_close(single["sem_seg"], one["sem_seg"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res9']"], "the backbone has res2, res3, res4, res5"),
        (["MODEL.PYRAMID.NAME", "panet"], "MODEL.PYRAMID.NAME is 'panet'"),
        (["MODEL.FUSION.TRANSFER", "cubic"], "MODEL.FUSION.TRANSFER is 'cubic'; choose one of"),
        (["MODEL.FUSION.COMBINE", "max"], "MODEL.FUSION.COMBINE is 'max'; choose one of"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8"], "set it to 4"),
        (["MODEL.SEM_SEG_HEAD.NORM", "XN"], "MODEL.SEM_SEG_HEAD.NORM is 'XN'; choose one of"),
        (["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "dice"], "LOSS_TYPE is 'dice'"),
        (["MODEL.LOSS.AVERAGE_OVER", "some"], "AVERAGE_OVER is 'some'"),
        (["MODEL.AUX_HEAD.LOSS_WEIGHTS", "[0.4, 0.4]"], "give one weight per level"),
        (["MODEL.FPN.OUT_CHANNELS", "64"], "use MODEL.PYRAMID"),
        (["MODEL.SCALE_EQUALIZER.SCOPE", "pyramid"], "choose one of head, all"),
        (
            ["MODEL.SCALE_EQUALIZER.ENABLED", "True", "MODEL.SCALE_EQUALIZER.IMPLEMENTATION", "fold"],
            "choose one of reparametrize, module",
        ),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(options, message):
    with pytest.raises(ValueError, match="(?s)" + message.replace("[", r"\[")):
        make_model(*options)


@pytest.mark.parametrize(
    ("key", "value"),
    [("PYRAMID.NAME", "fpn"), ("PYRAMID.TRANSFER", "gated"), ("FUSION.TRANSFER", "gated"), ("FUSION.COMBINE", "sum")],
)
def test_keys_of_parts_that_a_head_lacks_are_refused(key, value):
    with pytest.raises(ValueError, match=f"MODEL.{key} is '{value}', but FCNHead has no"):
        make_model(
            *("MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res5']"),
            *("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "32", f"MODEL.{key}", value),
        )


def test_fcn_head_is_a_main_head_too():
    model = make_model(
        *("MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res5']"),
        *("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "32", "MODEL.SCALE_EQUALIZER.ENABLED", "True"),
    )
    report = calibrate(model, [make_batch((64, 96), (64, 96))] * 2, num_images=-1)
    assert {name: list(branches) for name, branches in report.fusions.items()} == {
        "sem_seg_head.body": ["input", "convs"]
    }
    assert model.eval()(make_batch((64, 96)))[0]["sem_seg"].shape == (5, 64, 96)


@pytest.mark.parametrize("name", ["UPerHead", "SemanticFPNHead"])
def test_inference_goes_through_what_is_compiled(name):
    """Backbone and head are two graphs; the head's was never made, and its parts ran one by one."""
    model = make_model("MODEL.SEM_SEG_HEAD.NAME", name).eval()
    evaluate_fusions(model, "plain")  # as what is compiled is
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        expected = model(make_batch((64, 96)))[0]["sem_seg"]
        for part in (model.backbone, model.sem_seg_head):
            part.compile(backend=backend)
        assert torch.equal(model(make_batch((64, 96)))[0]["sem_seg"], expected)
        assert len(graphs) == 2
        model(make_batch((64, 96)))
        assert len(graphs) == 2, "the second image of a size takes the graphs of the first"
        copied = copy.deepcopy(model)
        torch.nn.init.zeros_(copied.sem_seg_head.classifier.weight)
        assert not copied(make_batch((64, 96)))[0]["sem_seg"].any(), "a copy has its own weights"


needs_detectron2 = pytest.mark.skipif(not FEATURES.detection, reason="needs the Detectron2 engine")


@needs_detectron2
def test_the_head_runs_inside_detectron2s_own_segmentor():
    cfg = load_config(CONFIGS / "Base.yaml", [*TINY, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"])
    torch.manual_seed(0)
    theirs = build_model(cfg)
    assert type(theirs).__module__.startswith("detectron2.")
    ours = make_model()
    theirs.backbone.load_state_dict(ours.backbone.state_dict())
    theirs.sem_seg_head.load_state_dict(ours.sem_seg_head.state_dict())
    batch = make_batch((64, 96), (64, 96))
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        losses.append(model(batch)["loss_sem_seg"])
    torch.testing.assert_close(losses[1], losses[0])
    with torch.no_grad():
        one, other = ours.eval()(batch), theirs.eval()(batch)
    torch.testing.assert_close(other[0]["sem_seg"], one[0]["sem_seg"])


@needs_detectron2
def test_detectron2s_resnet_is_a_backbone():
    options = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18"]
    options += ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.RESNETS.NORM", "BN"]
    options += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    model = make_model(*options)
    assert type(model.backbone).__module__.startswith("detectron2.")
    losses = model(make_batch((64, 96), (64, 96)))
    sum(losses.values()).backward()
    assert model.eval()(make_batch((64, 96)))[0]["sem_seg"].shape == (5, 64, 96)


def test_levels_that_nobody_reads_are_not_made():
    head = ("MODEL.SEM_SEG_HEAD.NAME", "PSPHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res5']")
    model = make_model(
        *head,
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
        "32",
        "MODEL.TIMM.NAME",
        "test_convnext",
        "MODEL.TIMM.LEVEL_NORM",
        "True",
    )
    assert set(model.backbone.level_norms) == {"res4", "res5"}  # the auxiliary head reads res4
    sum(model.train()(make_batch((64, 96), (64, 96))).values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
