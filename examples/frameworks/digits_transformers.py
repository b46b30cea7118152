"""A Hugging Face Trainer with gradscope's callback: a small ViT on real digits, from scratch."""

import argparse

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from gradscope.integrations.transformers import GradscopeCallback


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="digits_transformers.html")
    arguments = parser.parse_args()

    set_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    data = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(images, digits.target, strict=True)
    ]
    size = {"hidden_size": 32, "intermediate_size": 64}
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, num_labels=10,
            num_hidden_layers=2, num_attention_heads=4, initializer_range=0.1, **size,
        )
    )  # fmt: skip
    watcher = GradscopeCallback(report=arguments.report, run_dir=arguments.run_dir)
    settings = TrainingArguments(
        output_dir="digits_output",
        max_steps=100,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        logging_steps=20,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, settings, train_dataset=data, callbacks=[watcher]).train()
    print(f"{watcher.scope.steps} steps, {len(watcher.diagnosis.findings)} findings")


if __name__ == "__main__":
    main()
