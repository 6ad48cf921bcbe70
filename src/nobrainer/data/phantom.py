"""Synthetic T1-weighted heads with exact labels, made on this machine.

The anatomy comes from the MNI152 template and tissue maps that ship inside nilearn;
shape, contrast, pose and noise are drawn anew for every subject. They are for trying
the software out: a model trained on them knows nothing about real scanners.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nilearn.datasets import (
    load_mni152_brain_mask,
    load_mni152_gm_template,
    load_mni152_wm_template,
)
from numpy.typing import NDArray
from scipy import ndimage

from nobrainer.data.phantom_structures import draw_structures, find_ids
from nobrainer.errors import InputError
from nobrainer.io import SYNTHETIC, write

Array = NDArray[np.float32]

# Part of the cache's directory name: raise it when a voxel or a header changes.
GENERATION = 3

_FIELD_OF_VIEW_MM = (192.0, 240.0, 216.0)
_LATTICE_MM = 6.0
_ORIENTATIONS = ("LAS", "LIA", "PIR", "RAS")
# FreeSurfer ids by hemisphere: white matter, cortex, other CSF, lateral ventricle.
_TISSUE_IDS = np.array([(2, 3, 24, 4), (41, 42, 24, 43)], np.uint8)
# Mean relative signals of a T1-weighted sequence.
_SIGNALS = {
    "white": 0.9,
    "grey": 0.62,
    "csf": 0.24,
    "bone": 0.08,
    "marrow": 0.4,
    "muscle": 0.45,
    "fat": 1.0,
}


class _Atlas(NamedTuple):
    """Maps in MNI space, (I, J, K) each, blurred to the size of a voxel.

    grey, white: share of grey and of white matter in each voxel, 0 to 1.
    depth_mm: distance from the brain's surface, positive inside.
    ventricles: share of lateral ventricle, 0 to 1.
    structures: number of the structure in each voxel, see `draw_structures`.
    affine: (4, 4), from voxels to MNI space in mm.
    """

    grey: Array
    white: Array
    depth_mm: Array
    ventricles: Array
    structures: NDArray[np.uint8]
    affine: NDArray[np.float64]


class _Space(NamedTuple):
    """The grid of one subject's scan, and where the atlas lies under it.

    rng: generator of all that differs from subject to subject.
    shape: number of voxels along each axis.
    lattice: number of points along each axis of the coarse lattice for smooth fields.
    mni: position of each voxel in MNI space in mm, (3, I, J, K).
    at: the same position in voxels of the atlas.
    resolution_mm: edge of the cubic voxels.
    """

    rng: np.random.Generator
    shape: tuple[int, ...]
    lattice: tuple[int, ...]
    mni: Array
    at: Array
    resolution_mm: float

    def sample(self, values: Array, mode: str = "constant") -> Array:
        """Values of an atlas map at the voxels of the scan, linearly interpolated."""
        return ndimage.map_coordinates(values, self.at, order=1, mode=mode)

    def look_up(self, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Numbers of an atlas map at the voxels of the scan, those that lie nearest."""
        return ndimage.map_coordinates(numbers, self.at, order=0)

    def noise(self, sigma_mm: float) -> Array:
        """A smooth random field of unit variance at the voxels of the scan."""
        field = _smooth_noise(self.rng, self.lattice, sigma_mm / _LATTICE_MM)
        return _to_shape(field, self.shape)


class _Surfaces(NamedTuple):
    """How deep each voxel lies below the surfaces of a head, in mm, (I, J, K) each.

    in_brain_mm, in_csf_mm, in_bone_mm, in_skin_mm: depth below the surface of the
        brain, of the fluid around it, of the skull and of the skin; positive inside.
    bone_mm: thickness of the skull.
    """

    in_brain_mm: Array
    in_csf_mm: Array
    in_bone_mm: Array
    in_skin_mm: Array
    bone_mm: Array


