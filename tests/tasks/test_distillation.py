"""If these fail, a student learns something else than its teacher's logits, or the teacher learns, too."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask
from dyvision.tasks.distillation import distillation_loss

SMALL = {"backbone": "mobilenetv2_035", "num_classes": 3, "class_names": ["a", "b", "c"]}
TASKS = {"classification": ClassificationTask, "segmentation": SegmentationTask}


def build(task: str, **options):
    return TASKS[task](**{**SMALL, **({"head": "fcn"} if task == "segmentation" else {}), **options})


def batch(task: str) -> dict:
    images = torch.randn(3, 3, 32, 40)
    if task == "classification":
        return {"image": images, "label": torch.tensor([0, 2, 1])}
    mask = torch.randint(3, (3, 32, 40))
    mask[0, :, :20] = 255
    return {"image": images, "mask": mask}


@pytest.fixture
def teacher(tmp_path):
    """A function that writes a dynamic teacher's checkpoint."""

    def write(task: str, data: dict | None = None, **options):
        made = build(task, layer="dyconv", **options)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
        trainer.strategy.connect(made)
        made._trainer = trainer
        path = tmp_path / f"{task}.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        if data is not None:
            torch.save({**torch.load(path, weights_only=True), "datamodule_hyper_parameters": data}, path)
        return str(path)

    return write


class Data(L.LightningDataModule):
    """What a data module says of the student's images and classes."""

    def __init__(self, mean=None, std=None, class_names=None) -> None:
        super().__init__()
        self.normalised, self.class_names = None if mean is None else (mean, std), class_names

    def statistics(self):
        return self.normalised


def learning(task: str, path: str, data: Data | None = None, **options):
    """A student with its teacher, as ``trainer.fit`` sets it up."""
    student = build(task, teacher=path, **options)
    student._trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    student._trainer.datamodule = data
    student.setup("fit")
    student._trainer = None
    return student


def test_the_divergence_written_out() -> None:
    student, taught = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    counts = torch.rand(2, 3, 5) < 0.6
    found = distillation_loss(student, taught, 3.0, counts)
    each = []
    for sample, y, x in counts.nonzero().tolist():
        p = (taught[sample, :, y, x] / 3).softmax(0)
        q = (student[sample, :, y, x] / 3).softmax(0)
        each.append(float((p * (p / q).log()).sum()))
    assert float(found) == pytest.approx(9 * sum(each) / len(each), rel=1e-5)
    assert float(distillation_loss(student, taught, 3.0, counts & False)) == 0
    assert float(distillation_loss(taught, taught, 1.0)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_has_it_and_only_the_student_learns(task, teacher) -> None:
    torch.manual_seed(0)
    path, one = teacher(task), batch(task)
    student = learning(task, path, teacher_weight=0.7, teacher_temperature=2.0).eval()  # as norms of both see it
    alone = build(task).eval()
    alone.load_state_dict(student.state_dict())
    known = TASKS[task].load_from_checkpoint(path).eval()
    counts = None if task == "classification" else one["mask"] != 255
    with torch.no_grad():
        divergence = distillation_loss(student(one["image"]), known(one["image"]), 2.0, counts)
    loss, own = student._step(one, "train"), alone._step(one, "train")
    assert float(divergence) > 0
    torch.testing.assert_close(loss, own + 0.7 * divergence, rtol=1e-4, atol=1e-5)

    loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
    (hidden,) = student._teacher
    assert not hidden.training and not any(parameter.requires_grad for parameter in hidden.parameters())
    assert all(parameter.grad is None for parameter in hidden.parameters())
    assert student.state_dict().keys() == alone.state_dict().keys()
    assert len(list(student.parameters())) == len(list(alone.parameters()))
    student.train()
    assert not hidden.training


def test_no_teacher_is_read_where_nothing_is_learnt(tmp_path) -> None:
    missing = str(tmp_path / "missing.ckpt")
    without = learning("classification", missing, teacher_weight=0)
    assert not without._teacher
    student = build("classification", teacher=missing)
    student._trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    student.setup("validate")
    with pytest.raises(FileNotFoundError, match=r"model\.teacher .*missing\.ckpt"):
        student.setup("fit")


def test_teachers_of_something_else_are_refused(teacher) -> None:
    path = teacher("classification", class_names=["a", "c", "d"])
    with pytest.raises(ValueError, match=r"class_names are a, c, d, those of the student a, b, c; it does not know b"):
        learning("classification", path)
    path = teacher("classification", in_chans=1)
    with pytest.raises(ValueError, match=r"in_chans is 1, that of the student 3"):
        learning("classification", path)
    path = teacher("classification", num_classes=2, class_names=None)
    with pytest.raises(ValueError, match=r"num_classes is 2, that of the student 3"):
        learning("classification", path)
    with pytest.raises(ValueError, match=r"model\.teacher .*of task 'classification'.*give a teacher of that task"):
        learning("segmentation", path)
    for name, value in (("teacher_weight", -1), ("teacher_temperature", 0)):
        with pytest.raises(ValueError, match=name):
            build("classification", **{name: value})
    with pytest.raises(TypeError, match="teacher"):
        DetectionTask(teacher=path)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_teacher_sees_images_as_in_its_own_training(task, channels, teacher) -> None:
    torch.manual_seed(0)
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}
    path = teacher(task, own, in_chans=channels)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.4], [0.2])
    student = learning(task, path, Data(mean, std), in_chans=channels)
    pixels = torch.rand(2, channels, 32, 32)

    def normalised(values, mean, std):
        return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    if channels == 1:  # as the data module does with three numbers
        own = {name: [0.299 * red + 0.587 * green + 0.114 * blue] for name, (red, green, blue) in own.items()}
    (found,) = student._teacher
    seen: list[torch.Tensor] = []
    first = next(module for module in found.task.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found(normalised(pixels, mean, std))
    torch.testing.assert_close(seen[0], normalised(pixels, **own), rtol=1e-4, atol=1e-5)


def test_the_same_statistics_leave_images_alone(teacher) -> None:
    own = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
    path = teacher("classification", own)
    (found,) = learning("classification", path, Data([0.5, 0.4, 0.3], [0.5, 0.25, 0.2]))._teacher
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), ClassificationTask.load_from_checkpoint(path).eval()(images))


