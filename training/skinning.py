"""The two parts of a posed body that cost time, each with its own gradient: bones, and skin.

Both keep only what they were given and what they return, compute the rest again when gradients are
asked for, and can be differentiated twice. Rotations need not be exact ones: gradients flow through
all nine elements.

Arrays of bones are *batch-last*, (J, 3, 3, B): the products of a whole level of the tree are then
a few multiplications of long rows, where B x J products of 3 x 3 matrices would be as many calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

BODIES, WIDTH = 64, 384
"""Bodies and vertices that are skinned at a time on a CPU, in float32: 1.2 MB of matrices."""


# Bones -----------------------------------------------------------------------------------------


def world_rotations(rotations: Tensor, levels: list[Tensor]) -> Tensor:
    """Rotations relative to the parent, made relative to the world.

    Parameters
    ----------
    rotations : (J, 3, 3, B)
        The joints of the tree in the order of their depth, the root first.
    levels : list of (n,) int64
        For every depth from 1 on: of each of its joints, the parent's place in the depth above.

    Returns
    -------
    (J, 3, 3, B)
    """
    result: Tensor = _Worlds.apply(rotations, *levels)
    return result


class _Worlds(Function):
    """``W_child = W_parent R_child``, one level of the tree at a time."""

    @staticmethod
    def forward(ctx: Any, rotations: Tensor, *levels: Tensor) -> Tensor:
        above = rotations[:1]
        worlds, start = [above], 1
        for parents in levels:
            stop = start + len(parents)
            above = _product(above.index_select(0, parents), rotations[start:stop])
            worlds.append(above)
            start = stop
        world = torch.cat(worlds)
        ctx.save_for_backward(rotations, world, *levels)
        return world

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rotations, world, *levels = ctx.saved_tensors
        (gradient,) = gradients
        # From the leaves to the root: what reaches a world rotation directly, and through children.
        stop, below, of_worlds = len(rotations), None, []
        for depth in range(len(levels), -1, -1):
            start = stop - (len(levels[depth - 1]) if depth else 1)
            here = gradient[start:stop]
            if below is not None:
                here = here.index_add(0, levels[depth], below)
            of_worlds.append(here)
            if depth:
                # W = P R, so dP = dW R^T.
                below = (here.unsqueeze(2) * rotations[start:stop].unsqueeze(1)).sum(3)
            stop = start
        of_worlds.reverse()
        # dR = P^T dW, for all joints at once.
        starts = [0, 1]
        for parents in levels:
            starts.append(starts[-1] + len(parents))
        above = torch.cat([p + s for p, s in zip(levels, starts, strict=False)])
        children = torch.cat(of_worlds[1:])
        turned = (world.index_select(0, above).unsqueeze(3) * children.unsqueeze(2)).sum(1)
        return torch.cat([of_worlds[0], turned]), *[None] * len(levels)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products of (n, 3, 3, B) and (n, 3, 3, B)."""
    return (left.unsqueeze(3) * right.unsqueeze(1)).sum(2)


