"""From rows of a store to network input: targets gathered by index, pictures decoded and warped.

Everything here is NumPy and OpenCV, works on whole batches where it can, and releases the
interpreter lock while it decodes and warps, so that threads are enough to feed a device.

Geometry (mmhuman3d's ``MeshAffine``): a square of side ``side`` around ``centre`` becomes a
picture of ``size`` pixels; flip comes first, then a turn by r degrees that takes an offset (dx,
dy) to ``(size / side) (cos r dx + sin r dy, -sin r dx + cos r dy)``. Targets follow: 3D points and
the global orientation turn by -r about the optical axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints
from humandata.errors import DamagedPictureError, HumandataError
from humandata.store import Store

Float = NDArray[np.float32]
Int = NDArray[np.int64]

CONVENTION = "smpl_54"
ENLARGEMENT = 1.2
"""How much larger than an annotator's box a crop is; SPIN's and mmhuman3d's factor."""


@dataclass(frozen=True)
class Geometry:
    """How the crops of a batch lie in their pictures.

    Attributes
    ----------
    centre : (B, 2) pixels of the picture.
    side : (B,) pixels of the picture, random scale included.
    rotation : (B,) degrees.
    flip : (B,) bool.
    affine : (B, 2, 3) float64, picture to crop, flip included.
    """

    centre: Float
    side: Float
    rotation: Float
    flip: NDArray[np.bool_]
    affine: NDArray[np.float64]


def geometry_of(
    centre: Float, side: Float, size: int, rotation: Float, flip: NDArray[np.bool_]
) -> Geometry:
    """Place crops of ``size`` pixels on squares (centre, side), turned and flipped."""
    affine = geometry.crop_affine(centre, side, size, rotation, flip)
    return Geometry(centre, side, rotation, flip, affine)


class Annotations:
    """The instances of one store as targets in smpl_54.

    Parameters
    ----------
    store : Store
    approximate : bool
        Let a joint stand in for a near one of another definition (a kinematic hip for an annotated
        hip).
    """

    def __init__(self, store: Store, approximate: bool = False) -> None:
        self.store = store
        self.enlargement = _enlargement(store)
        self._joints = {
            field: keypoints.mapping(
                str(store.instances[field].attributes["convention"]),
                CONVENTION,
                approximate,
                once=True,
            )
            for field in ("keypoints2d", "keypoints3d")
            if field in store.instances
        }

    def usable_rows(self) -> Int:
        """Rows (n,) that can be cropped: a box with an area, and one person rather than a crowd."""
        boxes = np.asarray(self.store.instances["bbox_xywh"])
        usable = (boxes[:, 2:4].max(axis=1, initial=0) > 0) & (boxes[:, 4] > 0)
        if "iscrowd" in self.store.instances:
            usable &= ~np.asarray(self.store.instances["iscrowd"]).astype(bool)
        return np.flatnonzero(usable)

    def squares(self, rows: Int) -> tuple[Float, Float]:
        """Centre (B, 2) and side (B,) of the square around each person, pixels of the picture."""
        boxes = self.store.instances["bbox_xywh"][rows]
        return self.squares_of(boxes[:, :4])

    def squares_of(self, boxes: Float) -> tuple[Float, Float]:
        """The same for given boxes (B, 4) x, y, w, h that follow the rule of the store's own."""
        centre, side = geometry.xywh_to_square(boxes)
        return centre.astype(np.float32), (side * self.enlargement).astype(np.float32)

    def gather(self, rows: Int) -> dict[str, NDArray[Any]]:
        """Targets of the given rows, in the picture and camera as stored.

        Returns
        -------
        dict
            ``keypoints2d`` (B, 54, 3) picture pixels and confidence; ``keypoints3d`` (B, 54, 4)
            metres and confidence; ``pose`` (B, 24, 3) axis-angle radians; ``betas`` (B, 10);
            ``has_smpl`` (B,); ``gender`` (B,) code; ``image`` (B,) row of images; ``picture_size``
            (B, 2) width, height; ``intrinsics`` (B, 3, 3), zero where unknown. What the store
            lacks is zero.
        """
        instances, images = self.store.instances, self.store.images
        count = len(rows)
        image = instances["image"][rows].astype(np.int64)
        targets: dict[str, NDArray[Any]] = {
            "image": image,
            "keypoints2d": self._points("keypoints2d", rows, 3),
            "keypoints3d": self._points("keypoints3d", rows, 4),
            "pose": np.zeros((count, 24, 3), np.float32),
            "betas": np.zeros((count, 10), np.float32),
            "has_smpl": np.zeros(count, bool),
            "gender": np.zeros(count, np.uint8),
            "picture_size": np.stack([images["width"][image], images["height"][image]], axis=1),
            "intrinsics": np.zeros((count, 3, 3), np.float32),
        }
        if "gender" in instances:
            targets["gender"] = instances["gender"][rows]
        if "intrinsics" in images:
            targets["intrinsics"] = images["intrinsics"][image]
        if "smpl/global_orient" in instances:
            valid = (
                instances["smpl/valid"][rows].astype(bool)
                if "smpl/valid" in instances
                else np.ones(count, bool)
            )
            targets["has_smpl"] = valid
            targets["pose"][:, 0] = instances["smpl/global_orient"][rows]
            targets["pose"][:, 1:] = instances["smpl/body_pose"][rows]
            targets["betas"][:] = instances["smpl/betas"][rows][:, :10]
            targets["pose"][~valid] = 0
            targets["betas"][~valid] = 0
        return targets

    def _points(self, field: str, rows: Int, width: int) -> Float:
        if field not in self._joints:
            return np.zeros((len(rows), 54, width), np.float32)
        index = self._joints[field]
        points = np.asarray(self.store.instances[field][rows], np.float32)[:, index]
        points[:, index < 0] = 0
        points[points[..., -1] <= 0] = 0
        return points


