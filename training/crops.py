"""From rows of a store to network input: targets gathered by index, pictures decoded and warped.

Everything here is NumPy and OpenCV, works on whole batches where it can, and releases the
interpreter lock while it decodes and warps, so that threads are enough to feed a device.

Geometry (mmhuman3d's ``MeshAffine``): a square of side ``side`` around ``centre`` becomes a
picture of ``size`` pixels; flip comes first, then a turn by r degrees that takes an offset (dx,
dy) to ``(size / side) (cos r dx + sin r dy, -sin r dx + cos r dy)``. Targets follow: 3D points and
the global orientation turn by -r about the optical axis.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints
from humandata.errors import DamagedPictureError, DataError, HumandataError
from humandata.jpeg import read_frame
from humandata.packs import Crop, Encoded
from humandata.pictures import DamagedPicture, Memory
from humandata.regions import Part, decode_part, take_part
from humandata.store import Store
from humandata.store_bodies import are_children

Float = NDArray[np.float32]
Int = NDArray[np.int64]
Place = tuple[float, float, float, float, float, float]

CONVENTION = "smpl_54"
ENLARGEMENT = 1.2
"""How much larger than an annotator's box a crop is; SPIN's and mmhuman3d's factor."""


@dataclass(frozen=True)
class Geometry:
    """How the crops of a batch lie in their pictures.

    Centre and side are of the picture as it is stored, also where the crop is flipped or turned.
    CLIFF's box information wants them in the camera that the changed body stands in front of. With
    d the offset of the centre from the principal point and r the rotation: where flipped, d_x
    changes its sign; where turned, d becomes (cos r d_x + sin r d_y, -sin r d_x + cos r d_y), which
    CLIFF itself leaves out. Side, focal length and size of the picture stay as they are (pixels
    being square). `crop_intrinsics` holds all of it exactly.

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
    verify : bool
        Let `check` hold every picture against its checksum, once.
    """

    def __init__(self, store: Store, approximate: bool = False, verify: bool = False) -> None:
        self.store = store
        kept = store.instances if store.has_crops else store.images
        self._sound = np.zeros(len(kept["id"]), bool) if verify else None
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

    def check(self, row: int) -> None:
        """Where asked for, hold what the crop of a row is made of against its checksum.

        Raises
        ------
        DataError
            Naming the picture and both checksums.
        """
        if self._sound is None:
            return
        crops = self.store.has_crops
        number = row if crops else int(self.store.instances["image"].item(row))
        if not self._sound[number]:
            (self.store.check_crop if crops else self.store.check_picture)(number)
            self._sound[number] = True

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

        Raises
        ------
        DataError
            If the store is damaged, or was replaced or removed since it was opened.
        """
        self.store.check_unchanged()
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
            # Ten coefficients do not make a child's body.
            valid &= ~are_children(self.store, rows)
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
        # Not `[:, index]`: it would lay the joints out first, for which all that follows pays.
        points = np.asarray(self.store.instances[field][rows], np.float32).take(index, axis=1)
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
    flip = np.flatnonzero(crop.flip)

    points2d = targets["keypoints2d"].copy()
    points2d[flip] = points2d[flip].take(permutation, axis=1)
    moved = geometry.apply_affine(crop.affine, points2d[..., :2])
    np.copyto(points2d[..., :2], moved, where=points2d[..., 2:] > 0)

    points3d = targets["keypoints3d"].copy()
    points3d[flip] = points3d[flip].take(permutation, axis=1)
    points3d[..., :3] = points3d[..., :3] @ _turns(crop).transpose(0, 2, 1)

    pose = targets["pose"].copy()
    pose[flip] = geometry.flip_pose(pose[flip])
    turned = targets["has_smpl"]
    pose[turned, 0] = geometry.rotate_global_orient(pose[turned, 0], crop.rotation[turned])
    result.update(keypoints2d=points2d, keypoints3d=points3d, pose=pose)
    return result


def crop_intrinsics(intrinsics: NDArray[Any], crop: Geometry) -> NDArray[np.float64]:
    """Cameras of crops, for bodies and joints in the axes that `transform` turns them to.

    With A the affine and R what `transform` does to 3D points (mirror x where flipped, then turn by
    -r about the optical axis), the camera is ``A K R^-1``, so that for every point X of the camera
    frame ``project(A K R^-1, R X) = A(project(K, X))``, whatever K is. Where nothing is flipped or
    turned, `geometry.crop_intrinsics` is the same.

    Parameters
    ----------
    intrinsics : (B, 3, 3)
        Of the pictures; zero where unknown, which stays zero.
    crop : Geometry

    Returns
    -------
    (B, 3, 3) float64
        Pixels of the crop. Triangular for square pixels; where they are not square (or skewed), a
        turn of the pixels is no turn of the rays, and all four upper left numbers differ from 0.
    """
    back = np.swapaxes(_turns(crop), -1, -2)
    return geometry.crop_intrinsics(crop.affine, intrinsics) @ back


def _turns(crop: Geometry) -> NDArray[np.float64]:
    """What a crop does to 3D points: orthogonal (B, 3, 3), mirroring before turning."""
    angle = np.deg2rad(-crop.rotation.astype(np.float64))
    turns = np.zeros((len(angle), 3, 3))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(angle)
    turns[:, 1, 0] = np.sin(angle)
    turns[:, 0, 1] = -turns[:, 1, 0]
    turns[:, 2, 2] = 1
    turns[crop.flip, :, 0] *= -1
    return turns


def cut(store: Store, row: int, affine: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
    """Decode what a crop shows of its picture and warp it into ``out``, RGB.

    Only the part of the picture under the crop is decoded (`humandata.regions`). A JPEG that is at
    least twice too large is decoded at a half, a quarter or an eighth of its size, which libjpeg
    does while it decodes; what is left to the bilinear warp is a factor below 2, at which every
    pixel still counts, so that nothing is filtered beforehand. Pictures that have no such form
    (PNG) are sampled as they are.

    From a store of crops the crop is decoded instead, and the affine taken on from there; what lies
    outside of the stored square is black.

    Safe to call from many threads: the interpreter lock is released while pixels are made, and each
    thread keeps memory of its own for them.

    Parameters
    ----------
    store : Store
    row : int
        Row of ``instances``.
    affine : (2, 3) float64
        Picture to crop; turned, flipped and scaled, but not sheared.
    out : (S, S, 3) uint8
        Filled, in C order; black outside of the picture.

    Raises
    ------
    DamagedPictureError
        When the picture cannot be decoded.
    DataError
        When it is missing, or the store is damaged there (the picture's checksum does not match);
        when the affine is not finite.
    """
    draw(begin(store, row, affine.tolist(), out.shape[0]), out)


class Begun(NamedTuple):
    """A crop of which the bytes are there, and no pixels yet.

    Attributes
    ----------
    store, row : Store, int
        Of instances.
    image : int
        Row of images; -1 where the crop itself is stored.
    part : Part
        What is to be decoded.
    place : six floats
        Rows of the affine that leads from pixels of the crop to those of the picture (or of the
        stored crop).
    """

    store: Store
    row: int
    image: int
    part: Part
    place: Place


def begin(store: Store, row: int, affine: list[list[float]], size: int) -> Begun:
    """The first half of `cut`: find the picture, and take the bytes that a crop needs.

    Batches do it for many crops at once: see `humandata.regions.take_part`.

    Parameters and errors are those of `cut`; ``affine`` as a list, ``size`` the side of the crop.
    """
    place = _inverse(affine)
    if place is None:
        raise DataError(
            store.path,
            f"instance row {row}",
            expected="a box to crop",
            found=f"the affine {affine}",
        )
    crop = store.crop(row) if store.has_crops else None
    image = -1 if crop else store.instances["image"].item(row)
    try:
        if crop is not None:
            place = _within(crop, place)
            return Begun(store, row, image, _part(Encoded(crop.data), place, size), place)
        return Begun(store, row, image, _part(store.encoded(image), place, size), place)
    except DamagedPicture as error:
        raise _damaged(store, row, image, error) from error


def draw(begun: Begun, out: NDArray[np.uint8]) -> None:
    """The other half of `cut`: decode and warp into ``out``."""
    try:
        _warp(begun.part, begun.place, out)
    except DamagedPicture as error:
        raise _damaged(begun.store, begun.row, begun.image, error) from error


def _within(crop: Crop, place: Place) -> Place:
    """From the pixels of a picture to those of a stored crop of it."""
    # Pixel u of a crop of n pixels shows x = left - 0.5 + (u + 0.5) side / n.
    step = crop.side / read_frame(crop.data).width
    left, top = crop.left - 0.5 + step / 2, crop.top - 0.5 + step / 2
    a, b, x, c, d, y = (value / step for value in place)
    return a, b, x - left / step, c, d, y - top / step


def _damaged(store: Store, row: int, image: int, error: DamagedPicture) -> DamagedPictureError:
    if image < 0:
        store.check_crop(row)
    else:
        store.check_picture(image)
    picture = "its crop" if image < 0 else f"picture {store.images['path'][image]}"
    return DamagedPictureError(
        store.path,
        f"instance row {row}, {picture}",
        expected="a picture that can be decoded",
        found=str(error),
        hint="humandata inspect --verify lists damaged pictures",
    )


def _inverse(affine: list[list[float]]) -> Place | None:
    # Plain numbers: NumPy needs ten times as long for six of them.
    (a, b, x), (c, d, y) = affine
    determinant = a * d - b * c
    if determinant == 0 or not math.isfinite(determinant + x + y):
        return None
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return a, b, -(a * x + b * y), c, d, -(c * x + d * y)


def _part(encoded: Encoded, place: Place, size: int) -> Part:
    """What a crop of ``size`` pixels looks at; ``place`` leads from its pixels to the picture's."""
    a, b, x, c, d, y = place
    # How many pixels of the picture lie between two of the crop.
    zoom_out = math.hypot(a, c)
    shrink = 1 if zoom_out < 2 else 2 if zoom_out < 4 else 4 if zoom_out < 8 else 8
    # Bilinear sampling looks at the reduced pixels whose centres are less than shrink away, the
    # nearer edge of which is (shrink + 1) / 2 away; a tenth is for OpenCV's single precision. So
    # black comes in where the picture ends, and not where the region does.
    reach = shrink / 2 + 0.6
    # Of the four corners, the extremes: each product counts where it has the sign of its end.
    last = size - 1
    low_x, low_y, high_x, high_y = x - reach, y - reach, x + reach, y + reach
    for step_x, step_y in ((a, c), (b, d)):
        if step_x < 0:
            low_x += step_x * last
        else:
            high_x += step_x * last
        if step_y < 0:
            low_y += step_y * last
        else:
            high_y += step_y * last
    ceil, floor = math.ceil, math.floor
    box = ceil(low_x), ceil(low_y), floor(high_x) + 1, floor(high_y) + 1
    return take_part(encoded, box, shrink)


def _warp(part: Part, place: Place, out: NDArray[np.uint8]) -> None:
    """Decode a part of a picture and fill the crop with it."""
    import cv2

    pixels, left, top, shrink = decode_part(part, _memory.picture, loose=True)
    if not pixels.size:
        out[...] = 0
        return
    # A reduced pixel lies at the middle of the pixels that it covers.
    middle = (shrink - 1) / 2
    a, b, x, c, d, y = place
    x, y = x - left - middle, y - top - middle
    rows = ((a / shrink, b / shrink, x / shrink), (c / shrink, d / shrink, y / shrink))
    height, width, channels = out.shape[0], out.shape[1], pixels.shape[2]
    target = out if channels == 3 else _memory.crop.take(height, width, channels)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(pixels, np.array(rows), (width, height), dst=target, flags=flags)
    if channels == 4:
        cv2.cvtColor(target, cv2.COLOR_RGBA2RGB, dst=out)


class _ThreadMemory(threading.local):
    """What each thread keeps from one crop to the next."""

    def __init__(self) -> None:
        self.picture, self.crop = Memory(), Memory()


_memory = _ThreadMemory()


def check_pictures(store: Store) -> None:
    """Fail early when a store has neither pictures nor a folder to find them in."""
    inside = store.has_pictures or store.has_crops
    if not inside and store.attributes.get("picture_root") is None:
        raise HumandataError(
            f"{store.path} has no pictures to train from; convert again with --pictures tiled"
        )
