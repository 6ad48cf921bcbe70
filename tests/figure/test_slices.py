"""Pictures of slices: which way is up, what is outlined, how maps are coloured."""

from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
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
        image(np.ones_like(scan)),
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


def image_of(data: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, np.eye(4))


def block(shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    """Classes 1 and 2 side by side."""
    label = np.zeros(shape, np.uint8)
    label[4:10, 5:15, 6:16] = 1
    label[10:15, 5:15, 6:16] = 2
    return label


def test_structures_have_the_colours_of_their_table() -> None:
    label = block()
    noise = np.random.default_rng(0).random(label.shape, np.float32)
    table = LabelTable(("air", "$a$ <b>", "b"), ("#000000", "#ff0000", "#0000ff"))
    figure = draw_prediction(
        image_of(noise),
        image_of(label),
        image_of(np.zeros_like(noise)),
        image_of(noise),
        mutual_information=image_of(noise / 2),
        labels=table,
        title="no $ maths",
    )
    figure.savefig(BytesIO())
    titles = [axis.get_title() for axis in figure.axes[:4]]
    # Variance, 0 everywhere, has no column.
    assert titles == ["scan", "segmentation", "entropy", "mutual information"]
    segmentation = figure.axes[9]
    assert segmentation.get_xlabel() == "axial, z = 10.0"
    edges = [contour.get_edgecolor()[0, :3] for contour in segmentation.collections]
    np.testing.assert_array_equal(edges, [(1, 0, 0), (0, 0, 1)])
    red, blue = (
        contour.get_paths()[0].vertices for contour in segmentation.collections
    )
    np.testing.assert_array_equal(red.min(0), (3.5, 4.5))
    np.testing.assert_array_equal(red.max(0), (9.5, 14.5))
    np.testing.assert_array_equal(blue.max(0), (14.5, 14.5))
    (legend,) = figure.legends
    # The sagittal plane, through the middle, has class 1 alone, the others both.
    assert [text.get_text() for text in legend.get_texts()] == ["$a$ <b>", "b"]


def test_a_map_of_ids_is_drawn_as_the_same_map_of_class_numbers() -> None:
    classes = block()
    noise = image_of(np.random.default_rng(0).random(classes.shape, np.float32))
    table = LabelTable(("air", "a", "b"), ("#000000", "#ff0000", "#0000ff"), (0, 53, 8))
    drawn = []
    for labels in (table, table.numbered()):
        label = image_of(labels.to_values(classes))
        figure = draw_prediction(noise, label, noise, noise, labels=labels, title="")
        drawn.append(
            [
                (line.get_edgecolor().tolist(), line.get_paths()[0].vertices.tolist())
                for axis in figure.axes[1:12:4]
                for line in axis.collections
            ]
        )
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5
    with pytest.raises(InputError, match="holds 1, which stands for none"):
        draw_prediction(noise, image_of(classes), noise, noise, labels=table, title="")


def test_the_legend_names_the_largest_twelve() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    for index in range(1, 16):
        label[index + 1, 2 : 2 + index, 2:18] = index
    figure = draw_prediction(
        image_of(label.astype(np.float32)),
        image_of(label),
        *(image_of(np.ones(label.shape, np.float32)) for _ in range(2)),
        title="",
    )
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    shown = {
        int(index)
        for normal, at in enumerate(np.median(np.argwhere(label), 0).astype(int))
        for index in np.unique(label.take(at, normal))
    } - {0}
    assert len(shown) > 12
    assert names[-1] == f"and {len(shown) - 12} more" and len(names) == 13
    assert names[:2] == [f"class-{n}" for n in sorted(shown)[-12:][:2]]


def letters(axis: Axes) -> dict[str, tuple[float, float]]:
    """Where in a panel, from its lower left corner on, each letter stands."""
    return {
        text.get_text(): tuple(
            axis.transAxes.inverted().transform(
                text.get_transform().transform(text.get_position())
            )
        )
        for text in axis.texts
    }


@pytest.mark.parametrize("radiological", [False, True])
def test_slices_say_where_they_are_and_which_side_is_which(radiological: bool) -> None:
    label = block((20, 24, 28))
    label[17, 20, 24] = 1
    scan = np.random.default_rng(0).random(label.shape, np.float32)
    scan[17] = 9  # on the subject's right
    affine = np.array([[2, 0, 0, -20], [0, 2, 0, -30], [0, 0, 2, -5], [0, 0, 0, 1.0]])
    figure = draw_prediction(
        *(nib.Nifti1Image(data, affine) for data in (scan, label, scan, scan)),
        n_slices=3,
        radiological=radiological,
        title="",
    )
    panels = np.array(figure.axes[:36]).reshape(9, 4)[:, 0]
    assert [panel.get_xlabel().split(",")[0] for panel in panels] == (
        ["sagittal"] * 3 + ["coronal"] * 3 + ["axial"] * 3
    )
    # The sixth, the half and five sixths of columns 4 to 14 are 5, 9 and 13.
    assert [panel.get_xlabel() for panel in panels[:3]] == [
        f"sagittal, x = {2 * column - 20:.1f}" for column in (5, 9, 13)
    ]
    sagittal = letters(panels[0])
    assert sagittal["P"][0] < 0.1 and sagittal["A"][0] > 0.9
    assert sagittal["I"][1] < 0.1 and sagittal["S"][1] > 0.9
    axial = panels[7]
    places = letters(axial)
    bright = axial.transAxes.inverted().transform(axial.transData.transform((17, 5)))
    side = "right" if radiological else "left"
    assert bool(bright[0] > 0.5) is not radiological
    assert bool(places["R"][0] > 0.5) is not radiological
    assert bool(places["L"][0] > 0.5) is radiological
    assert places["A"][1] > 0.5 > places["P"][1]
    assert f"the subject's left is on the {side}" in figure.get_supylabel()


def test_bars_say_where_the_colours_of_maps_end() -> None:
    label = block()
    scan = image_of(np.random.default_rng(0).random(label.shape, np.float32))
    maps = [np.full(label.shape, value, np.float32) for value in (3.6e-4, 0.3, 0.004)]
    maps[1][label == 0] = 0.9
    variance, entropy, information = map(image_of, maps)
    table = LabelTable.generic(3)
    figure = draw_prediction(
        scan,
        image_of(label),
        variance,
        entropy,
        mutual_information=information,
        labels=table,
        title="",
    )
    panels = [figure.axes[10 + column].images[0] for column in (2, 3, 4)]
    assert [panel.norm.vmin for panel in panels] == [0, 0, 0]
    # The root of the variance is 0.019; only labelled voxels count.
    tops = [panel.norm.vmax for panel in panels]
    np.testing.assert_allclose(tops, [0.02, 0.5, 0.005], rtol=1e-6)
    np.testing.assert_allclose(panels[0].get_array(), 3.6e-4**0.5, rtol=1e-6)
    bars = [panel.colorbar for panel in panels]
    assert [bar.extend for bar in bars] == ["max"] * 3
    ends = [bar.ax.get_xticklabels()[-1].get_text() for bar in bars]
    assert ends == ["0.02", "0.5", "0.005"]
    assert bars[0].ax.get_xlabel() == "standard deviation (of probabilities)"


def test_the_truth_lies_beneath_the_prediction() -> None:
    label = block()
    noise = image_of(np.random.default_rng(0).random(label.shape, np.float32))
    figure = draw_prediction(
        noise, image_of(label), noise, noise, truth=image_of(label), title=""
    )
    truth, *predicted = figure.axes[1].collections[:2]
    assert truth.get_linewidth()[0] > 2 * predicted[0].get_linewidth()[0]


def test_a_notebook_shows_the_picture() -> None:
    noise = image_of(np.random.default_rng(0).random((8, 8, 8), np.float32))
    label = image_of(block((8, 8, 8)))
    figure = draw_prediction(noise, label, noise, noise, title="")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_labels_of_another_grid_are_refused() -> None:
    label = block()
    noise = image_of(np.random.default_rng(0).random(label.shape, np.float32))
    with pytest.raises(InputError, match=r"truth must be on the scan's grid"):
        draw_prediction(
            noise, image_of(label), noise, noise, truth=image_of(label[1:]), title=""
        )


def test_names_of_columns_are_not_cut_off() -> None:
    # Of this shape, panels are a little less high than the layout takes them for.
    shape = (31, 42, 33)
    scan = np.random.default_rng(0).random(shape, np.float32)
    label = np.zeros(shape, np.uint8)
    label[2:-2, 2:-2, 2:-2] = np.arange(1, 30)[None, None]
    label[2:15] %= 12
    figure = draw_prediction(
        image_of(scan),
        image_of(label),
        *(image_of(scan / 4) for _ in range(2)),
        mutual_information=image_of(scan / 4),
        n_slices=3,
        title="",
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ends = [axis.title.get_window_extent(renderer).y1 for axis in figure.axes[:5]]
    assert max(ends) < figure.bbox.height
