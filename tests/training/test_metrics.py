"""Errors of joints and meshes against scipy, closed forms and per-sample loops."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from humandata import HumandataError
from humandata.training import alignment, metrics

Array = NDArray[Any]

seeds = st.integers(0, 2**32 - 1)


def poses(count: int = 6, joints: int = 14, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, joints, 3))


def pair(
    count: int = 6, joints: int = 14, seed: int = 0, noise: float = 0.1
) -> tuple[Array, Array]:
    gt = poses(count, joints, seed)
    return gt + noise * poses(count, joints, seed + 1), gt


def moved(points: Array, seed: int) -> Array:
    """Each sample scaled, turned and shifted by a similarity of its own."""
    random = np.random.default_rng(seed)
    turn = Rotation.random(len(points), random_state=random).as_matrix()
    scale = random.uniform(0.2, 5, (len(points), 1, 1))
    return scale * (points @ np.swapaxes(turn, 1, 2)) + random.normal(size=(len(points), 1, 3))


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(metrics).failed == 0


# MPJPE and the means


def test_mpjpe_is_the_mean_distance() -> None:
    gt = poses()
    pred = gt + np.array([0.3, 0.0, -0.4])
    assert metrics.mpjpe(pred, gt) == pytest.approx(0.5)
    assert metrics.pve(pred, gt) == pytest.approx(0.5)
    assert metrics.mpjpe(gt, gt) == 0


def test_mpjpe_pools_joints_and_not_samples() -> None:
    gt = np.zeros((2, 3, 3))
    pred = np.zeros((2, 3, 3))
    pred[0, :, 0] = 1.0
    pred[1, :, 0] = 5.0
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    assert metrics.mpjpe(pred, gt, mask) == pytest.approx((3 * 1 + 5) / 4)
    per_sample = metrics.sample_means(metrics.joint_errors(pred, gt), mask)
    np.testing.assert_array_equal(per_sample, [1, 5])
    # Without a mask, or with equal numbers of joints, both are the same figure.
    assert metrics.mpjpe(pred, gt) == pytest.approx(
        metrics.sample_means(metrics.joint_errors(pred, gt)).mean()
    )


def test_a_sample_without_joints_is_not_evaluated() -> None:
    pred, gt = pair(3)
    mask = np.ones((3, 14), bool)
    mask[1] = False
    errors = metrics.joint_errors(pred, gt)
    per_sample = metrics.sample_means(errors, mask)
    assert np.isnan(per_sample).tolist() == [False, True, False]
    assert int(np.isfinite(per_sample).sum()) == 2
    for figure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.n_mpjpe, metrics.pck3d, metrics.auc):
        rest = figure(pred[[0, 2]], gt[[0, 2]])
        assert figure(pred, gt, mask) == pytest.approx(rest)
        assert figure(pred, gt, mask[:, :1]) == pytest.approx(rest)


def test_nothing_at_all_gives_nan() -> None:
    pred, gt = pair(2)
    nothing = np.zeros((2, 14), bool)
    empty = np.zeros((0, 14, 3))
    for figure in (
        metrics.mpjpe,
        metrics.pa_mpjpe,
        metrics.n_mpjpe,
        metrics.pve,
        metrics.pa_pve,
        metrics.pck3d,
        metrics.auc,
        metrics.acceleration_error,
    ):
        assert np.isnan(figure(pred, gt, nothing))
        assert np.isnan(figure(empty, empty))


def test_masked_ground_truth_may_be_anything() -> None:
    pred, gt = pair(3)
    mask = np.ones((3, 14), bool)
    mask[:, 4] = False
    broken = gt.copy()
    broken[:, 4] = np.nan
    for figure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.n_mpjpe, metrics.pck3d, metrics.auc):
        assert figure(pred, broken, mask) == figure(pred, np.nan_to_num(gt), mask)
    aligned = metrics.similarity_align(pred, broken, mask)
    np.testing.assert_array_equal(aligned, metrics.similarity_align(pred, gt, mask))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_named(value: float) -> None:
    pred, gt = pair(5)
    pred[3, 2, 1] = value
    pred[4] = value
    for figure in (
        metrics.mpjpe,
        metrics.pa_mpjpe,
        metrics.n_mpjpe,
        metrics.pck3d,
        metrics.auc,
        metrics.acceleration_error,
        metrics.joint_errors,
        metrics.similarity_align,
    ):
        with pytest.raises(HumandataError, match="the prediction of row 3 holds a value"):
            figure(pred, gt)
        with pytest.raises(HumandataError, match="the ground truth of row 3 holds a value"):
            figure(gt, pred)


def test_the_row_is_right_far_into_a_large_set() -> None:
    gt = np.zeros((700, 6890, 3), np.float32)
    pred = gt.copy()
    pred[641, 6889, 2] = np.nan
    with pytest.raises(HumandataError, match="the prediction of row 641 "):
        metrics.pve(pred, gt)


def test_shapes_that_do_not_match_are_named() -> None:
    with pytest.raises(HumandataError, match=r"\(2, 14, 3\) and \(2, 17, 3\)"):
        metrics.mpjpe(np.zeros((2, 14, 3)), np.zeros((2, 17, 3)))
    with pytest.raises(HumandataError, match=r"shape \(N, K, 3\)"):
        metrics.pa_mpjpe(np.zeros((14, 3)), np.zeros((14, 3)))
    with pytest.raises(HumandataError, match=r"mask must have shape \(2, 14\) or \(2, 1\)"):
        metrics.mpjpe(np.zeros((2, 14, 3)), np.zeros((2, 14, 3)), np.ones(14))


def test_lists_and_single_precision_are_welcome() -> None:
    pred, gt = pair(3)
    exact = metrics.pa_mpjpe(pred, gt)
    assert metrics.pa_mpjpe(pred.tolist(), gt.tolist()) == pytest.approx(exact)
    assert metrics.pa_mpjpe(pred.astype("f4"), gt.astype("f4")) == pytest.approx(exact, rel=1e-5)


def test_the_input_is_left_alone() -> None:
    pred, gt = pair(3)
    before = pred.copy(), gt.copy()
    mask = np.ones((3, 14), bool)
    mask[0, 0] = False
    for figure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.n_mpjpe, metrics.auc):
        figure(pred, gt, mask)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(gt, before[1])


def test_millimetres_give_millimetres() -> None:
    pred, gt = pair()
    for figure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.n_mpjpe, metrics.acceleration_error):
        assert figure(1000 * pred, 1000 * gt) == pytest.approx(1000 * figure(pred, gt))
    assert metrics.pck3d(1000 * pred, 1000 * gt, threshold=150) == metrics.pck3d(pred, gt)
    assert metrics.auc(1000 * pred, 1000 * gt, largest=150) == pytest.approx(metrics.auc(pred, gt))


def test_the_root_may_be_one_joint_or_the_middle_of_two() -> None:
    points = poses().astype(np.float32)
    relative = metrics.root_relative(points)
    assert (relative[:, 0] == 0).all()
    assert relative.dtype == np.float32
    np.testing.assert_array_equal(relative, points - points[:, :1])
    hips = metrics.root_relative(points, [2, 3])
    np.testing.assert_allclose(hips[:, 2], -hips[:, 3], atol=1e-6)


# Alignment


@given(seeds)
def test_pa_mpjpe_is_zero_for_a_rotated_scaled_shifted_pose(seed: int) -> None:
    gt = poses(4, seed=seed)
    assert metrics.pa_mpjpe(moved(gt, seed), gt) < 1e-13
    assert metrics.pa_pve(moved(gt, seed), gt) < 1e-13


@given(seeds)
def test_pa_mpjpe_does_not_depend_on_the_similarity_of_the_prediction(seed: int) -> None:
    pred, gt = pair(4, seed=seed % 1000)
    assert metrics.pa_mpjpe(moved(pred, seed), gt) == pytest.approx(metrics.pa_mpjpe(pred, gt))


@given(seeds)
def test_alignment_never_makes_the_squared_error_larger(seed: int) -> None:
    pred, gt = pair(4, joints=5, seed=seed, noise=1.0)

    def squares(points: Array) -> Array:
        return ((points - gt) ** 2).sum(axis=(1, 2))

    best = squares(metrics.similarity_align(pred, gt))
    assert (best <= squares(pred) + 1e-9).all()
    for other in range(5):
        aligned = metrics.similarity_align(pred, gt)
        assert (best <= squares(moved(aligned, seed ^ other)) + 1e-9).all()


def test_a_mirrored_pose_is_not_aligned_by_a_reflection() -> None:
    gt = poses(50)
    mirrored = gt * [-1, 1, 1]
    per_sample = metrics.sample_means(
        metrics.joint_errors(metrics.similarity_align(mirrored, gt), gt)
    )
    assert (per_sample > 0.05).all()


def test_alignment_equals_orthogonal_procrustes_where_no_reflection_is_best() -> None:
    pred, gt = pair(30, noise=0.2)
    pred = moved(pred, 7)
    aligned = metrics.similarity_align(pred, gt)
    for source, target, ours in zip(pred, gt, aligned, strict=True):
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        rotation, trace = orthogonal_procrustes(a, b)
        assert np.linalg.det(rotation) > 0
        theirs = trace / (a**2).sum() * (a @ rotation) + target.mean(axis=0)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_alignment_residual_equals_scipy_procrustes() -> None:
    pred, gt = pair(20, noise=0.3)
    pred = moved(pred, 3)
    aligned = metrics.similarity_align(pred, gt)
    for source, target, ours in zip(pred, gt, aligned, strict=True):
        _, _, disparity = procrustes(target, source)
        spread = ((target - target.mean(axis=0)) ** 2).sum()
        assert ((ours - target) ** 2).sum() / spread == pytest.approx(disparity)


def test_alignment_of_a_reflected_pose_equals_the_best_proper_rotation() -> None:
    gt = poses(40)
    pred = gt * [-1, 1, 1] + 0.3 * poses(40, seed=9)
    aligned = metrics.similarity_align(pred, gt)
    for source, target, ours in zip(pred, gt, aligned, strict=True):
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        turned = Rotation.align_vectors(b, a)[0].apply(a)
        theirs = (turned * b).sum() / (a**2).sum() * turned + target.mean(axis=0)
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_a_batch_is_its_samples_one_by_one() -> None:
    pred, gt = pair(9, noise=0.5)
    mask = np.random.default_rng(0).random((9, 14)) < 0.7
    whole = metrics.similarity_align(pred, gt, mask)
    for row in range(9):
        seen, one = mask[row], slice(row, row + 1)
        alone = metrics.similarity_align(pred[one], gt[one], mask[one])
        np.testing.assert_allclose(whole[row], alone[0], atol=1e-12)
        # Masked joints have no part in it: the visible ones alone are aligned alike.
        visible = metrics.similarity_align(pred[one, seen], gt[one, seen])
        np.testing.assert_allclose(whole[row, seen], visible[0], atol=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, gt = pair(17)
    whole = metrics.similarity_align(pred, gt), metrics.joint_errors(pred, gt)
    monkeypatch.setattr(alignment, "_CHUNK", 100)  # two poses a chunk
    np.testing.assert_array_equal(metrics.similarity_align(pred, gt), whole[0])
    np.testing.assert_array_equal(metrics.joint_errors(pred, gt), whole[1])


def test_mmhuman3d_aligns_on_masked_joints_too_and_can_be_reproduced() -> None:
    pred, gt = pair(5, noise=0.3)
    mask = np.random.default_rng(0).random((5, 14)) < 0.6
    theirs = metrics.pooled(metrics.joint_errors(metrics.similarity_align(pred, gt), gt), mask)
    total, count = 0.0, 0
    for source, target, seen in zip(pred, gt, mask, strict=True):
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        rotation, trace = orthogonal_procrustes(a, b)
        error = np.linalg.norm(trace / (a**2).sum() * (a @ rotation) - b, axis=1)
        total, count = total + error[seen].sum(), count + seen.sum()
    assert theirs == pytest.approx(total / count)
    assert theirs > metrics.pa_mpjpe(pred, gt, mask)


@pytest.mark.parametrize("size", [0.0, 0.1, 1e3])
def test_points_that_coincide_are_only_moved(size: float) -> None:
    gt = poses(200)
    pred = np.repeat(size * poses(200, joints=1, seed=1), 14, axis=1)
    middle = np.broadcast_to(gt.mean(axis=1, keepdims=True), gt.shape)
    np.testing.assert_allclose(metrics.similarity_align(pred, gt), middle, atol=1e-12)
    # A joint that does not count shows that nothing is turned or scaled.
    pred[:, 3] += 1
    mask = np.arange(14) != 3
    aligned = metrics.similarity_align(pred, gt, np.tile(mask, (200, 1)))
    np.testing.assert_allclose(aligned[:, 3] - aligned[:, 2], 1, atol=1e-12)


def test_points_on_a_line_are_aligned_as_well_as_a_line_can_be() -> None:
    along = np.linspace(-1, 1, 14)[None, :, None]
    gt = along * np.array([0.0, 0.6, 0.8]) + 2
    pred = along * np.array([3.0, 0, 0]) - 1
    np.testing.assert_allclose(metrics.similarity_align(pred, gt), gt, atol=1e-13)


def test_a_flat_pose_is_aligned_without_a_reflection() -> None:
    flat = poses(20) * [1, 1, 0]
    turned = moved(flat, 4)
    np.testing.assert_allclose(metrics.similarity_align(turned, flat), flat, atol=1e-13)
    # A flat pose seen from behind is its own mirror image, and a proper rotation reaches it.
    assert metrics.pa_mpjpe(flat * [-1, 1, 1], flat) < 1e-13


def test_one_and_two_visible_joints_are_defined() -> None:
    pred, gt = pair(2)
    mask = np.zeros((2, 14), bool)
    mask[0, 3] = True
    mask[1, [3, 5]] = True
    aligned = metrics.similarity_align(pred, gt, mask)
    assert np.isfinite(aligned).all()
    np.testing.assert_allclose(aligned[mask], gt[mask], atol=1e-13)
    np.testing.assert_allclose(aligned[0] - pred[0], np.tile(gt[0, 3] - pred[0, 3], (14, 1)))


def test_a_sample_without_joints_comes_back_as_it_was() -> None:
    pred, gt = pair(2)
    aligned = metrics.similarity_align(pred, gt, np.zeros((2, 1)))
    np.testing.assert_array_equal(aligned, pred)


def test_n_mpjpe_finds_the_scale_and_nothing_else() -> None:
    gt = metrics.root_relative(poses())
    assert metrics.n_mpjpe(3 * gt, gt) < 1e-15
    pred = gt + 0.1 * poses(seed=5)
    scale = (pred * gt).sum(axis=(1, 2)) / (pred * pred).sum(axis=(1, 2))
    assert metrics.n_mpjpe(pred, gt) == pytest.approx(
        np.linalg.norm(scale[:, None, None] * pred - gt, axis=-1).mean()
    )
    assert metrics.n_mpjpe(np.zeros_like(gt), gt) == pytest.approx(
        np.linalg.norm(gt, axis=-1).mean()
    )


def test_n_mpjpe_lies_between_the_plain_and_the_aligned_error_in_squares() -> None:
    pred, gt = (metrics.root_relative(points) for points in pair(20, noise=0.5))

    def squares(points: Array) -> Array:
        return ((points - gt) ** 2).sum(axis=(1, 2))

    scaled, aligned = metrics.scale_align(pred, gt), metrics.similarity_align(pred, gt)
    assert (squares(aligned) <= squares(scaled) + 1e-12).all()
    assert (squares(scaled) <= squares(pred) + 1e-12).all()


# Thresholds


def test_pck_counts_errors_strictly_below_the_threshold() -> None:
    gt = np.zeros((1, 4, 3))
    pred = np.zeros((1, 4, 3))
    pred[0, :, 0] = [0, 149.999, 150, 151]
    assert metrics.pck3d(pred, gt, threshold=150) == 50
    assert metrics.pck3d(pred, gt, np.array([[1, 1, 1, 0]]), 150) == pytest.approx(200 / 3)


def test_auc_of_a_perfect_prediction_is_30_of_31() -> None:
    gt = poses()
    assert metrics.auc(gt, gt) == pytest.approx(100 * 30 / 31)
    assert metrics.auc(gt + 1, gt) == 0


def test_auc_is_the_mean_over_31_thresholds() -> None:
    gt = np.zeros((1, 3, 3))
    pred = np.zeros((1, 3, 3))
    pred[0, :, 0] = [2, 72, 1000]  # millimetres: below 30, 16 and 0 of the thresholds
    assert metrics.auc(pred, gt, largest=150) == pytest.approx(100 * (30 + 16) / (31 * 3))


# Acceleration


def test_acceleration_of_a_parabola_is_its_second_derivative() -> None:
    time = np.arange(10.0)[:, None, None]
    gt = np.zeros((10, 4, 3))
    pred = 0.5 * time**2 * np.array([3.0, 0, 4]) + np.zeros((1, 4, 1))
    assert metrics.acceleration_error(pred, gt) == pytest.approx(5)
    assert metrics.acceleration_error(pred, pred + 7 * time + 3) == pytest.approx(0, abs=1e-12)


def test_acceleration_leaves_out_triples_with_an_invisible_frame() -> None:
    random = np.random.default_rng(0)
    pred, gt = random.normal(size=(2, 9, 4, 3))
    visible = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1], bool)

    def triple(start: int) -> Array:
        p, g = pred[start : start + 3], gt[start : start + 3]
        return np.linalg.norm((p[0] - 2 * p[1] + p[2]) - (g[0] - 2 * g[1] + g[2]), axis=-1)

    expected = np.mean([triple(start) for start in (0, 1, 5, 6)])
    assert metrics.acceleration_error(pred, gt, visible[:, None]) == pytest.approx(expected)


def test_acceleration_does_not_cross_from_one_sequence_into_the_next() -> None:
    pred, gt = pair(8)
    pred[4:] += 100
    names = np.array(["a"] * 4 + ["b"] * 4)
    halves = [metrics.acceleration_error(pred[rows], gt[rows]) for rows in (slice(4), slice(4, 8))]
    assert metrics.acceleration_error(pred, gt, sequences=names) == pytest.approx(np.mean(halves))
    assert np.isnan(metrics.acceleration_error(pred[:2], gt[:2]))


# Intervals


def test_the_interval_of_independent_errors_is_the_normal_one() -> None:
    errors = np.random.default_rng(0).normal(50, 10, 4000)
    low, high = metrics.bootstrap_interval(errors, n=2000)
    half = 1.96 * errors.std() / np.sqrt(len(errors))
    assert low == pytest.approx(errors.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(errors.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        level = np.repeat(random.normal(50, 5, 40), 20)  # 40 sequences of 20 alike frames
        errors = level + random.normal(0, 1, 800)
        low, high = metrics.bootstrap_interval(errors, np.arange(800) // 20, seed, 300)
        hits += low <= 50 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_clusters_widen_the_interval_of_frames_that_are_alike() -> None:
    errors = np.repeat([40.0, 50, 60, 70], 500)
    names = np.repeat(["a", "b", "c", "d"], 500)
    narrow = np.diff(metrics.bootstrap_interval(errors))[0]
    wide = np.diff(metrics.bootstrap_interval(errors, names))[0]
    assert wide > 10 * narrow
    # Unequal clusters: the mean of a resample is that of its frames, so it stays between the ends.
    low, high = metrics.bootstrap_interval(errors[400:], names[400:])
    assert 40 <= low < high <= 70


def test_an_interval_is_repeatable_and_follows_its_seed() -> None:
    errors = np.random.default_rng(0).exponential(1, 200)
    assert metrics.bootstrap_interval(errors) == metrics.bootstrap_interval(errors)
    assert metrics.bootstrap_interval(errors) != metrics.bootstrap_interval(errors, seed=1)
    wide = metrics.bootstrap_interval(errors, level=0.99)
    narrow = metrics.bootstrap_interval(errors, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_interval_leaves_out_what_was_not_evaluated() -> None:
    errors = np.random.default_rng(0).exponential(1, 200)
    holes = np.insert(errors, [0, 50, 200], np.nan)
    assert metrics.bootstrap_interval(holes) == metrics.bootstrap_interval(errors)


def test_weights_make_the_interval_that_of_the_pooled_mean() -> None:
    pred, gt = pair(60)
    mask = np.random.default_rng(0).random((60, 14)) < np.linspace(0.1, 1, 60)[:, None]
    errors = metrics.joint_errors(pred, gt)
    low, high = metrics.bootstrap_interval(
        metrics.sample_means(errors, mask), weights=mask.sum(axis=1)
    )
    assert low < metrics.pooled(errors, mask) < high
    # Two samples are drawn twice, once each, or twice: half of all means are that of one each.
    interval = metrics.bootstrap_interval([0.0, 1.0], weights=[1, 3], level=0.2)
    assert interval == (0.75, 0.75)


def test_an_interval_of_one_cluster_is_not_known() -> None:
    assert np.isnan(metrics.bootstrap_interval([1.0, 2, 3], clusters=["a"] * 3)).all()
    assert np.isnan(metrics.bootstrap_interval([1.0])).all()
    assert np.isnan(metrics.bootstrap_interval([])).all()


def test_an_interval_of_nonsense_is_refused() -> None:
    with pytest.raises(HumandataError, match="0 < level < 1"):
        metrics.bootstrap_interval([1.0, 2], level=95)
    with pytest.raises(HumandataError, match="2 errors, 2 weights and 3 clusters"):
        metrics.bootstrap_interval([1.0, 2], clusters=[1, 2, 3])


# Joints, 2D, and the numbers of the published codes

REFERENCE = Path(__file__).parent / "references" / "metrics.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Array]:
    with np.load(REFERENCE) as file:
        return dict(file)


def test_every_figure_equals_mmhuman3d(reference: dict[str, Array]) -> None:
    pred, gt, mask = (reference[name] for name in ("pred", "gt", "mask"))
    np.testing.assert_allclose(
        metrics.similarity_align(pred, gt), reference["aligned"], rtol=0, atol=1e-9
    )
    errors = metrics.similarity_errors(pred, gt)
    figures = {
        "mpjpe_none": metrics.mpjpe(pred, gt, mask),
        "mpjpe_procrustes": metrics.pooled(errors, mask),
        "mpjpe_scale": metrics.pooled(
            metrics.joint_errors(metrics.scale_align(pred, gt), gt), mask
        ),
        "pve_none": metrics.pve(pred, gt),
        "pve_procrustes": metrics.pa_pve(pred, gt),
        "pve_scale": metrics.n_mpjpe(pred, gt),
        "pck_none": metrics.pck3d(pred, gt, mask, 150),
        "pck_procrustes": 100 * metrics.pooled(errors < 150, mask),
        "auc_none": metrics.auc(pred, gt, mask, 150),
        "auc_procrustes": 100 * metrics.pooled(metrics.auc_shares(errors, 150), mask),
    }
    for name, figure in figures.items():
        # The reference counts hits in single precision.
        assert figure == pytest.approx(float(reference[name]), rel=1e-6), name
    for name in ("mpjpe_none", "mpjpe_procrustes", "mpjpe_scale", "pve_procrustes"):
        assert figures[name] == pytest.approx(float(reference[name]), rel=1e-13), name


def test_alignment_on_visible_joints_and_2d_figures_equal_3dnbf(
    reference: dict[str, Array],
) -> None:
    visible = metrics.pa_mpjpe(reference["pred"], reference["gt"], reference["mask_visible"])
    assert visible == pytest.approx(float(reference["mpjpe_procrustes_visible"]), rel=1e-13)
    pred, gt, mask = (reference[name] for name in ("pred2d", "gt2d", "mask2d"))
    assert metrics.pckh(pred, gt, mask) == pytest.approx(float(reference["pckh"]), rel=1e-13)
    share = metrics.pck2d(pred / 224, gt / 224, mask, 0.1)
    assert share == pytest.approx(float(reference["pck2d"]), rel=1e-13)


def test_acceleration_errors_equal_mmhuman3d(reference: dict[str, Array]) -> None:
    pred, gt, frames = (reference[name] for name in ("pred", "gt", "frames"))
    everything = reference["acceleration"].mean()
    assert metrics.acceleration_error(pred, gt) == pytest.approx(everything, rel=1e-13)
    visible = reference["acceleration_visible"].mean()
    ours = metrics.acceleration_error(pred, gt, frames[:, None])
    assert ours == pytest.approx(visible, rel=1e-13)


def test_joint_means_pool_each_joint_over_the_samples_that_have_it() -> None:
    errors = np.array([[1.0, 2, 3], [3, 6, 5]])
    np.testing.assert_array_equal(metrics.joint_means(errors), [2, 4, 4])
    means = metrics.joint_means(errors, np.array([[1, 0, 0], [1, 1, 0]]))
    np.testing.assert_array_equal(means, [2, 6, np.nan])
    assert np.isnan(metrics.joint_means(np.zeros((0, 3)))).all()


def test_pckh_is_a_mean_of_joints_within_half_a_head() -> None:
    gt = np.zeros((3, 14, 2))
    gt[:, 13, 1] = [10, 20, 40]  # heads, neck to top
    pred = gt.copy()
    pred[:, 0, 0] = [5, 10.001, 19]  # right at half a head, beyond, inside
    pred[:, 1, 0] = 15  # inside half a head of the last person only
    share = [2 / 3, 1 / 3, *[1] * 12]
    assert metrics.pckh(pred, gt) == pytest.approx(100 * np.mean(share))
    mask = np.ones((3, 14), bool)
    mask[:2, 1] = False  # joints weigh alike however often they are seen
    mask[:, 2] = False
    share = [2 / 3, 1, *[1] * 11]
    assert metrics.pckh(pred, gt, mask) == pytest.approx(100 * np.mean(share))
    assert metrics.pckh(pred, gt, threshold=0.01) == pytest.approx(100 * 12 / 14)


def test_pckh_measures_the_head_of_joints_that_do_not_count_and_needs_one() -> None:
    random = np.random.default_rng(0)
    gt = random.uniform(0, 224, (5, 14, 2))
    pred = gt + 20 * random.normal(size=gt.shape)
    mask = np.ones((5, 14), bool)
    mask[:, 12:] = False
    assert metrics.pckh(pred, gt, mask) == pytest.approx(
        100 * np.mean(metrics.joint_means(metrics.head_hits(
            pred, gt, np.linalg.norm(gt[:, 12] - gt[:, 13], axis=1) / 2, mask
        ), mask)[:12])
    )  # fmt: skip
    gt[3, 12] = np.nan
    rest = [0, 1, 2, 4]
    assert metrics.pckh(pred, gt, mask) == metrics.pckh(pred[rest], gt[rest], mask[rest])
    assert np.isnan(metrics.pckh(pred, gt, np.zeros_like(mask)))
    pred[1, 2] = np.nan
    with pytest.raises(HumandataError, match="the prediction of row 1"):
        metrics.pckh(pred, gt, mask)
    with pytest.raises(HumandataError, match=r"shape \(N, K, 2\)"):
        metrics.pckh(np.zeros((1, 14, 3)), np.zeros((1, 14, 3)))


# The closed form of the nearest rotation


def decomposed(matrices: Array) -> tuple[Array, Array]:
    u, s, vt = np.linalg.svd(matrices)
    sign = np.linalg.det(u @ vt)
    u[..., 2] *= sign[:, None]
    return u @ vt, s[:, 0] + s[:, 1] + sign * s[:, 2]


@given(seeds, st.floats(-3, 0), st.floats(-3, 0), st.sampled_from([-1.0, 1.0]), st.floats(-9, 9))
def test_the_nearest_rotation_is_that_of_the_decomposition(
    seed: int, second: float, third: float, sign: float, size: float
) -> None:
    """Singular values from alike to a thousandth of each other, mirrored or not, of any size."""
    random = np.random.default_rng(seed)
    turns = Rotation.random(16, random_state=random).as_matrix()
    values = np.sort([1, 10**second, 10**third])[::-1] * [1, 1, sign]
    matrices = 10**size * (turns[:8] * values) @ turns[8:]
    rotations, traces = alignment.nearest_rotations(matrices)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-10)
    np.testing.assert_allclose(traces, 10**size * values.sum(), rtol=1e-11)
    gap = values[1] + values[2]
    if gap > 1e-6:
        expected, _ = decomposed(matrices)
        np.testing.assert_allclose(rotations, expected, atol=1e-12 / min(gap, 1))


def test_matrices_without_a_nearest_rotation_get_one_all_the_same() -> None:
    line = np.outer([1.0, 2, 3], [3.0, -1, 2])
    mirror = np.diag([1.0, 1, -1])
    matrices = np.stack([np.zeros((3, 3)), line, mirror, 1e-200 * np.eye(3), 1e150 * np.eye(3)])
    rotations, traces = alignment.nearest_rotations(matrices)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, 1, 2), np.tile(np.eye(3), (5, 1, 1)), atol=1e-15
    )
    expected = [0, np.linalg.norm(line), 1, 3e-200, 3e150]
    np.testing.assert_allclose(traces, expected, rtol=1e-12)
    assert alignment.nearest_rotations(np.zeros((0, 3, 3)))[0].shape == (0, 3, 3)


def test_matrices_are_left_alone() -> None:
    one = np.random.default_rng(0).normal(size=(1, 3, 3))
    before = one.copy()
    alignment.nearest_rotations(one)
    np.testing.assert_array_equal(one, before)


@pytest.mark.parametrize("thin", [1.0, 0.3, 0.1, 0.03, 0.01, 0.003])
def test_pa_errors_agree_with_scipy_to_a_billionth_of_a_millimetre(thin: float) -> None:
    """Bodies a metre high, from as wide as high to a stick, in millimetres."""
    random = np.random.default_rng(1)
    gt = 500 * random.normal(size=(300, 14, 3)) * [1, thin, thin]
    pred = gt + 50 * thin * random.normal(size=gt.shape) + 300
    errors = metrics.similarity_errors(pred, gt)
    compared = 0
    for source, target, ours in zip(pred, gt, errors, strict=True):
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        rotation, trace = orthogonal_procrustes(a, b)
        if np.linalg.det(rotation) < 0:
            continue
        theirs = np.linalg.norm(trace / (a**2).sum() * (a @ rotation) - b, axis=1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        compared += 1
    assert compared > 250


def test_errors_after_alignment_need_no_aligned_points() -> None:
    pred, gt = pair(30, noise=0.4)
    pred[3], gt[3] = 1.5, np.linspace(0, 1, 14)[:, None]  # a point onto a line
    mask = np.random.default_rng(0).random((30, 14)) < 0.5
    mask[5], mask[6] = False, np.arange(14) == 2
    for seen in (None, mask):
        aligned = metrics.similarity_align(pred, gt, seen)
        errors = metrics.similarity_errors(pred, gt, seen)
        some = np.ones_like(mask) if seen is None else seen
        np.testing.assert_allclose(
            errors[some], np.linalg.norm(aligned - gt, axis=-1)[some], atol=1e-14
        )