def _enlargement(store: Store) -> float:
    # A converter that made its boxes from joints or masks has enlarged them already and says by how
    # much; only the box an annotator drew (factor 1) is still tight.
    factor = store.instances["bbox_xywh"].attributes.get("factor")
    return ENLARGEMENT if factor == 1 else 1.0


def transform(targets: dict[str, NDArray[Any]], crop: Geometry) -> dict[str, NDArray[Any]]:
    """Carry targets from the picture into the crop.

    Joints are flipped with their names, 2D points with confidence go through the affine, 3D points
    and the global orientation turn with the picture. Missing points stay zero.

    Parameters
    ----------
    targets : dict
        As `Annotations.gather` gives it; not changed.
    crop : Geometry

    Returns
    -------
    dict
        The same keys; ``keypoints2d`` in pixels of the crop.
    """
    result = dict(targets)
    permutation = keypoints.flip_permutation(CONVENTION)
    flip = crop.flip
    angle = np.deg2rad(-crop.rotation.astype(np.float64))

    points2d = targets["keypoints2d"].copy()
    points2d[flip] = points2d[flip][:, permutation]
    moved = geometry.apply_affine(crop.affine, points2d[..., :2])
    points2d[..., :2] = np.where(points2d[..., 2:] > 0, moved, 0)

    points3d = targets["keypoints3d"].copy()
    points3d[flip] = points3d[flip][:, permutation]
    points3d[flip, :, 0] *= -1
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0] = np.sin(angle)
    turn[:, 0, 1] = -turn[:, 1, 0]
    turn[:, 2, 2] = 1
    points3d[..., :3] = np.einsum("bij,bkj->bki", turn, points3d[..., :3])

    pose = targets["pose"].copy()
    pose[flip] = geometry.flip_pose(pose[flip])
    turned = targets["has_smpl"]
    pose[turned, 0] = geometry.rotate_global_orient(pose[turned, 0], crop.rotation[turned])
    result.update(keypoints2d=points2d, keypoints3d=points3d, pose=pose)
    return result


def cut(store: Store, image: int, affine: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
    """Decode one picture and warp it into ``out``, RGB.

    A JPEG that is at least twice too large is decoded at a half, a quarter or an eighth of its
    size, which libjpeg does while it decodes; bilinear sampling then never skips pixels by more
    than that.

    Parameters
    ----------
    store : Store
    image : int
        Row of ``images``.
    affine : (2, 3) float64
        Picture to crop.
    out : (S, S, 3) uint8
        Filled; black outside the picture.

    Raises
    ------
    DamagedPictureError
        When the bytes are not a picture.
    """
    import cv2

    data = store.picture(image)
    shrink = _reduction(data, affine)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    mode = flags.get(shrink, cv2.IMREAD_REDUCED_COLOR_8)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # an empty buffer raises, a damaged one gives None
        picture = None
    if picture is None:
        raise DamagedPictureError(
            store.path,
            f"picture {store.images['path'][image]} (image row {image})",
            expected="a picture that OpenCV decodes",
            found=f"{len(data)} bytes that it does not",
            hint="humandata inspect --verify lists damaged pictures.",
        )
    if shrink > 1:
        # Pixel i of the reduced picture covers pixels shrink * i ... shrink * i + shrink - 1.
        matrix = affine.copy()
        matrix[:, 2] += affine[:, :2].sum(axis=1) * (shrink - 1) / 2
        matrix[:, :2] *= shrink
    else:
        matrix = affine
    size = out.shape[0]
    crop = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR)
    cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=out)


def _reduction(data: bytes, affine: NDArray[np.float64]) -> int:
    if not data.startswith(b"\xff\xd8"):
        return 1  # only JPEG has a cheaper small form
    zoom_out = 1 / max(float(np.hypot(affine[0, 0], affine[1, 0])), 1e-9)
    return next((factor for factor in (8, 4, 2) if zoom_out >= factor), 1)


def check_pictures(store: Store) -> None:
    """Fail early when a store has neither pictures nor a folder to find them in."""
    if not store.has_pictures and store.attributes.get("picture_root") is None:
        raise HumandataError(
            f"{store.path} has no pictures to train from; convert again with --pictures original"
        )
