"""Capture a language model, train a smaller one with Hugging Face's Trainer (pip install transformers accelerate)."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments, set_seed

import softpack

VOCABULARY = 64


def make_model(width: int, seed: int) -> PreTrainedModel:
    """Return a small model with random weights, large enough that it has opinions."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_attention_heads=2,
        num_key_value_heads=2, num_hidden_layers=1, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Distiller(Trainer):
    """A Trainer whose loss is KL(teacher || student), and a little of the tokens themselves."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Return the loss of a batch of `softpack.LabelCollator`."""
        soft = inputs.pop("soft_labels")
        outputs = model(**inputs)  # with its own loss, of the hard labels
        student = soft.student(outputs.logits)
        loss = 0.9 * softpack.losses.kl(student, soft.read(collator.labels), temperature=1) + 0.1 * outputs.loss
        return (loss, outputs) if return_outputs else loss


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCABULARY, length) for length in random.integers(4, 24, 64)]
    softpack.capture(make_model(32, seed=1), texts, folder / "labels.spk", "topk", k=16, tail="bucket")
    labels = softpack.open(folder / "labels.spk")
    # The file holds the tokens too: the student needs nothing else.
    dataset = [{"item": item, "input_ids": labels.tokens(item)} for item in range(labels.shape[0])]
    collator = softpack.LabelCollator(labels, packed=64)  # several sequences a row; without it they are padded
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=40, per_device_train_batch_size=16, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,  # or it drops the item, which says where the labels are
    )  # fmt: skip
    trainer = Distiller(make_model(16, seed=2), arguments, collator, dataset)
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean: divide it by gradient_accumulation_steps
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss: {np.mean(losses[:4]):.2f} at first, {np.mean(losses[-4:]):.2f} after {len(losses)} steps")
