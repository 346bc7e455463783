"""Metrics over whole data sets: accuracy, mIoU, COCO's AP."""
