"""Does a GPU wait for data: the parts of a training step of ResNet-50 in bfloat16, batch 256.

A store of 1920x1080 pictures with tiled JPEG is made in a temporary folder (or one is given), and a
network is trained on it with 16 threads making batches. Waiting is the time between asking for a
batch and having it; the floor is the same step on one batch that stays on the GPU.

    python benchmarks/gpu_step.py                       # on a machine with a GPU
    python benchmarks/gpu_step.py --store coco.zarr --threads 8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np


def make_store(folder: Path, count: int) -> Path:
    """One person of 150 to 700 pixels in each of ``count`` pictures."""
    from peers import pictures

    import humandata

    files = pictures(folder, count)
    rng = np.random.default_rng(0)
    size = rng.integers(150, 700, count)
    left = (rng.random(count) * (1920 - size)).astype(int)
    top = (rng.random(count) * (1080 - size)).astype(int)
    ids = np.arange(1, count + 1, dtype=np.uint64)
    path = folder / "hd.zarr"
    with humandata.create(path, dataset="pictures", tiled=True) as writer:
        writer.append(
            images={
                "id": ids,
                "path": [file.name for file in files],
                "height": np.full(count, 1080, np.int32),
                "width": np.full(count, 1920, np.int32),
            },
            instances={
                "id": ids,
                "image": np.arange(count, dtype=np.int32),
                "bbox_xywh": np.stack([left, top, size, size, np.ones(count)], 1).astype(
                    np.float32
                ),
            },
            pictures=[file.read_bytes() for file in files],
            field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
        )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="a store of your own")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()

    import timm
    import torch

    import humandata
    from humandata.training.augment import prepare
    from humandata.training.batches import Batch, Mix

    if not torch.cuda.is_available():
        raise SystemExit("This needs a GPU that torch can use.")
    with tempfile.TemporaryDirectory() as temporary:
        path = options.store or make_store(Path(temporary), 256)
        mix = Mix([(humandata.open(path), 1.0)], options.batch_size)
        network = timm.create_model(options.backbone, num_classes=157).cuda()
        network = network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(network.parameters(), fused=True)

        def step(batch: Batch) -> None:
            images = prepare(batch).images
            with torch.autocast("cuda", torch.bfloat16):
                loss = network(images).float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        resident = mix.batch(0, 0).to("cuda")
        for _ in range(10):
            step(resident)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(options.steps):
            step(resident)
        torch.cuda.synchronize()
        floor = (time.perf_counter() - started) / options.steps

        started = time.perf_counter()
        for _ in range(options.steps):
            prepare(resident)
        torch.cuda.synchronize()
        augment = (time.perf_counter() - started) / options.steps

        warm, waits = 10, []
        batches = iter(mix.batches(0, options.steps + warm, options.threads))
        for number in range(options.steps + warm):
            if number == warm:
                torch.cuda.synchronize()
                started = time.perf_counter()
            asked = time.perf_counter()
            batch = next(batches)
            if number >= warm:
                waits.append(time.perf_counter() - asked)
            step(batch.to("cuda"))
            # The loop may run ahead of the device by one step, as training does when it logs.
            torch.cuda.current_stream().synchronize()
        whole = (time.perf_counter() - started) / options.steps

    rate = options.batch_size / whole
    print(f"{torch.cuda.get_device_name()}, {options.backbone}, {options.threads} threads")
    print(f"step {whole * 1e3:.1f} ms, {rate:,.0f} samples/s")
    print(f"  on a batch that stays on the GPU: {floor * 1e3:.1f} ms")
    print(f"  of it augmentation {augment * 1e3:.2f} ms")
    print(f"  waiting for data {np.sum(waits) / options.steps / whole:.1%} of a step")


if __name__ == "__main__":
    main()
