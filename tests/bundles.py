"""A model with weights of every kind, and what is asked of its files."""

import hashlib

import torch

from nobrainer.bundle import Bundle
from nobrainer.data.labels import LabelTable
from nobrainer.posthoc import Calibration, Intervals, QualityModel
from nobrainer.recipe import FileRecord
from recipes import make_recipe

NAMES = (
    "weights.safetensors",
    "recipe.json",
    "labels.tsv",
    "history.jsonl",
    "README.md",
    "croissant.json",
)
ALL_NAMES = (*NAMES, "SHA256SUMS")
FITTED = ("calibration.json", "quality.json")
CALIBRATION = Calibration(
    method="vector",
    weight=(1.0, 0.5, 0.1 + 0.2),
    bias=(0.0, -0.25, 1e-9),
    n_subjects=4,
    nll_before=0.5,
    nll_after=0.25,
    intervals=Intervals(0.9, 4, 10, (None, 1.5, 2.0)),
)
QUALITY = QualityModel(
    features=("entropy", "mean_dice"),
    centre=(0.1, 0.9),
    scale=(0.5, 0.25),
    coefficients=(-0.1, 0.3),
    intercept=1.2,
    low=(-2.0, -3.0),
    high=(2.0, 3.0),
    n_subjects=5,
    n_cases=20,
    n_draws=10,
    error=0.02,
)


def _recipe():
    return make_recipe(
        model={"name": "unet", "args": {"n_classes": 3}},
        data={"n_classes": 3},
        training={"epochs": 2, "seed": 0, "gradient_clip": 1.0},
        provenance={
            "files": (
                FileRecord("t1.nii.gz", "train-image", "0" * 64, 10),
                FileRecord("seg.nii.gz", "train-label", "1" * 64, 10),
            )
        },
    )


def _weights():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn((4, 2, 3, 3, 3), generator=generator)
    return {
        "conv.weight": dense,
        "conv.channels_last": dense.to(memory_format=torch.channels_last_3d),
        "shares.memory": dense[1:3],
        "transposed": dense[0, 0, 0].t(),
        "half": dense.to(torch.bfloat16),
        "special": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "norm.num_batches_tracked": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def make_bundle():
    return Bundle(
        recipe=_recipe(),
        weights=_weights(),
        labels=LabelTable(("background", "grey matter", "Weiße Substanz")),
        history=(
            {"epoch": 1, "loss": 0.1 + 0.2, "validation_dice": None},
            {"epoch": 2, "loss": 1e-3, "validation_dice": 0.5},
        ),
    )


def _bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(left, right):
    assert left.recipe == right.recipe
    assert left.labels == right.labels
    assert left.history == right.history
    assert left.calibration == right.calibration
    assert left.quality == right.quality
    assert left.weights.keys() == right.weights.keys()
    for name, tensor in left.weights.items():
        other = right.weights[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        assert torch.equal(_bits(tensor), _bits(other)), name


def contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def sign(folder):
    """Make the checksums right again, as someone who means harm would."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (*NAMES[:-2], *FITTED, *NAMES[-2:])
        if (folder / name).exists()
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))
