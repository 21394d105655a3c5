"""A ResNet on a folder of images with counterfactuals: one file to copy and adapt.

    python examples/resnet_streaming.py
    torchrun --nproc_per_node 2 examples/resnet_streaming.py --images FOLDER --cgn PATH --size 224

FOLDER holds train/CLASS/IMAGE and val/CLASS/IMAGE. Without one, bundled digits are written to a
folder first. The same command continues a stopped run, even inside an epoch.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

from cgn_augment import BankSource, CGNError, CounterfactualDataset, load_cgn, match_real
from train_generator.mnist import make_variant

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, help="folder with train/ and val/ (default: bundled digits)")
    add("--cgn", default="double-colored-mnist", help="name or path (default: %(default)s)")
    add("--ratio", type=float, default=1.0, help="counterfactuals per real image (default: 1)")
    add("--bank", type=int, default=2000, help="masks, foregrounds and backgrounds kept")
    add("--model", default="resnet18", help="one of torchvision's (default: %(default)s)")
    add("--size", type=int, default=32, help="pixels of an image (default: %(default)s)")
    add("--batch-size", type=int, default=64, help="real images per process (default: 64)")
    add("--epochs", type=int, default=2)
    add("--workers", type=int, default=2, help="processes that read images (default: 2)")
    add("--save-every", type=int, default=100, help="steps (default: %(default)s)")
    add("--num-train", type=int, default=5000, help="bundled digits (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/resnet"))
    return parser.parse_args()


def write_digits(folder: Path, num_train: int) -> Path:
    """Writes digits whose colours give the class away in train/ and say nothing in val/."""
    for split, part, num in (("train", "train", num_train), ("val", "test", 500)):
        digits = make_variant("double_colored", part, num=num)
        for i, (image, label) in enumerate(digits.dataset()):
            path = folder / split / str(int(label)) / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(image / 2 + 0.5).save(path)
    return folder


def measure(model: torch.nn.Module, val: ImageFolder, device: torch.device) -> float:
    """Returns the accuracy on all images; each process takes its part of them."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    right = torch.zeros((), device=device)
    model.eval()
    for images, labels in DataLoader(Subset(val, range(rank, len(val), size)), 256):
        with torch.no_grad():
            right += (model(images.to(device)).argmax(1) == labels.to(device)).sum()
    model.train()
    if size > 1:
        dist.all_reduce(right)
    return float(right) / len(val)


def main() -> None:
    args = parse_arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("nccl" if on_gpu else "gloo")
    is_first = not dist.is_initialized() or dist.get_rank() == 0

    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.images or args.out / "digits"
    if is_first and args.images is None and not folder.is_dir():
        write_digits(args.out / "digits.tmp", args.num_train).rename(folder)
    if dist.is_initialized():
        dist.barrier()
    crop = v2.RandomResizedCrop(args.size, scale=(0.5, 1.0))
    real = ImageFolder(folder / "train", v2.Compose([crop, *TO_TENSOR]))
    val = ImageFolder(folder / "val", v2.Compose([v2.Resize((args.size, args.size)), *TO_TENSOR]))

    # Counterfactuals come from the bank on the device; the workers only read real images. If the
    # folder's classes are not those of the CGN, pass class_map={real.class_to_idx["fox"]: 277, …}.
    train = CounterfactualDataset(
        real,
        BankSource(load_cgn(args.cgn).to(device), size=args.bank),
        batch_size=args.batch_size,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=on_gpu,
        ratio=args.ratio,
        transform=match_real(MEAN, STD, size=args.size),
        seed_items=True,
    )
    torch.manual_seed(0)
    model = models.get_model(args.model, num_classes=len(real.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    num_steps = args.epochs * len(train)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / num_steps)) / 2
    )
    scaler = torch.amp.GradScaler(enabled=on_gpu)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    parts["train"] = train  # its epoch, its step, and what is left over of a counterfactual
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    parallel = DistributedDataParallel(model) if dist.is_initialized() else model
    for epoch in range(train.epoch, args.epochs):
        progress = tqdm(train, f"epoch {epoch}", disable=not is_first)
        for step, (images, labels) in enumerate(progress, 1):
            with torch.autocast(device.type, torch.float16 if on_gpu else torch.bfloat16):
                loss = F.cross_entropy(parallel(images), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            if is_first and (step % args.save_every == 0 or train.is_at_end()):
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)  # whole, or not at all
        accuracy = measure(model, val, device)
        if is_first:
            print(f"epoch {epoch}: validation accuracy {accuracy:.1%}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except CGNError as error:
        sys.exit(f"error: {error}")