def rotate(rotations: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (n, 3, B) turned by matrices (n, 3, 3, B)."""
    return (rotations * vectors.unsqueeze(1)).sum(2)


# Skin ------------------------------------------------------------------------------------------


class _Tile(NamedTuple):
    """Some neighbouring vertices, and the few bones that move them."""

    vertices: slice
    columns: slice
    """Of ``shapedirs`` and ``posedirs``."""
    bones: Tensor
    weights: Tensor
    """(bones, vertices)"""


class Surface(NamedTuple):
    """The arrays of a body model that have one entry per vertex.

    Attributes
    ----------
    template : (V, 3) metres
    shapedirs : (b, V * 3)
    posedirs : (P, V * 3), or None for a model without pose correctives
    weights : (V, J)
    tiles : dict
        Where `skin` remembers how it has cut these weights into tiles, by their width.
    """

    template: Tensor
    shapedirs: Tensor
    posedirs: Tensor | None
    weights: Tensor
    tiles: dict[int, list[_Tile]]


def skin(
    surface: Surface, affine: Tensor, betas: Tensor, feature: Tensor, transl: Tensor | None
) -> Tensor:
    """Vertices (B, V, 3) of posed bodies.

    Parameters
    ----------
    surface : Surface
        No gradient flows into it.
    affine : (J, 3, 4, B)
        What each bone does to a point of the rest pose.
    betas : (B, b)
        Coefficients of all shape directions.
    feature : (B, P)
        ``R - I`` of every joint but the root, row by row.
    transl : (B, 3), optional
        Added last.
    """
    if torch.compiler.is_compiling():
        # The compiler fuses the plain formula itself, and chooses what to keep for the gradient.
        return _plain_skin(surface, affine, betas, feature, transl)
    vertices: Tensor = _Skin.apply(surface, affine, betas, feature, transl)
    return vertices


def _plain_skin(
    surface: Surface, affine: Tensor, betas: Tensor, feature: Tensor, transl: Tensor | None
) -> Tensor:
    rest = torch.addmm(surface.template.flatten(), betas, surface.shapedirs)
    if surface.posedirs is not None:
        rest = torch.addmm(rest, feature, surface.posedirs)
    rest = rest.view(len(betas), -1, 3).transpose(1, 2).unsqueeze(1)
    blend = affine.permute(3, 1, 2, 0).flatten(0, 2) @ surface.weights.t()
    blend = blend.view(len(betas), 3, 4, -1)
    vertices = (blend[:, :, :3] * rest).sum(2) + blend[:, :, 3]
    if transl is not None:
        vertices = vertices + transl.unsqueeze(2)
    return vertices.transpose(1, 2).contiguous()


class _Skin(Function):
    """The plain formula, tile by tile: what a tile needs stays in the cache of one core.

    A tile is moved by six bones on average where the body has 24, which makes blending their
    matrices cheap enough to do it again for the gradient instead of keeping 12 V numbers a body.
    Kept are the 3 V numbers of the rest mesh with shape and pose correctives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        surface: Surface,
        affine: Tensor,
        betas: Tensor,
        feature: Tensor,
        transl: Tensor | None,
    ) -> Tensor:
        count = len(betas)
        work = _Workspace(surface, betas)
        vertices = betas.new_empty(count, len(surface.template), 3)
        kept = betas.new_empty(vertices.numel())
        for rows, bones_of in work.bodies(affine):
            for tile in work.tiles:
                moved = work.points(betas[rows], tile)
                flat = moved.flatten(1)
                torch.mm(betas[rows], surface.shapedirs[:, tile.columns], out=flat)
                if surface.posedirs is not None:
                    flat.addmm_(feature[rows], surface.posedirs[:, tile.columns])
                # Coordinates first: every product below is one of long rows.
                x = work.part(kept, rows, tile)
                template = surface.template[tile.vertices].t().unsqueeze(1)
                torch.add(moved.permute(2, 0, 1), template, out=x)
                blend = work.blended(bones_of, tile, 4)
                y = blend[:, 3]
                for axis in range(3):
                    y.addcmul_(blend[:, axis], x[axis])
                if transl is not None:
                    y += transl[rows].t().unsqueeze(2)
                vertices[rows, tile.vertices] = y.permute(1, 2, 0)
        ctx.surface = surface
        ctx.save_for_backward(affine, betas, feature, transl, kept)
        return vertices

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        affine, betas, feature, transl, kept = ctx.saved_tensors
        surface: Surface = ctx.surface
        (gradient,) = gradients
        if torch.is_grad_enabled():  # this gradient will itself be differentiated
            return None, *_plain_gradients(surface, affine, betas, feature, transl, gradient)
        work = _Workspace(surface, betas)
        to_affine = torch.zeros_like(affine)
        to_betas, to_feature = torch.zeros_like(betas), torch.zeros_like(feature)
        for rows, bones_of in work.bodies(affine):
            to_bones = torch.zeros_like(bones_of).flatten(1)
            for tile in work.tiles:
                g = work.gradient(gradient[rows, tile.vertices])
                blend = work.blended(bones_of, tile, 3)
                back = blend[0].mul_(g[0])
                for axis in (1, 2):
                    back.addcmul_(blend[axis], g[axis])
                moved = work.points(betas[rows], tile)
                moved.copy_(back.permute(1, 2, 0))
                flat = moved.flatten(1)
                to_betas[rows].addmm_(flat, surface.shapedirs[:, tile.columns].t())
                if surface.posedirs is not None:
                    to_feature[rows].addmm_(flat, surface.posedirs[:, tile.columns].t())
                # All products of a gradient and a rest place, summed over vertices bone by bone.
                outer = work.matrices(g, 4)
                torch.mul(g.unsqueeze(1), work.part(kept, rows, tile), out=outer[:, :3])
                outer[:, 3] = g
                sums = tile.weights @ outer.view(-1, g.shape[2]).t()
                to_bones.index_add_(0, tile.bones, sums)
            to_affine[..., rows] = to_bones.view_as(bones_of)
        to_transl = None if transl is None else gradient.sum(1)
        return None, to_affine, to_betas, to_feature, to_transl


