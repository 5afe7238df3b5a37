"""`scaleeq export`: a run's checkpoint as a file, and what is refused before torch is loaded."""

from __future__ import annotations

import pytest
import torch

from scaleeq.engine import SafeCheckpointer, build_model
from scaleeq.equalization.calibration import fusions_of
from tests.commands.test_console_verbs import WATCHED, loaded, scaleeq
from tests.training.tiny import tiny_config


@pytest.mark.slow
def test_a_checkpoint_becomes_a_file(tmp_path):
    cfg = tiny_config(tmp_path, MODEL__TIMM__NAME="test_resnet", MODEL__SCALE_EQUALIZER__ENABLED=True)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for fusion in fusions_of(model).values():
        for equalizer in fusion.equalizer_of.values():
            equalizer.set_statistics(torch.tensor(0.1), torch.tensor(2.0), 4)
    SafeCheckpointer(model, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())

    file = tmp_path / "model.ts"
    words = [str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "model_final.pth"), "-o", str(file)]
    done = scaleeq("export", *words)
    assert (done.returncode, done.stderr) == (0, "") and "model.ts: equals the model at 96x64, " in done.stdout
    image = 255 * torch.rand(3, 61, 97)
    with torch.no_grad():
        (expected,) = model([{"image": image}])
        found = torch.jit.load(str(file))(image[None])
    torch.testing.assert_close(found[0], expected["sem_seg"], rtol=1e-4, atol=1e-5)


def test_wrong_words():
    done = scaleeq("export", "toy/fpn", "-o", "model.onx", code=WATCHED)
    assert done.returncode == 2 and loaded(done) == [] and "did you mean .onnx" in done.stderr
    done = scaleeq("export", "toy/fpm", "-o", "model.onnx", code=WATCHED)
    assert done.returncode == 2 and set(loaded(done)) <= {"yaml", "yacs"} and "did you mean toy/fpn" in done.stderr
    done = scaleeq("export", "toy/fpn", "-o", "model.onnx")
    assert done.returncode == 2 and done.stderr.startswith("error: --weights FILE is missing")