def test_statistics_that_are_not_known_are_told(teacher) -> None:
    path = teacher("classification", {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]})
    with pytest.warns(UserWarning, match=r"mean 0\.5 0\.4 0\.3, std .*the student's .* not known"):
        learning("classification", path, Data())
    path = teacher("classification")
    with pytest.warns(UserWarning, match=r"does not say what its images were normalised with"):
        learning("classification", path, Data([0.5] * 3, [0.5] * 3))
    path = teacher("classification", {"mean": [0.5, 0.4], "std": [0.5, 0.25, 0.2]})
    with pytest.raises(ValueError, match=r"model\.teacher .*mean=\[0\.5, 0\.4\]: expected 3 numbers"):
        learning("classification", path, Data([0.5] * 3, [0.5] * 3))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("names", [["c", "a", "b"], ["b", "x", "c", "y", "a"]])
def test_classes_of_a_teacher_are_found_by_their_names(task, names, teacher) -> None:
    torch.manual_seed(0)
    path = teacher(task, num_classes=len(names), class_names=names)
    images = torch.randn(2, 3, 32, 32)
    (found,) = learning(task, path)._teacher
    with torch.no_grad():
        all_logits = TASKS[task].load_from_checkpoint(path).eval()(images)
        logits = found(images)
    assert logits.shape[1] == 3
    for number, name in enumerate(["a", "b", "c"]):
        torch.testing.assert_close(logits[:, number], all_logits[:, names.index(name)])


def test_classes_that_the_user_named_otherwise_are_those_of_the_data(teacher) -> None:
    path = teacher("classification", class_names=["b", "a", "c"])
    with pytest.warns(UserWarning, match="the task's names are kept"):
        student = learning("classification", path, Data(class_names=["a", "b", "c"]), class_names=["A", "B", "C"])
    assert student._teacher[0].order.tolist() == [1, 0, 2]
    with pytest.warns(UserWarning, match="the task's names are kept"):
        student = learning("classification", path, Data(class_names=["1", "2", "3"]))
    assert student._teacher[0].order.tolist() == [1, 0, 2]


def test_what_a_teacher_was_trained_with_is_not_looked_up(teacher) -> None:
    path = teacher("classification")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["optimizer"] = {"class_path": "somebody.Optimizer"}
    torch.save(content, path)
    assert learning("classification", path)._teacher
    content["hyper_parameters"]["policy"] = {"class_path": "os.system"}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"os\.system"):
        learning("classification", path)


def test_a_checkpoint_does_not_choose_the_file_of_a_teacher(teacher, tmp_path) -> None:
    path = teacher("classification")
    content = torch.load(path, weights_only=True)
    assert "teacher" not in content["hyper_parameters"]
    content["hyper_parameters"]["teacher"] = "/etc/passwd"
    torch.save(content, path)
    with pytest.warns(UserWarning, match="teacher of the checkpoint not used"):
        assert ClassificationTask.load_from_checkpoint(path).hparams.teacher is None


def test_a_step_of_a_trainer(teacher) -> None:
    student = build("classification", teacher=teacher("classification"), lr=0.01)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    samples = [{"image": torch.randn(3, 32, 32), "label": index % 3} for index in range(4)]
    trainer.fit(student, DataLoader(samples, batch_size=2))
    assert float(trainer.callback_metrics["train/teacher_loss"]) > 0