def _plain_gradients(
    surface: Surface,
    affine: Tensor,
    betas: Tensor,
    feature: Tensor,
    transl: Tensor | None,
    gradient: Tensor,
) -> tuple[Tensor | None, ...]:
    given = (affine, betas, feature, transl)
    inputs = [t for t in given if t is not None and t.requires_grad]
    vertices = _plain_skin(surface, *given)
    found = torch.autograd.grad(vertices, inputs, gradient, create_graph=True, allow_unused=True)
    of = {id(tensor): value for tensor, value in zip(inputs, found, strict=True)}
    return tuple(of.get(id(tensor)) for tensor in given)


class _Workspace:
    """How the work is cut, and memory that every tile writes anew.

    On a CPU: `BODIES` bodies at a time, and so many vertices of them that 12 numbers for each stay
    in its cache. On a GPU: everything at once, as it would rather have large products.
    """

    def __init__(self, surface: Surface, like: Tensor) -> None:
        vertices, count = len(surface.template), len(like)
        whole = like.device.type != "cpu"
        self._bodies = max(1, count if whole else min(count, BODIES))
        width = vertices
        if not whole:
            # Fewer bodies, wider tiles; in powers of two, so that few widths are remembered.
            narrow = WIDTH * 4 // like.element_size()
            width = min(vertices, narrow << ((BODIES // self._bodies).bit_length() - 1))
        if width not in surface.tiles:
            surface.tiles[width] = _cut(surface.weights, width)
        self.tiles = surface.tiles[width]
        self._vertices = vertices
        self._room = like.new_empty(12 * self._bodies * width)
        self._points = like.new_empty(3 * self._bodies * width)
        self._gradient = like.new_empty(3 * self._bodies * width)

    def bodies(self, affine: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Parts of the batch, with what the bones (J, 3, 4, k) of those bodies do."""
        for start in range(0, affine.shape[3], self._bodies):
            rows = slice(start, min(start + self._bodies, affine.shape[3]))
            yield rows, affine[..., rows].contiguous()

    def points(self, bodies: Tensor, tile: _Tile) -> Tensor:
        """Room for the points (k, v, 3) of a tile."""
        shape = len(bodies), tile.weights.shape[1], 3
        return self._points[: math.prod(shape)].view(shape)

    def part(self, kept: Tensor, rows: slice, tile: _Tile) -> Tensor:
        """The place (3, k, v) of a tile in what is kept for the gradient."""
        count = rows.stop - rows.start
        start = 3 * (rows.start * self._vertices + count * tile.vertices.start)
        stop = start + 3 * count * tile.weights.shape[1]
        return kept[start:stop].view(3, count, -1)

    def gradient(self, given: Tensor) -> Tensor:
        """A gradient (k, v, 3) with the coordinates first, (3, k, v)."""
        shape = 3, *given.shape[:2]
        return self._gradient[: given.numel()].view(shape).copy_(given.permute(2, 0, 1))

    def matrices(self, like: Tensor, columns: int) -> Tensor:
        """Room for matrices (3, columns, k, v) where ``like`` is (3, k, v)."""
        shape = 3, columns, *like.shape[1:]
        return self._room[: math.prod(shape)].view(shape)

    def blended(self, affine: Tensor, tile: _Tile, columns: int) -> Tensor:
        """Matrices of the bones (J, 3, 4, k) mixed for every vertex: (3, columns, k, v)."""
        few = affine.index_select(0, tile.bones)[:, :, :columns].flatten(1)
        shape = 3, columns, affine.shape[3], tile.weights.shape[1]
        room = self._room[: math.prod(shape)]
        torch.mm(few.t(), tile.weights, out=room.view(-1, shape[3]))
        return room.view(shape)


def _cut(weights: Tensor, width: int) -> list[_Tile]:
    tiles = []
    for start in range(0, len(weights), width):
        part = weights[start : start + width]
        bones = (part != 0).any(0).nonzero().squeeze(1)
        vertices = slice(start, start + len(part))
        columns = slice(3 * vertices.start, 3 * vertices.stop)
        tiles.append(_Tile(vertices, columns, bones, part[:, bones].t().contiguous()))
    return tiles
