"""Mesh surgery for the stand-in body: closing holes from inside, and symmetric thinning."""

from __future__ import annotations

import heapq

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

Array = np.ndarray


def adjacency(faces: Array, count: int) -> sp.csr_matrix:
    """0/1 matrix of the edges of a triangle mesh."""
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    matrix = sp.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)).tocsr()
    matrix = matrix + matrix.T
    matrix.data[:] = 1.0
    return matrix


def mirror_map(vertices: Array) -> Array:
    """For each vertex of a mesh that is symmetric in x, the vertex opposite."""
    distance, mirror = cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])
    if distance.max() > 1e-6 or not np.array_equal(mirror[mirror], np.arange(len(mirror))):
        raise ValueError("the mesh is not symmetric about x = 0")
    return mirror


def symmetric_triangles(quads: Array, vertices: Array, mirror: Array) -> Array:
    """Split quads along the shorter diagonal, the right half as the mirror of the left."""
    left = quads[vertices[quads][:, :, 0].mean(axis=1) > 0]
    a, b, c, d = (vertices[left[:, k]] for k in range(4))
    short = np.linalg.norm(a - c, axis=1) <= np.linalg.norm(b - d, axis=1)
    first = np.where(short[:, None], left[:, [0, 1, 2]], left[:, [0, 1, 3]])
    second = np.where(short[:, None], left[:, [0, 2, 3]], left[:, [1, 2, 3]])
    half = np.concatenate([first, second])
    a, b, c = half.T
    half = half[(a != b) & (b != c) & (c != a)]
    return np.concatenate([half, mirror[half][:, ::-1]])


def close_cavities(vertices: Array, faces: Array, cavity: Array, eyeballs: Array) -> sp.csr_matrix:
    """Linear map that stretches the inside of eye sockets and mouth over their openings.

    The inside becomes a membrane (each vertex the mean of its neighbours), and where an eyeball
    lies behind it the membrane is pushed onto the ball. Every new vertex is a fixed combination
    of old ones, so blend shapes and skinning weights go through the same matrix.
    """
    count = len(vertices)
    graph = adjacency(faces, count)
    inside, outside = np.flatnonzero(cavity), np.flatnonzero(~cavity)
    degree = sp.diags(np.asarray(graph[inside].sum(axis=1)).ravel())
    laplacian = (degree - graph[inside][:, inside]).tocsc()
    rim = graph[inside][:, outside].tocsc()
    solution = sp.csr_matrix(spsolve(laplacian, rim))
    solution.data[np.abs(solution.data) < 1e-12] = 0
    rows = sp.lil_matrix((count, count))
    rows[outside, outside] = 1.0
    closed = rows.tocsr() + _scatter(solution, inside, outside, count)

    membrane = closed @ vertices
    push = sp.lil_matrix((count, count))
    for side in (-1, 1):
        ball = np.flatnonzero(eyeballs & (side * vertices[:, 0] > 0))
        centre = vertices[ball].mean(axis=0)
        front = ball[np.argmax(vertices[ball, 2])]
        ray = vertices[front] - centre
        radius = np.linalg.norm(ray)
        near = inside[np.linalg.norm(membrane[inside] - centre, axis=1) < 1.5 * radius]
        offset = membrane[near] - centre
        along = offset @ ray
        root = along**2 - radius**2 * ((offset**2).sum(axis=1) - radius**2)
        amount = (-along + np.sqrt(np.maximum(root, 0))) / radius**2
        for vertex, b in zip(near, amount, strict=True):
            push[vertex, front] += b
            push[vertex, ball] = push[vertex, ball].toarray()[0] - b / len(ball)
    return closed + push.tocsr()


def _scatter(block: sp.csr_matrix, rows: Array, columns: Array, count: int) -> sp.csr_matrix:
    block = block.tocoo()
    return sp.coo_matrix(
        (block.data, (rows[block.row], columns[block.col])), shape=(count, count)
    ).tocsr()