@lru_cache(maxsize=2)
def _atlas(resolution_mm: float) -> _Atlas:
    step_mm = 1 if resolution_mm < 2 else 2
    margin = 24 // step_mm
    grey_image = load_mni152_gm_template(resolution=step_mm)
    grey, white, mask = (
        np.pad(np.asarray(image.dataobj, np.float32), margin)
        for image in (
            grey_image,
            load_mni152_wm_template(resolution=step_mm),
            load_mni152_brain_mask(resolution=step_mm),
        )
    )
    affine = grey_image.affine.copy()
    affine[:3, 3] -= 24
    brain = mask > 0
    depth_mm = step_mm * (
        ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)
    )

    # The lateral ventricles: on each side the largest pool of CSF deep in the brain,
    # above the third ventricle and the cisterns.
    x, y, z = np.ogrid[tuple(slice(n) for n in brain.shape)]
    x, y, z = (i * step_mm + o for i, o in zip((x, y, z), affine[:3, 3], strict=True))
    pool = (grey + white < 0.5) & (depth_mm > 20) & (abs(x) < 40)
    pool &= (y > -55) & (y < 45) & (z > np.where(abs(x) > 4, -8, 6))
    ventricles = np.zeros_like(brain)
    for side in (x < 0, x >= 0):
        parts, _ = ndimage.label(pool & side)
        ventricles |= parts == np.bincount(parts[parts > 0]).argmax()
    ventricles = ndimage.binary_dilation(ventricles, iterations=4 // step_mm)

    # Its full width at half maximum makes up for the step being finer than a voxel.
    blur = (resolution_mm**2 - step_mm**2) ** 0.5 / step_mm / 2.355

    def smooth(values: NDArray[np.generic]) -> Array:
        return ndimage.gaussian_filter(values.astype(np.float32), blur)

    return _Atlas(
        grey=smooth(grey),
        white=smooth(white),
        depth_mm=smooth(depth_mm),
        ventricles=smooth(ventricles),
        structures=draw_structures(brain.shape, affine),
        affine=affine,
    )


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float
) -> Array:
    """A Gaussian random field of unit variance, correlated over `sigma` voxels."""
    noise = rng.standard_normal(shape, np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, mode="reflect")
    return noise / noise.std()


def _to_shape(field: Array, shape: tuple[int, ...]) -> Array:
    """Interpolate a lattice linearly onto a grid of `shape` that spans the same box."""
    factors = [n / m for n, m in zip(shape, field.shape, strict=True)]
    return ndimage.zoom(field, factors, order=1)


def _deformation(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: float
) -> Array:
    """Displacement (3, I, J, K) in mm of a random diffeomorphism.

    The exponential of a stationary velocity field by scaling and squaring
    (Arsigny et al. 2006, doi:10.1007/11866565_113).
    """
    grid = np.indices(shape, np.float32)
    displacement = np.empty_like(grid)
    for axis in range(3):
        displacement[axis] = 3.0 * _smooth_noise(rng, shape, 24 / spacing_mm)
        displacement[axis] += 1.2 * _smooth_noise(rng, shape, 9 / spacing_mm)
    displacement /= 2**6
    for _ in range(6):
        at = grid + displacement / spacing_mm
        displacement = displacement + np.stack(
            [
                ndimage.map_coordinates(d, at, order=1, mode="nearest")
                for d in displacement
            ]
        )
    return displacement


