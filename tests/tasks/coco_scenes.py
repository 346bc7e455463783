"""A small COCO data set as dictionaries, and detections near it."""

from __future__ import annotations

import numpy as np
import torch

from dyvision.tasks.metrics.coco import CocoEvaluator

CATEGORIES = {3: "car", 7: "person", 44: "kite"}  # ids with gaps


def make_truth(images: int = 7, seed: int = 0) -> dict:
    """A COCO file with crowds, an image without annotations, objects of all sizes, polygons and run lengths."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": [{"id": k, "name": v} for k, v in CATEGORIES.items()]}
    for number in range(images):
        image_id, (height, width) = 10 + 3 * number, (180 + 10 * number, 220)
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"})
        for _ in range(0 if number == 2 else rng.integers(2, 7)):
            w, h = (float(side) for side in rng.uniform(6, 150, 2))
            x, y = float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h))
            crowd = int(rng.random() < 0.2)
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            counts = [int(y) * 3 + 5, int(w * h) // 2]
            annotation = {
                "id": len(truth["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(rng.choice(list(CATEGORIES))),
                "bbox": [x, y, w, h],
                "area": w * h * (0.5 if crowd else 1.0),
                "iscrowd": crowd,
                "segmentation": {"size": [height, width], "counts": [*counts, height * width - sum(counts)]}
                if crowd
                else polygon,
            }
            truth["annotations"].append(annotation)
    return truth


def make_batch(truth: dict, seed: int = 1) -> tuple[list[dict], list[dict]]:
    """Detections near the truth, some wrong, some doubled, and the targets of the same images."""
    rng = np.random.default_rng(seed)
    detections, targets = [], []
    for image in truth["images"]:
        annotations = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes, categories = [], []
        for annotation in annotations * 2:
            if rng.random() < 0.25:
                continue
            x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 3, 4)
            boxes.append([x, y, x + max(w, 1), y + max(h, 1)])
            right = annotation["category_id"]
            categories.append(right if rng.random() < 0.8 else int(rng.choice(list(CATEGORIES))))
        masks = torch.zeros(len(boxes), image["height"], image["width"], dtype=torch.bool)
        for mask, box in zip(masks, boxes, strict=True):
            x1, y1, x2, y2 = (max(0, round(side)) for side in box)
            mask[y1:y2, x1:x2] = True
        detections.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "scores": torch.from_numpy(rng.uniform(0.01, 1, len(boxes)).astype(np.float32)),
                "category_ids": torch.tensor(categories, dtype=torch.int64),
                "masks": masks,
            }
        )
        size = (image["height"], image["width"])
        targets.append({"image_id": image["id"], "original_size": size, "annotations": annotations})
    return detections, targets


def evaluator(masks: bool = True) -> CocoEvaluator:
    return CocoEvaluator(list(CATEGORIES), list(CATEGORIES.values()), masks=masks)
