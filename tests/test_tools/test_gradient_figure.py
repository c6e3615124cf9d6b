"""tools/analysis_tools/gradient_figure.py, and train.py --record-gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from mmdet_droploss.analysis.gradient_figure import draw_gradient_figure, running_median
from mmdet_droploss.annotations import ClassFrequency
from mmdet_droploss.engine.gradient_record import GradientRecord, load_gradient_record

COUNTS = np.array([5, 500, 50, 7, 300, 20])


def draw(*arguments):
    load_script("tools/analysis_tools/gradient_figure.py").main([str(a) for a in arguments])


def record(num_heads=1, image_count=COUNTS, num_classes=6):
    rng = np.random.default_rng(0)
    shape = (2, num_heads, num_classes)
    return GradientRecord(
        stages=np.array([[0, 10], [10, 20]]),
        background=rng.random(shape, np.float32),
        foreground=rng.random(shape, np.float32),
        encouraging=rng.random(shape, np.float32),
        background_score=rng.random(shape, np.float32),
        background_proposals=np.ones(shape[:2]),
        loss="EQL",
        image_count=image_count,
        seed=0,
    )


def test_the_curves_are_the_record_s_from_frequent_to_rare():
    figure = draw_gradient_figure(record(2), head=0)
    left, right = figure.axes
    order = [1, 4, 2, 5, 3, 0]
    sums = [getattr(record(2), name)[:, 0].sum(0)[order] for name in ("background", "foreground")]
    share = 100 * sums[0] / (sums[0] + sums[1])
    np.testing.assert_allclose(left.lines[2].get_ydata(), share, rtol=1e-5)
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 - share, rtol=1e-5)
    for line, stage in ((0, 0), (2, -1)):
        np.testing.assert_array_equal(
            right.lines[line].get_ydata(), record(2).background_score[stage, 0][order]
        )
    assert {text.get_text() for text in left.texts} == {"frequent", "common", "rare"}


def test_a_title_says_what_is_not_in_the_sums():
    def title(stages):
        made = dataclasses.replace(record(), stages=np.array(stages))
        return draw_gradient_figure(made).axes[0].get_title("left")

    assert title([[0, 10], [10, 20]]) == "(a) EQL, iterations 0 to 20"
    # Stopped at 1,400, gone on from 1,300.
    assert title([[0, 1000], [1300, 1600]]) == (
        "(a) EQL, iterations 0 to 1,600 (1,300 of 1,600 iterations)"
    )


@pytest.mark.parametrize("background", [0.0, np.nan])
def test_background_s_share_of_seesaw_is_not_measured(background, tmp_path, capsys):
    """Files of earlier versions have 0, which was never measured."""
    made = dataclasses.replace(
        record(), loss="SeesawLoss", background=np.full((2, 1, 6), background, np.float32)
    )
    made.save(tmp_path / "run.npz")
    draw(tmp_path / "run.npz")
    printed = capsys.readouterr().out
    assert "| rare | – |" in printed and "0 %" not in printed
    assert "separate objectness" in printed
    left, right = draw_gradient_figure(load_gradient_record(tmp_path / "run.npz")).axes
    assert not left.lines and len(right.lines) == 4
    assert "separate objectness" in " ".join(text.get_text() for text in left.texts).replace(
        "\n", " "
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["background", "foreground", "encouraging", "background_score"])
def test_a_training_that_diverged_is_called_so(name, value, tmp_path):
    made = record()
    getattr(made, name)[1, 0, 3] = value
    assert made.measures_background and made.not_finite.tolist() == [False, True]
    made.save(tmp_path / "run.npz")
    with pytest.raises(SystemExit, match="gradients of iterations 10 to 20 are NaN or infinite"):
        draw(tmp_path / "run.npz")


def test_frequencies_of_the_same_categories_in_another_order_are_refused():
    made = dataclasses.replace(record(), classes=tuple("abcdef"))
    right = ClassFrequency(COUNTS, classes=tuple("abcdef"))
    assert made.with_frequency(right).image_count is COUNTS
    assert made.with_frequency(ClassFrequency(COUNTS)).image_count is COUNTS
    wrong = ClassFrequency(COUNTS, classes=tuple("bacdef"), source="other.json")
    with pytest.raises(ValueError, match="'b' in other.json, but 'a' in the record"):
        made.with_frequency(wrong)


def test_a_category_without_discouraging_gradient_leaves_a_gap():
    values = running_median(np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan, 7.0]))
    np.testing.assert_array_equal(values[[0, 2, 6]], [1, 3, 7])
    assert values[1] == 2 and np.isnan(values[4])


def test_the_command_writes_two_pictures(tmp_path, capsys):
    record().save(tmp_path / "run.npz")
    draw(tmp_path / "run.npz")
    printed = capsys.readouterr().out
    assert "run.png" in printed
    share = np.median(100 * record().background_share()[0, COUNTS <= 10])
    scores = np.median(record().background_score[:, 0, COUNTS <= 10], axis=1)
    assert f"| rare | {share:.0f} % | {scores[0]:.1e} | {scores[1]:.1e} |" in printed
    with Image.open(tmp_path / "run.png") as picture:
        assert picture.size[0] > 1000
    assert (tmp_path / "run.svg").read_text().rstrip().endswith("</svg>")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "made, arguments, said",
    [
        (record(image_count=()), [], "0 image counts for 6 categories"),
        (record(image_count=()), ["--class-freq", "lvis_v1"], "1203 categories.*record has 6"),
        (record(), ["--head", "3"], "1 head.*no head 3"),
        (record().before(5), [], "no stage yet"),
    ],
)
def test_what_cannot_be_drawn_is_said(made, arguments, said, tmp_path):
    made.save(tmp_path / "run.npz")
    with pytest.raises(SystemExit, match=f"gradient_figure.py: error: .*{said}"):
        draw(tmp_path / "run.npz", *arguments)


def test_a_file_cut_short_and_a_missing_one(tmp_path):
    record().save(tmp_path / "run.npz")
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.npz").read_bytes()[:200])
    for name, said in (("run.npz", "cut short"), ("none.npz", "No such file")):
        with pytest.raises(SystemExit, match=said):
            draw(tmp_path / name)


def test_a_damaged_byte_is_noticed_or_does_not_matter(tmp_path):
    path = tmp_path / "run.npz"
    record(num_classes=1, image_count=COUNTS[:1]).save(path)
    whole, content = load_gradient_record(path), path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = load_gradient_record(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            for field in dataclasses.fields(found):
                np.testing.assert_array_equal(
                    getattr(found, field.name), getattr(whole, field.name), err_msg=f"{position}"
                )
    assert refused > len(content) / 2  # the rest is times, versions and the like


def test_what_is_no_archive_of_a_record_is_said(tmp_path):
    path = tmp_path / "run.npz"
    record().save(path)
    with np.load(path) as archive:
        content = dict(archive)
    encrypted = bytearray(path.read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1  # the flags in the list of contents
    path.write_bytes(encrypted)
    with pytest.raises(ValueError, match="run.npz is no gradient record.*encrypted"):
        load_gradient_record(path)
    del content["stages"]
    np.savez(path, **content)
    with pytest.raises(ValueError, match="run.npz is no gradient record.*has no stages"):
        load_gradient_record(path)
    np.save(tmp_path / "run.npy", COUNTS)
    with pytest.raises(ValueError, match="run.npy is no gradient record"):
        load_gradient_record(tmp_path / "run.npy")


def test_train_py_adds_the_hook(tmp_path):
    train = load_script("tools/train.py")
    (tmp_path / "c.py").write_text(
        "train_dataloader = train_cfg = optim_wrapper = {'dataset': {}, 'sampler': {}}\n"
        "model = dict(type='A')\ncustom_hooks = [dict(type='CheckpointShapeHook')]\n"
    )
    args = train.parse_args([str(tmp_path / "c.py"), "--record-gradients", "500"])
    hooks = train.load_config(args).custom_hooks
    assert [hook["type"] for hook in hooks] == ["CheckpointShapeHook", "CategoryGradientHook"]
    assert hooks[1]["interval"] == 500