def _pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random affine (4, 4) from the head in the scanner to the MNI atlas."""
    # The MNI template is larger than an average brain.
    scale = np.diag(1 / (rng.normal(0.91, 0.015) * rng.normal(1, 0.015, 3)))
    pitch, roll, yaw = np.deg2rad(rng.normal(0, (4, 1.5, 1.5)))
    (cp, sp), (cr, sr), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (pitch, roll, yaw))
    rotation = (
        np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        @ np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
        @ np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    )
    return nib.affines.from_matvec(scale @ rotation, rng.normal(0, (1, 4, 4)))


def _inside(level_mm: Array, resolution_mm: float) -> Array:
    """Share of each voxel on the positive side of a surface at level zero."""
    return np.clip(level_mm / resolution_mm + 0.5, 0, 1)


def _brain_tissue(
    rng: np.random.Generator, grey: Array, white: Array, resolution_mm: float
) -> Array:
    """Draw the shares of white matter, grey matter and CSF in each voxel.

    The maps are means over many people. Raising them to a power takes back the blur
    of that mean; noise in the exponent moves the folds from subject to subject.

    Args:
        rng: generator of the random draws.
        grey, white: share of grey and of white matter in the atlas, (I, J, K).
        resolution_mm: edge of the voxels.

    Returns:
        (3, I, J, K), with the sum 1 in each voxel.
    """
    shares = np.stack((white, grey, rng.uniform(1.3, 1.9) * (1 - grey - white)))
    shares = np.maximum(shares, 1e-3) ** 2
    for share in shares:
        share *= np.exp(0.35 * _smooth_noise(rng, share.shape, 4.0 / resolution_mm))
    return shares / shares.sum(axis=0)


def _as_stored(
    data: NDArray[np.generic], affine: NDArray[np.float64], orientation: str
) -> nib.Nifti1Image:
    """The image as a scanner may store it: other order of axes, same place in mm."""
    wanted = nib.orientations.axcodes2ornt(orientation)
    given = nib.orientations.io_orientation(affine)
    image = nib.Nifti1Image(data, affine).as_reoriented(
        nib.orientations.ornt_transform(given, wanted)
    )
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"{SYNTHETIC}: nobrainer phantom"
    return image


def make_subject(
    seed: int, resolution_mm: float = 2.0, *, structures: bool = True
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Make one synthetic T1-weighted head and its labels.

    Args:
        seed: number of the subject; the same seed gives the same voxels.
        resolution_mm: edge of the cubic voxels, 1 to 10 mm.
        structures: whether the labels tell structures apart, or tissues alone.

    Returns:
        The image (I, J, K), int16, arbitrary units; and its labels, uint8, with
        FreeSurfer's ids: 2/41 cerebral white matter, 3/42 cortex, 4/43 lateral
        ventricle, 24 other CSF of the brain, 7/46 and 8/47 white matter and cortex of
        the cerebellum, 10/49 thalamus, 11/50 caudate nucleus, 12/51 putamen, 13/52
        pallidum, 16 brain stem, 17/53 hippocampus, 18/54 amygdala, 26/58 accumbens;
        left ids first. With tissues alone all white matter is 2/41, all grey matter
        3/42. Both on one grid whose orientation and origin differ from subject to
        subject.

    Raises:
        InputError: the resolution is out of range.
    """
    if not 1 <= resolution_mm <= 10:
        raise InputError(
            f"resolution_mm: must be between 1 and 10, got {resolution_mm}: "
            "use for example 2.0"
        )
    rng = np.random.default_rng(seed)
    atlas = _atlas(float(resolution_mm))
    corner = np.array([-96.0, -138.0, -118.0]) + rng.normal(0, (1, 2, 2))
    isocentre_mm = rng.normal(0, (0.5, 15, 15)).round(2)
    # In RAS order until the very end.
    affine = nib.affines.from_matvec(np.eye(3) * resolution_mm, corner)
    space = _draw_space(rng, atlas, affine)
    in_brain_mm = space.sample(atlas.depth_mm, "nearest") + 0.5 * space.noise(8)
    grey, white = space.sample(atlas.grey), space.sample(atlas.white)
    shares = _brain_tissue(rng, grey, white, resolution_mm)
    surfaces = _draw_surfaces(space, in_brain_mm)
    image = _draw_image(space, shares, surfaces)

    tissue = shares.argmax(axis=0)
    tissue[(tissue == 2) & (space.sample(atlas.ventricles) > 0.5)] = 3
    is_right = (space.mni[0] > 0).astype(int)
    inside = space.look_up(atlas.structures) if structures else np.uint8(0)
    ids = find_ids(_TISSUE_IDS)[inside, is_right, tissue]
    labels = np.where(in_brain_mm > 0, ids, np.uint8(0))

    affine[:3, 3] += isocentre_mm
    orientation = _ORIENTATIONS[seed % len(_ORIENTATIONS)]
    return (
        _as_stored(image.round().astype(np.int16), affine, orientation),
        _as_stored(labels, affine, orientation),
    )


def _draw_space(
    rng: np.random.Generator, atlas: _Atlas, affine: NDArray[np.float64]
) -> _Space:
    """Draw shape and pose of a head, and with them where the atlas lies."""
    resolution_mm = float(affine[0, 0])
    shape = tuple(round(extent / resolution_mm) for extent in _FIELD_OF_VIEW_MM)
    lattice = tuple(round(extent / _LATTICE_MM) + 1 for extent in _FIELD_OF_VIEW_MM)
    displacement = _deformation(rng, lattice, _LATTICE_MM)
    to_mni = (_pose(rng) @ affine).astype(np.float32)
    moved = np.indices(shape, np.float32)
    for axis, mm in enumerate(displacement):
        moved[axis] += _to_shape(mm, shape) / resolution_mm
    mni = np.einsum("ab,b...->a...", to_mni[:3, :3], moved)
    mni += to_mni[:3, 3, None, None, None]
    step_mm, origin = atlas.affine[0, 0], atlas.affine[:3, 3, None, None, None]
    at = (mni - origin.astype(np.float32)) / np.float32(step_mm)
    return _Space(rng, shape, lattice, mni, at, resolution_mm)


