"""The picture of a prediction: which way is up, and what is outlined."""

import nibabel as nib
import numpy as np
import pytest

from nobrainer.figure import draw_prediction


@pytest.mark.parametrize("flip", [False, True])
def test_left_is_left_however_the_scan_is_stored(flip: bool) -> None:
    shape, affine = (12, 14, 16), np.diag([2.0, 1.0, 1.0, 1.0])
    scan = np.ones(shape, np.float32)
    scan[9:11, 7:, 8:] = 5  # right, in front, above
    label = np.zeros(shape, np.uint8)
    label[3:10, 4:11, 4:13] = 1
    entropy = scan / 10
    if flip:
        scan, label, entropy = (data[::-1] for data in (scan, label, entropy))
        affine[0] = [-2, 0, 0, 22]

    def image(data: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.ascontiguousarray(data), affine)

    figure = draw_prediction(
        image(scan),
        image(label),
        image(np.zeros_like(scan)),
        image(entropy),
        truth=image(label),
        title="a scan",
    )
    panels = np.array(figure.axes[:12]).reshape(3, 4)
    sagittal, coronal, axial = (row[0].images[0].get_array() for row in panels)
    assert sagittal.shape == (16, 14)  # the plane i = 6 misses the bright corner
    assert (sagittal == 1).all()
    assert coronal[8:, 9:11].min() == axial[7:, 9:11].min() == 5
    assert (coronal == 5).sum() == 8 * 2 and (axial == 5).sum() == 7 * 2
    np.testing.assert_allclose(panels[2, 3].images[0].get_array(), axial / 10)
    # Voxels of 2 x 1 mm are twice as wide as high.
    assert panels[1, 0].get_aspect() == 0.5
    outlines = [len(panel.collections) for panel in panels[0]]
    assert outlines == [0, 2, 0, 0]