class _Thinning:
    """Half-edge collapses by quadric error (Garland & Heckbert, 1997), both sides in step."""

    def __init__(self, vertices: Array, faces: Array, mirror: Array, density: Array) -> None:
        self.vertices, self.mirror, self.density = vertices, mirror, density
        self.faces = {k: tuple(f) for k, f in enumerate(faces.tolist())}
        self.around: list[set[int]] = [set() for _ in vertices]
        for k, face in self.faces.items():
            for v in face:
                self.around[v].add(k)
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        normal = np.cross(b - a, c - a)
        area = np.linalg.norm(normal, axis=1, keepdims=True)
        plane = normal / np.maximum(area, 1e-15)
        plane = np.hstack([plane, -(plane * a).sum(axis=1, keepdims=True)])
        quadric = plane[:, :, None] * plane[:, None, :] * (area / 2)[:, :, None]
        self.quadrics = np.zeros((len(vertices), 4, 4))
        for k in range(3):
            np.add.at(self.quadrics, faces[:, k], quadric)
        self.stamp = [0] * len(vertices)
        self.alive = [True] * len(vertices)

    def neighbours(self, u: int) -> set[int]:
        return {v for k in self.around[u] for v in self.faces[k]} - {u}

    def cost(self, u: int, v: int) -> float:
        p = np.append(self.vertices[v], 1.0)
        shape = float(p @ (self.quadrics[u] + self.quadrics[v]) @ p)
        # The length term keeps flat places from emptying: skinning needs rings of vertices there.
        length = float(np.linalg.norm(self.vertices[u] - self.vertices[v]))
        return float(self.density[u]) * (shape + 0.02 * length**4)

    def allowed(self, u: int, v: int) -> bool:
        """Whether moving u onto v keeps the surface a manifold and turns no face over."""
        shared = self.around[u] & self.around[v]
        if len(shared) != 2 or len(self.neighbours(u) & self.neighbours(v)) != 2:
            return False
        for k in self.around[u] - shared:
            old = self.vertices[list(self.faces[k])]
            new = self.vertices[[v if w == u else w for w in self.faces[k]]]
            before = np.cross(old[1] - old[0], old[2] - old[0])
            after = np.cross(new[1] - new[0], new[2] - new[0])
            size = np.linalg.norm(after)
            if before @ after < 0.3 * np.linalg.norm(before) * size:
                return False
            longest = max(np.linalg.norm(new[i] - new[i - 1]) for i in range(3))
            if size < 0.12 * longest**2:
                return False
        return True

    def collapse(self, u: int, v: int) -> None:
        for k in list(self.around[u]):
            face = self.faces[k]
            if v in face:
                for w in face:
                    self.around[w].discard(k)
                del self.faces[k]
            else:
                self.faces[k] = tuple(v if w == u else w for w in face)
                self.around[v].add(k)
        self.around[u] = set()
        self.quadrics[v] += self.quadrics[u]
        self.alive[u] = False


def thin_symmetrically(
    vertices: Array, faces: Array, mirror: Array, pinned: Array, density: Array, target: int
) -> tuple[Array, Array]:
    """Remove vertices until ``target`` are left, keeping the rest where they are.

    Parameters
    ----------
    vertices, faces, mirror : (V, 3), (F, 3), (V,)
        A closed mesh and its symmetry.
    pinned : (P,) int
        Vertices that must stay.
    density : (V,)
        How dear a vertex is: 2 keeps about as much again as 1.
    target : int

    Returns
    -------
    kept : (target,) int
        The surviving vertices, ascending.
    faces : (2 * target - 4, 3) int
        Triangles over the survivors' new numbers.
    """
    mesh = _Thinning(vertices, faces, mirror, density)
    middle = mirror == np.arange(len(vertices))
    fixed = set(pinned.tolist()) | set(mirror[pinned].tolist())
    heap: list[tuple[float, int, int, int, int]] = []

    def offer(u: int) -> None:
        if u in fixed or (vertices[u, 0] < 0 and not middle[u]):
            return  # the right half follows the left
        for v in mesh.neighbours(u):
            if middle[u] and not middle[v]:
                continue
            entry = (mesh.cost(u, v), u, v, mesh.stamp[u], mesh.stamp[v])
            heapq.heappush(heap, entry)

    for u in range(len(vertices)):
        offer(u)
    left = len(vertices)
    while left > target:
        _, u, v, stamp_u, stamp_v = heapq.heappop(heap)
        if not (mesh.alive[u] and mesh.alive[v]):
            continue
        if (stamp_u, stamp_v) != (mesh.stamp[u], mesh.stamp[v]):
            continue
        pair = [(u, v)] if middle[u] else [(u, v), (int(mirror[u]), int(mirror[v]))]
        if left - len(pair) < target or not all(mesh.allowed(*p) for p in pair):
            continue
        touched = set()
        for a, b in pair:
            if not mesh.allowed(a, b):
                raise RuntimeError("one half of a mirrored collapse blocks the other")
            mesh.collapse(a, b)
            touched |= mesh.neighbours(b) | {b}
        left -= len(pair)
        for w in touched:
            mesh.stamp[w] += 1
        for u in touched.union(*(mesh.neighbours(w) for w in touched)):
            offer(u)
    kept = np.flatnonzero(mesh.alive)
    number = np.full(len(vertices), -1)
    number[kept] = np.arange(len(kept))
    return kept, number[np.array(list(mesh.faces.values()))]