def _draw_surfaces(space: _Space, in_brain_mm: Array) -> _Surfaces:
    """Draw how thick fluid, skull and scalp are; skin also wraps neck and face."""
    x, y, z = space.mni
    thickness_mm = np.array([(1, 2), (4.5, 7), (4, 8)])
    csf_mm, bone_mm, scalp_mm = (
        mean * (1 + 0.2 * space.noise(20))
        for mean in space.rng.uniform(*thickness_mm.T)
    )
    in_csf_mm = in_brain_mm + csf_mm
    in_bone_mm = in_csf_mm + bone_mm
    neck_mm = 58 - np.hypot(x, 0.9 * (y + 30)) - np.maximum(z + 50, 0)
    face_mm = 58 - np.sqrt(x**2 + (0.8 * (y - 28)) ** 2 + (0.8 * (z + 68)) ** 2)
    in_skin_mm = np.maximum(in_bone_mm + scalp_mm, np.maximum(neck_mm, face_mm))
    return _Surfaces(in_brain_mm, in_csf_mm, in_bone_mm, in_skin_mm, bone_mm)


def _draw_image(space: _Space, shares: Array, surfaces: _Surfaces) -> Array:
    """Draw the intensities of a head, (I, J, K), in arbitrary units.

    Args:
        space: the grid of the scan.
        shares: share of white matter, grey matter and fluid in each voxel of the brain,
            (3, I, J, K).
        surfaces: how deep voxels lie in the head.
    """
    rng, resolution_mm = space.rng, space.resolution_mm
    in_brain_mm, in_csf_mm, in_bone_mm, in_skin_mm, bone_mm = surfaces
    signal = {name: s * rng.normal(1, 0.05) for name, s in _SIGNALS.items()}
    # Flesh is fat under the skin, and muscle with islands of fat and air further down.
    islands = 6 * _smooth_noise(rng, space.shape, 5 / resolution_mm)
    fat = _inside(np.maximum(5 - in_skin_mm, islands - 6), resolution_mm)
    air = _inside(np.minimum(in_skin_mm - 12, -islands - 10), resolution_mm)
    flesh = signal["muscle"] + (signal["fat"] - signal["muscle"]) * fat
    flesh *= 1 - air
    marrow = np.clip(1 - 6 * np.abs(in_bone_mm / bone_mm - 0.5), 0, 1)
    bone = signal["bone"] + (signal["marrow"] - signal["bone"]) * marrow
    brain = sum(
        signal[name] * share
        for name, share in zip(("white", "grey", "csf"), shares, strict=True)
    )

    image = np.zeros(space.shape, np.float32)
    for layer, level_mm in (
        (flesh, in_skin_mm),
        (bone, in_bone_mm),
        (signal["csf"], in_csf_mm),
        (brain, in_brain_mm),
    ):
        image += _inside(level_mm, resolution_mm) * (layer - image)
    image *= np.exp(rng.uniform(0.06, 0.14) * space.noise(50))  # the coil's bias
    shape = (2, *space.shape)
    noise = rng.uniform(0.015, 0.035) * rng.standard_normal(shape, np.float32)
    image = np.hypot(image + noise[0], noise[1])  # Rician: modulus of a complex signal
    image *= rng.uniform(400, 1200)
    return image


def write_subjects(
    directory: Path,
    n: int = 10,
    resolution_mm: float = 2.0,
    *,
    structures: bool = True,
) -> list[tuple[Path, Path]]:
    """Write subjects 1 to `n` as NIfTI files, unless they are there already.

    Args:
        directory: folder of the files; it is made if it is missing.
        n: number of subjects.
        resolution_mm: edge of the cubic voxels, 1 to 10 mm.
        structures: whether the labels tell structures apart, or tissues alone.

    Returns:
        The paths of each subject's image and labels, `sub-01_T1w.nii.gz` and
        `sub-01_dseg.nii.gz` onwards.

    Raises:
        InputError: the resolution is out of range, or a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed in range(1, n + 1):
        image_path = directory / f"sub-{seed:02}_T1w.nii.gz"
        labels_path = directory / f"sub-{seed:02}_dseg.nii.gz"
        if not (image_path.is_file() and labels_path.is_file()):
            image, labels = make_subject(seed, resolution_mm, structures=structures)
            write(image, image_path, overwrite=True)
            write(labels, labels_path, overwrite=True)
        pairs.append((image_path, labels_path))
    return pairs
