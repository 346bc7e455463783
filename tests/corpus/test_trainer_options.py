"""Wrong options of the trainer, the checkpoints and the run."""

from __future__ import annotations

import pytest

#: option, words of the line
BAD = [
    ("--trainer.max_epochs=0", "max_epochs", "at least 1"),
    ("--trainer.max_epochs=-2", "max_epochs", "-1"),
    ("--trainer.max_epochs=1.5", "max_epochs", "integer"),
    ("--trainer.max_epochs=abc", "max_epochs", "integer"),
    ("--trainer.max_epochs=[1]", "max_epochs", "integer"),
    ("--trainer.max_epochs", "max_epochs", "value"),
    ("--trainer.min_epochs=-1", "min_epochs", "at least 0"),
    ("--trainer.max_steps=0", "max_steps", "at least 1"),
    ("--trainer.max_steps=-5", "max_steps", "-1"),
    ("--trainer.max_steps=many", "max_steps", "integer"),
    ("--trainer.min_steps=-3", "min_steps", "at least 0"),
    ("--trainer.min_steps=7", "min_steps", "max_steps"),
    ("--trainer.max_time=abc", "max_time", "hours"),
    ("--trainer.max_time=12", "max_time", "hours"),
    ("--trainer.max_time=00:00", "max_time", "hours"),
    ("--trainer.max_time={minuts: 5}", "max_time", "hours"),
    ("--trainer.max_time={days: 1000000000000}", "max_time", "hours"),
    ("--trainer.max_time={minutes: -5}", "max_time", "hours"),
    ("--trainer.val_check_interval={minuts: 5}", "val_check_interval", "hours"),
    ("--trainer.val_check_interval=abc", "val_check_interval", "hours"),
    ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches", "at least 1"),
    ("--trainer.accumulate_grad_batches=-2", "accumulate_grad_batches", "at least 1"),
    ("--trainer.accumulate_grad_batches=0.5", "accumulate_grad_batches", "integer"),
    ("--trainer.gradient_clip_val=-1", "gradient_clip_val", "at least 0"),
    ("--trainer.gradient_clip_val=.nan", "gradient_clip_val", "number"),
    ("--trainer.gradient_clip_val=.inf", "gradient_clip_val", "number"),
    ("--trainer.gradient_clip_val=big", "gradient_clip_val", "number"),
    ("--trainer.gradient_clip_algorithm=foo", "gradient_clip_algorithm", "norm"),
    ("--trainer.limit_train_batches=-1", "limit_train_batches", "between"),
    ("--trainer.limit_train_batches=1.5", "limit_train_batches", "between"),
    ("--trainer.limit_train_batches=0", "limit_train_batches", "0 (not included)"),
    ("--trainer.limit_val_batches=-0.5", "limit_val_batches", "between"),
    ("--trainer.limit_val_batches=.nan", "limit_val_batches", "between"),
    ("--trainer.limit_test_batches=2.5", "limit_test_batches", "between"),
    ("--trainer.overfit_batches=-3", "overfit_batches", "between"),
    ("--trainer.val_check_interval=0", "val_check_interval", "between"),
    ("--trainer.val_check_interval=-0.5", "val_check_interval", "between"),
    ("--trainer.val_check_interval=1.5", "val_check_interval", "between"),
    ("--trainer.val_check_interval=1000", "val_check_interval", "batches"),
    ("--trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch", "at least 1"),
    ("--trainer.num_sanity_val_steps=-2", "num_sanity_val_steps", "at least -1"),
    ("--trainer.log_every_n_steps=0", "log_every_n_steps", "at least 1"),
    ("--trainer.log_every_n_steps=-5", "log_every_n_steps", "at least 1"),
    ("--trainer.num_nodes=0", "num_nodes", "at least 1"),
    ("--trainer.num_nodes=2", "num_nodes", "MASTER_ADDR"),
    ("--trainer.barebones=true", "barebones", "checkpoints"),
    ("--trainer.devices=0", "devices", "at least 1"),
    ("--trainer.devices=-3", "devices", "at least 1"),
    ("--trainer.devices=-1", "devices", "on the CPU"),
    ("--trainer.devices=[0]", "devices", "on the CPU"),
    ("--trainer.devices=0,1", "devices", "on the CPU"),
    ("--trainer.devices=many", "devices", "at least 1"),
    ("--trainer.devices=[]", "devices", "at least 1"),
    ("--trainer.devices={a: 1}", "devices", "at least 1"),
    ("--trainer.devices=1.5", "devices", "at least 1"),
    ("--trainer.accelerator=gpuu", "accelerator", "gpu"),
    ("--trainer.accelerator=3", "accelerator", "cpu"),
    ("--trainer.strategy=dpp", "strategy", "ddp"),
    ("--trainer.strategy=foo", "strategy", "auto"),
    ("--trainer.strategy=ddp_spawn", "strategy", "ddp or fsdp"),
    ("--trainer.strategy=ddp_notebook", "strategy", "ddp or fsdp"),
    ("--trainer.strategy=ddp_fork_find_unused_parameters_true", "strategy", "ddp or fsdp"),
    ("--trainer.strategy={class_path: DDPStrategy, init_args: {start_method: spawn}}", "strategy", "ddp or fsdp"),
    ("--trainer.precision=17", "precision", "bf16-mixed"),
    ("--trainer.precision=bf16-mixd", "precision", "bf16-mixed"),
    ("--trainer.precision=32-tru", "precision", "32-true"),
    ("--trainer.profiler=foo", "profiler", "simple"),
    ("--trainer.profiler=simpel", "profiler", "'simple'"),
    ("--trainer.logger=foo", "logger", "CSVLogger"),
    ("--trainer.logger=CSVLoger", "logger", "'CSVLogger'"),
    ("--trainer.logger={class_path: CSVLogger, init_args: {folder: x}}", "logger", "CSVLogger", "folder"),
    ("--trainer.logger={class_path: no.such.Logger}", "logger", "no.such"),
    ("--trainer.callbacks=foo", "callbacks", "foo"),
    ("--trainer.callbacks=[{class_path: EarlyStoping}]", "callbacks", "EarlyStopping"),
    ("--trainer.callbacks=[{class_path: torch.nn.Linear}]", "callbacks", "Linear"),
    ("--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitr: x}}]", "callbacks", "'monitor'"),
    ("--trainer.callbacks=[3]", "callbacks=[3]", "class_path"),
    ("--trainer.callbacks={a: 1}", "callbacks={'a': 1}", "class_path"),
    ("--trainer.callbacks={class_path: EarlyStoping}", "callbacks", "'EarlyStopping'"),
    ("--trainer.logger={a: 1}", "logger={'a': 1}", "class_path"),
    ("--trainer.plugins={a: 1}", "plugins={'a': 1}", "class_path"),
    ("--trainer.plugins=[3]", "plugins=[3]:", "class_path"),
    ("--trainer.plugins={class_path: TorchSyncBatchNor}", "plugins", "'TorchSyncBatchNorm'"),
    ("--trainer.callbacks={}", "trainer.callbacks={}", "class_path"),
    ("--trainer.callbacks=[{class_path: LearningRateMonitor}, {}]", "trainer.callbacks={}", "class_path"),
    ("--trainer.plugins={}", "trainer.plugins={}", "class_path"),
    ("--trainer.plugins=[{}]", "trainer.plugins={}", "class_path"),
    ("--trainer.enable_progress_bar=maybe", "enable_progress_bar", "true or false"),
    ("--trainer.deterministic=perhaps", "deterministic", "true or false"),
    ("--trainer.benchmark=3", "benchmark", "true or false"),
    ("--trainer.reload_dataloaders_every_n_epochs=-1", "reload_dataloaders_every_n_epochs", "at least 0"),
    ("--trainer.fast_dev_run=-1", "fast_dev_run", ">= 0"),
    ("--trainer={max_epochs: abc}", "max_epochs", "integer"),
    ("--trainer=10", "--trainer.max_epochs"),
    ("--trainer.max_epoch=3", "--trainer.max_epoch", "trainer.max_epochs"),
    ("--checkpoint.mode=foo", "checkpoint.mode", "min or max"),
    ("--checkpoint.monitor=val_loss", "checkpoint.monitor", "val/loss"),
    ("--checkpoint.monitor=val/top2", "checkpoint.monitor", "val/top1"),
    ("--checkpoint.save_top_k=-3", "save_top_k", "at least -1"),
    ("--checkpoint.save_top_k=abc", "save_top_k", "integer"),
    ("--checkpoint.every_n_train_steps=-1", "every_n_train_steps", "at least 0"),
    ("--seed_everything=-1", "seed_everything", "expected"),
    ("--seed_everything=4294967296", "seed_everything", "expected"),
    ("--seed_everything=abc", "seed_everything", "expected"),
]


@pytest.mark.parametrize(("option", "words"), [(row[0], row[1:]) for row in BAD], ids=[row[0] for row in BAD])
def test_is_refused(option, words, refused_in_fit) -> None:
    refused_in_fit("classification", [option], *words)


def test_no_gpu(refused_in_fit) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused_in_fit("classification", ["--trainer.accelerator=gpu"], "trainer.accelerator", "cpu")


@pytest.mark.parametrize(
    "option",
    [
        "--trainer.enable_checkpointing=false",
        "--trainer.profiler=simple",
        "--trainer.callbacks={class_path: LearningRateMonitor}",
        "--trainer.plugins={class_path: TorchSyncBatchNorm}",
        "--trainer.callbacks={class_path: lightning.pytorch.callbacks.RichModelSummary}",
    ],
)
def test_works(option, fit_one_step, capfd) -> None:
    assert fit_one_step("classification", [option]) == 0, capfd.readouterr().err
