"""Train a student of a captured language model with TRL's SFTTrainer, not patched (pip install trl)."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

import softpack

WORDS = ["<pad>", "<s>", "</s>", *(f"word{number}" for number in range(16))]


def make_model(width: int, seed: int) -> PreTrainedModel:
    """Return a small model with random weights, large enough that it has opinions."""
    set_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": width, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(WORDS), **sizes, initializer_range=0.3, pad_token_id=0, eos_token_id=2)
    return LlamaForCausalLM(config)


class Distiller(SFTTrainer):
    """An SFTTrainer whose loss is KL(teacher || student)."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Return the loss of a batch of `softpack.LabelCollator`."""
        soft, _ = inputs.pop("soft_labels"), inputs.pop("labels")
        outputs = model(**inputs)
        loss = softpack.losses.kl(soft.student(outputs.logits), soft.read(collator.labels), temperature=1)
        return (loss, outputs) if return_outputs else loss


if __name__ == "__main__":
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    backend = Tokenizer(models.WordLevel({word: token for token, word in enumerate(WORDS)}, "<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS[3:], length)) for length in random.integers(4, 24, 64)]
    softpack.capture(make_model(32, seed=1), texts, path, "topk", tokenizer=tokenizer, k=8, tail="bucket")
    labels = softpack.open(path)
    labels.check_fingerprints(tokenizer=tokenizer)  # another tokenizer's tokens would mean something else
    examples = [{"item": item, "input_ids": labels.tokens(item).tolist()} for item in range(len(texts))]
    collator = softpack.LabelCollator(labels, pad_token_id=tokenizer.pad_token_id)
    arguments = SFTConfig(
        output_dir=str(path.parent), num_train_epochs=20, per_device_train_batch_size=16, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        remove_unused_columns=False,  # or it drops the item, which says where the labels are
    )  # fmt: skip
    student, dataset = make_model(16, seed=2), Dataset.from_list(examples)
    trainer = Distiller(student, arguments, collator, dataset, processing_class=tokenizer)
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean: divide it by gradient_accumulation_steps
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    print(f"KL: {np.mean(losses[:4]):.2f} at first, {np.mean(losses[-4:]):.2f} after {len(losses)} steps")
